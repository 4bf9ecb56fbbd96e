"""Prefect's documented import paths: each name is at the same path here, or says that it is not there yet."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from orchestra.errors import NotThereYet
from tests.helpers import ROOT

#: By module below `orchestra` ("" is the root): names that are there. `Prefect…` reads `Orchestra…`.
THERE = {
    "": """
        flow task Flow Task State allow_failure unmapped tags get_client get_run_logger runtime pause_flow_run
        suspend_flow_run resume_flow_run apause_flow_run asuspend_flow_run aresume_flow_run
    """,
    "annotations": "allow_failure quote unmapped",
    "artifacts": """
        Artifact LinkArtifact MarkdownArtifact TableArtifact ImageArtifact ProgressArtifact create_link_artifact
        create_markdown_artifact create_table_artifact create_image_artifact create_progress_artifact
        update_progress_artifact acreate_link_artifact acreate_markdown_artifact acreate_table_artifact
        acreate_image_artifact acreate_progress_artifact aupdate_progress_artifact
    """,
    "cache_policies": "CachePolicy INPUTS TASK_SOURCE RUN_ID FLOW_PARAMETERS NO_CACHE NONE DEFAULT",
    "client.orchestration": "get_client OrchestraClient SyncOrchestraClient",
    "client.schemas.filters": """
        FlowFilter FlowFilterId FlowFilterName FlowRunFilter FlowRunFilterId FlowRunFilterName FlowRunFilterState
        FlowRunFilterDeploymentId
        FlowRunFilterStateName FlowRunFilterStateType FlowRunFilterTags FlowRunFilterStartTime FlowRunFilterEndTime
        FlowRunFilterExpectedStartTime FlowRunFilterParentFlowRunId FlowRunFilterWorkQueueName
        FlowRunFilterFlowVersion FlowRunFilterIdempotencyKey TaskRunFilter TaskRunFilterId TaskRunFilterName
        TaskRunFilterState TaskRunFilterStateName TaskRunFilterStateType TaskRunFilterTags TaskRunFilterFlowRunId
        TaskRunFilterStartTime TaskRunFilterExpectedStartTime LogFilter LogFilterLevel LogFilterTimestamp
        LogFilterFlowRunId LogFilterTaskRunId ArtifactFilter ArtifactFilterKey ArtifactCollectionFilter
    """,
    "client.schemas.objects": "Flow FlowRun TaskRun Log State StateDetails StateType Artifact Variable",
    "client.schemas.sorting": "FlowRunSort TaskRunSort FlowSort LogSort ArtifactSort ArtifactCollectionSort",
    "context": "FlowRunContext TaskRunContext get_run_context tags",
    "events": "emit_event Event Resource RelatedResource get_events_client get_events_subscriber",
    "exceptions": """
        OrchestraException OrchestraSignal CrashedRun FailedRun CancelledRun UnfinishedRun MissingResult
        MissingContextError MissingFlowError MissingProfileError ScriptError ParameterTypeError ParameterBindError
        SignatureMismatchError ReservedArgumentError ObjectNotFound UpstreamTaskError MappingLengthMismatch
        MappingMissingIterable SerializationError ConfigurationError InvalidNameError FlowPauseTimeout
        FlowRunWaitTimeout NotPausedError TerminationSignal ProfileSettingsValidationError
    """,
    "flow_runs": """
        pause_flow_run suspend_flow_run resume_flow_run apause_flow_run asuspend_flow_run aresume_flow_run
    """,
    "deployments": "Deployment run_deployment arun_deployment deploy initialize_project",
    "docker": "DockerImage",
    "flows": "Flow flow load_flow_from_entrypoint serve deploy",
    "futures": "OrchestraFuture OrchestraFutureList as_completed wait",
    "concurrency.asyncio": "concurrency rate_limit AcquireConcurrencySlotTimeoutError ConcurrencySlotAcquisitionError",
    "concurrency.sync": "concurrency rate_limit",
    "input": "RunInput RunInputMetadata send_input receive_input",
    "locking.filesystem": "FileSystemLockManager",
    "locking.memory": "MemoryLockManager",
    "logging": "get_run_logger get_logger disable_run_logger flow_run_logger task_run_logger",
    "results": "ResultStore ResultRecord get_result_store",
    "runtime": "flow_run task_run deployment",
    "server": "create_app",
    "schedules": "Schedule Cron Interval RRule",
    "states": """
        State StateType Scheduled Pending Running Completed Failed Crashed Cancelling Cancelled Paused Suspended Late
        AwaitingRetry AwaitingConcurrencySlot Retrying
        get_state_exception raise_state_exception is_state
    """,
    "task_runners": "TaskRunner ThreadPoolTaskRunner ProcessPoolTaskRunner OrchestraTaskRunner",
    "task_worker": "serve",
    "tasks": "Task task exponential_backoff task_input_hash",
    "testing.utilities": "orchestra_test_harness prefect_test_harness",
    "transactions": """
        transaction atransaction get_transaction CommitMode IsolationLevel Transaction AsyncTransaction TransactionState
    """,
    "utilities.annotations": "allow_failure quote unmapped opaque freeze",
}

#: Names whose place is decided, and which a later version will have there.
NOT_YET = {
    "automations": "Automation EventTrigger CompoundTrigger SequenceTrigger RunDeployment CancelFlowRun",
    "blocks.core": "Block",
    "blocks.system": "Secret JSON String DateTime",
    "client.schemas.filters": "DeploymentFilter DeploymentFilterId WorkPoolFilter",
    "events": "DeploymentEventTrigger EventTrigger",
    "flows": "aserve adeploy",
}


def pairs(inventory: dict[str, str]) -> list[tuple[str, str]]:
    """Each module of an inventory with each of its names."""
    return [(f"orchestra.{module}".rstrip("."), name) for module, names in inventory.items() for name in names.split()]


@pytest.mark.parametrize(("module", "name"), pairs(THERE))
def test_a_documented_name_is_at_its_path(module: str, name: str) -> None:
    """So that porting a program is one search-and-replace."""
    if (module, name) == ("orchestra", "runtime"):
        import_module("orchestra.runtime")

    assert getattr(import_module(module), name) is not None


@pytest.mark.parametrize("path", ["runtime.flow_run.id", "states.Completed", "context.get_run_context", "futures.wait"])
def test_importing_orchestra_is_enough_for_its_modules(path: str) -> None:
    """As programs write it that say no more than `import orchestra`."""
    code = f"import orchestra; orchestra.{path}"

    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(("module", "name"), pairs(NOT_YET))
def test_a_name_that_is_not_built_says_so(module: str, name: str) -> None:
    """When it is imported: nothing stands in for it that does nothing."""
    with pytest.raises(NotThereYet, match=f"{module}.{name} is not there yet") as told:
        exec(f"from {module} import {name}")

    assert isinstance(told.value, ImportError)


@pytest.mark.parametrize("module", sorted({*THERE, *NOT_YET} - {""}))
def test_other_names_are_missing_as_anywhere(module: str) -> None:
    """A misspelled name is no promise."""
    assert not hasattr(import_module(f"orchestra.{module}"), "no_such_name")
