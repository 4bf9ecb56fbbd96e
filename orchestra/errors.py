"""Every error orchestra raises, in one tree, and the signals that are not errors.

An error's constructor takes the facts and keeps them as attributes; the sentence says what happened and what
to do. Signals derive from BaseException, so that a body's `except Exception` does not eat them.
"""

from __future__ import annotations

from typing import Any


class OrchestraError(Exception):
    """Root of all errors of orchestra."""


# -- wrong use ---------------------------------------------------------------------------------------------------


class ConfigurationError(OrchestraError, ValueError):
    """A setting is missing or wrong."""


class NoBroker(ConfigurationError):
    """Neither a Celery app nor a broker is configured."""

    def __init__(self) -> None:
        super().__init__(
            "there is neither a Celery app nor a broker to send runs through: run `orchestra dev` in another "
            "terminal, or set ORCHESTRA_BROKER_URL, or call orchestra.celery.install(app) beside your Celery app"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (), self.__dict__


class DatabaseNeeded(ConfigurationError):
    """Something needs the database itself, and only the address of a server is known."""

    def __init__(self, api_url: str, own: str = "") -> None:
        super().__init__(api_url, own)
        self.api_url = api_url
        #: The database of this home, which may be that server's all the same.
        self.own = own

    def __str__(self) -> str:
        this = f"; where that is the server of this home, set ORCHESTRA_DATABASE_URL={self.own}" if self.own else ""
        return (
            f"this needs the database itself, and ORCHESTRA_API_URL={self.api_url!r} names a server only: set "
            "ORCHESTRA_DATABASE_URL to that server's database too, and ORCHESTRA_BROKER_URL to its broker, or unset "
            "ORCHESTRA_API_URL (`orchestra logout` where it stands in a profile)"
            f"{this}"
        )


class SecretKeyMismatch(ConfigurationError):
    """This process signs with another key than the database was written with."""


class InvalidEvent(OrchestraError, ValueError):
    """An event that is to be emitted lacks a part, or has one that cannot be."""


class DefinitionError(OrchestraError, TypeError):
    """A flow or task is declared or used in a way that cannot work."""


class ReservedArgumentError(DefinitionError):
    """A flow's or task's parameter has a name that orchestra keeps for itself."""


class NotImportable(DefinitionError):
    """A worker could not import this flow or task: it lives in `__main__`, a notebook, a lambda or a function."""


class StaticFlowError(DefinitionError):
    """A flow body cannot be drawn as one canvas before it runs."""

    def __init__(self, flow: str, what: str, where: str = "") -> None:
        """Name the fault.

        Args:
            flow: The flow's name.
            what: What its body does, as in "looks into the result of task 'count'".
            where: `file:line` of the body.
        """
        super().__init__(flow, what, where)
        self.flow, self.what, self.where = flow, what, where

    def __str__(self) -> str:
        at = f"at {self.where} " if self.where else ""
        return (
            f"flow {self.flow!r} cannot be drawn as one canvas: {at}it {self.what}, and a canvas is drawn before "
            "anything runs. The flow still runs step by step, without static=True: start it with .delay()"
        )


class GraphvizNotFound(OrchestraError, ImportError):
    """A flow cannot be drawn here: Graphviz is not installed."""

    def __init__(self, missing: str) -> None:
        super().__init__(missing)
        self.missing = missing

    def __str__(self) -> str:
        return (
            f"a flow is drawn by Graphviz, and {self.missing} is not installed: `pip install graphviz`, and the "
            "program by your system's packages (`apt install graphviz`). Without it, "
            "`orchestra flow canvas MODULE:FLOW --mermaid` prints a graph for Markdown"
        )


class ImageNotBuilt(OrchestraError):
    """The image of a deployment was not built or pushed."""

    def __init__(self, image: str, reason: str) -> None:
        super().__init__(image, reason)
        self.image, self.reason = image, reason

    def __str__(self) -> str:
        return (
            f"the image {self.image!r} was not built: {self.reason}. Mend that, or deploy with build=False (and "
            "push=False) where the image is there already"
        )


class SourceUnavailable(OrchestraError):
    """The code of a deployment cannot be had from where it is kept."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)
        self.source, self.reason = source, reason

    def __str__(self) -> str:
        return f"the code at {self.source!r} cannot be had: {self.reason}"


class NotThereYet(OrchestraError, ImportError):
    """A name of Prefect's whose place is decided, and which is not built yet."""

    def __init__(self, module: str, name: str, what: str) -> None:
        super().__init__(module, name, what)
        self.module, self.wanted, self.what = module, name, what

    def __str__(self) -> str:
        return f"{self.module}.{self.wanted} is not there yet: {self.what} will have this place in a later version"


class ForeignThread(OrchestraError, RuntimeError):
    """Orchestra was called from a thread that a flow body started itself, so its order cannot be journaled."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return (
            f"{self.what} was called from a thread that the flow body started itself; the order of such calls "
            "cannot be replayed. Use .submit()/.map(), or make the thread's function a task"
        )


# -- parameters and values ---------------------------------------------------------------------------------------


class ParameterError(OrchestraError, TypeError):
    """Parameters do not fit a flow's or task's signature."""


class ParameterTypeError(ParameterError):
    """A parameter's value does not fit its annotation."""


class ParameterBindError(ParameterError):
    """Arguments cannot be bound to the signature."""


class SignatureMismatchError(ParameterError):
    """Parameters were given that the signature has not."""


class InvalidRunInput(OrchestraError, ValueError):
    """What a flow run was given is not what it waits for."""

    def __init__(self, what: str, *problems: str) -> None:
        """Name the faults.

        Args:
            what: What was given, as in "the input of flow run 1234".
            problems: What is wrong with it, each with the field that it is about.
        """
        super().__init__(what, *problems)
        self.what, self.problems = what, problems

    def __str__(self) -> str:
        return f"{self.what} does not fit: {'; '.join(self.problems)}"


class MappingLengthMismatch(OrchestraError, ValueError):
    """The iterables given to `.map()` have different lengths."""


class MappingMissingIterable(OrchestraError, ValueError):
    """None of the arguments given to `.map()` is iterable."""


class SerializationError(OrchestraError, TypeError):
    """A value cannot be written, or what was written cannot be read."""


class NoDigest(SerializationError):
    """A value has no digest: some part of it cannot be told apart from others."""


class ValueTooLarge(SerializationError):
    """An encoded value is over its cap."""

    def __init__(self, what: str, size: int, cap: int) -> None:
        super().__init__(what, size, cap)
        self.what, self.size, self.cap = what, size, cap

    def __str__(self) -> str:
        return (
            f"{self.what} is {self.size:,} bytes when encoded; at most {self.cap:,} are kept. Store the data "
            "elsewhere and hand on a reference to it"
        )


class SignatureInvalid(SerializationError):
    """A stored value was not signed with this installation's key; it was not loaded."""


class ResultCorrupt(SerializationError):
    """A stored result is damaged: its SHA-256 does not match what was written."""


# -- outcomes ----------------------------------------------------------------------------------------------------


class RunFailed(OrchestraError):
    """A run ended in a state that is not COMPLETED, and no exception of its own is kept."""


class TaskFailed(RunFailed):
    """A task failed with an exception that cannot be carried; its type and traceback are kept as text."""

    def __init__(self, type_name: str, message: str, traceback: str = "") -> None:
        super().__init__(type_name, message, traceback)
        self.type_name, self.message, self.traceback = type_name, message, traceback

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}" + (f"\n{self.traceback}" if self.traceback else "")


class FailedRun(RunFailed):
    """A run ended FAILED."""


class CrashedRun(RunFailed):
    """A run ended CRASHED: its worker died too often while running it."""


class CancelledRun(RunFailed):
    """A run was cancelled."""


class UpstreamFailed(RunFailed):
    """A task was not run because one that it depends on did not succeed."""

    def __init__(self, culprit: str, reason: str = "") -> None:
        super().__init__(culprit, reason)
        self.culprit, self.reason = culprit, reason

    def __str__(self) -> str:
        return f"not run, because {self.culprit!r} did not succeed" + (f": {self.reason}" if self.reason else "")


class UnfinishedRun(OrchestraError, RuntimeError):
    """The result of a run was asked for before it ended."""


class MissingResult(OrchestraError):
    """The result of a run was not kept."""


class RunTimeout(OrchestraError, TimeoutError):
    """A flow or task ran longer than its `timeout_seconds`."""


class ResultTimeout(OrchestraError, TimeoutError):
    """A result did not come within the time given; the run goes on."""


class PauseTimeout(OrchestraError, TimeoutError):
    """A paused flow run was not resumed in time."""


class InputTimeout(OrchestraError, TimeoutError):
    """A flow run that waited for input was sent none in time."""


class AcquireConcurrencySlotTimeoutError(OrchestraError, TimeoutError):
    """No slot of a concurrency limit was free in time."""


class ConcurrencySlotAcquisitionError(OrchestraError):
    """A slot of a concurrency limit cannot be had: there is no such limit, or it never has so many."""


class ConcurrencySlotLost(OrchestraError):
    """The lease of a slot was over before its block was: another process may have had the slot meanwhile."""


class NotSuspendable(OrchestraError, RuntimeError):
    """A flow run that was called in a process cannot be suspended: nothing else could go on with it."""

    def __init__(self, flow: str) -> None:
        super().__init__(flow)
        self.flow = flow

    def __str__(self) -> str:
        return (
            f"this run of flow {self.flow!r} was called in a process, so that no worker could go on with it after it "
            "was suspended: start it on a worker (`.delay()`, or `orchestra flow-run create`), where a suspended run "
            "holds nothing, or wait here with pause_flow_run()"
        )


class NonDeterministic(OrchestraError):
    """A flow body did not ask for the steps its journal holds."""

    def __init__(self, branch: str, position: int, recorded: str | None, asked: str | None) -> None:
        super().__init__(branch, position, recorded, asked)
        self.branch, self.position, self.recorded, self.asked = branch, position, recorded, asked

    def __str__(self) -> str:
        recorded = repr(self.recorded) if self.recorded else "nothing"
        asked = f"asks for {self.asked!r}" if self.asked else "has ended"
        return (
            f"replay of the flow body differs from its journal: at position {self.position} of branch "
            f"{self.branch!r} the journal holds {recorded}, the body {asked}. Nothing was run. Mend the code and "
            "run `orchestra flow-run retry`, or cancel the run"
        )


class TransactionHookFailed(OrchestraError):
    """Hooks of a transaction failed in all their tries."""

    #: What happened to the transaction.
    what = "was ended"
    todo = ""

    def __init__(self, failed: list[str], transaction: str | None = None) -> None:
        """Name them.

        Args:
            failed: Of each hook its name and why it failed, as one text.
            transaction: The key of the transaction, where it is one of a flow run.
        """
        super().__init__(failed, transaction)
        self.failed, self.transaction = failed, transaction

    def __str__(self) -> str:
        named = "the transaction" if self.transaction is None else f"transaction {self.transaction!r}"
        return f"{named} {self.what}, but {len(self.failed)} of its hooks failed: {'; '.join(self.failed)}{self.todo}"


class RollbackFailed(TransactionHookFailed):
    """A transaction was rolled back, and a rollback hook failed: something is not undone."""

    what = "was rolled back"
    todo = ". What they were to undo is still there: undo it, or mend them and retry them (`orchestra transaction`)"


class CommitHookFailed(TransactionHookFailed):
    """A transaction was committed, and stays so, but a commit hook failed."""

    what = "was committed"


# -- things that are not there, or in the way --------------------------------------------------------------------


class NotFound(OrchestraError, LookupError):
    """There is no such thing."""


class FlowRunNotFound(NotFound):
    """There is no flow run with this id."""

    def __init__(self, flow_run_id: str) -> None:
        super().__init__(flow_run_id)
        self.flow_run_id = flow_run_id

    def __str__(self) -> str:
        return f"there is no flow run {self.flow_run_id!r}; `orchestra flow-run ls` lists the recent ones"


class TaskRunNotFound(NotFound):
    """There is no task run with this id."""

    def __init__(self, task_run_id: str) -> None:
        super().__init__(task_run_id)
        self.task_run_id = task_run_id

    def __str__(self) -> str:
        return f"there is no task run {self.task_run_id!r}; `orchestra task-run ls` lists the recent ones"


class FlowNotFound(NotFound):
    """There is no flow with this id or name."""

    def __init__(self, flow: str) -> None:
        super().__init__(flow)
        self.flow = flow

    def __str__(self) -> str:
        return f"there is no flow {self.flow!r}; `orchestra flow ls` lists those that ran"


class TransactionNotFound(NotFound):
    """A flow run has no such transaction, or several that could be meant."""

    def __init__(self, flow_run_id: str, key: str | None, known: list[str]) -> None:
        super().__init__(flow_run_id, key, known)
        self.flow_run_id, self.key, self.known = flow_run_id, key, known

    def __str__(self) -> str:
        wanted = "one transaction" if self.key is None else f"one transaction {self.key!r}"
        found = f"these are there: {', '.join(self.known)}" if self.known else "it has none of that name"
        return f"flow run {self.flow_run_id!r} does not have {wanted}; {found}"


class DeploymentNotFound(NotFound):
    """There is no deployment with this name or id."""

    def __init__(self, deployment: str) -> None:
        super().__init__(deployment)
        self.deployment = deployment

    def __str__(self) -> str:
        return (
            f"there is no deployment {self.deployment!r}; `orchestra deployment ls` lists them, and one is named as "
            "'flow/deployment'"
        )


class ScheduleNotFound(NotFound):
    """A deployment has no schedule with this slug or id."""

    def __init__(self, deployment: str, schedule: str) -> None:
        super().__init__(deployment, schedule)
        self.deployment, self.schedule = deployment, schedule

    def __str__(self) -> str:
        return (
            f"deployment {self.deployment!r} has no schedule {self.schedule!r}; "
            f"`orchestra deployment schedule ls {self.deployment}` lists its own, each by slug or id"
        )


class WorkerNotFound(NotFound):
    """There is no worker with this name, or several."""

    def __init__(self, worker: str, like_it: list[str]) -> None:
        super().__init__(worker, like_it)
        self.worker, self.like_it = worker, like_it

    def __str__(self) -> str:
        if self.like_it:
            return f"{self.worker!r} may be {' or '.join(self.like_it)}: give the whole name"
        return (
            f"there is no worker {self.worker!r}; `orchestra worker ls` lists those that live, and those that died "
            "lately"
        )


class WorkPoolNotFound(NotFound):
    """There is no work pool with this name."""

    def __init__(self, work_pool: str) -> None:
        super().__init__(work_pool)
        self.work_pool = work_pool

    def __str__(self) -> str:
        return (
            f"there is no work pool {self.work_pool!r}; `orchestra work-pool ls` lists them, and "
            f"`orchestra work-pool create {self.work_pool} --type process` makes it"
        )


class WorkQueueNotFound(NotFound):
    """A work pool has no queue with this name."""

    def __init__(self, work_pool: str, work_queue: str) -> None:
        super().__init__(work_pool, work_queue)
        self.work_pool, self.work_queue = work_pool, work_queue

    def __str__(self) -> str:
        return (
            f"work pool {self.work_pool!r} has no queue {self.work_queue!r}; "
            f"`orchestra work-queue ls --pool {self.work_pool}` lists its own"
        )


class DefinitionNotFound(NotFound):
    """The code of a flow or task cannot be imported here."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path!r} cannot be imported here: {self.reason}"


class OtherVersion(DefinitionNotFound):
    """The code of a flow is here in another version than the one that its run is pinned to."""

    def __init__(self, path: str, wanted: str, found: str | None) -> None:
        super().__init__(path, f"the run is pinned to version {wanted!r}, and {_version_text(found)} is here")
        self.args = (path, wanted, found)
        self.wanted, self.found = wanted, found


def _version_text(version: str | None) -> str:
    return "code without a version" if version is None else f"version {version!r}"


class LimitNotFound(NotFound):
    """There is no concurrency limit of this name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"there is no concurrency limit {name!r}: create it by `orchestra gcl create {name} --limit N`; "
            "`orchestra gcl ls` lists them"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name,), self.__dict__


class UserNotFound(NotFound):
    """There is no user of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"there is no user {self.name!r}; `orchestra user ls` lists them"


class ApiKeyNotFound(NotFound):
    """There is no API key of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"there is no API key {self.name!r}; `orchestra api-key ls` lists them"


class ArtifactNotFound(NotFound):
    """There is no such artifact."""

    def __init__(self, name: str) -> None:
        """Name what is missing.

        Args:
            name: The id or key that was asked for.
        """
        self.name = name
        super().__init__(f"there is no artifact {name}; `orchestra artifact ls --all` lists them")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name,), self.__dict__


class VariableNotFound(NotFound):
    """There is no variable of this name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"there is no variable {name!r}: set it by `orchestra variable set {name} VALUE`; "
            "`orchestra variable ls` lists them"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name,), self.__dict__


class InvalidArtifact(OrchestraError, ValueError):
    """An artifact cannot be kept as it is: its key, or what it shows."""


class InvalidVariable(OrchestraError, ValueError):
    """A variable cannot be kept as it is: its name, its value or its tags."""


class MissingContextError(OrchestraError, RuntimeError):
    """Something was asked for that exists only while a flow or task runs."""


class NotAllowed(OrchestraError):
    """Who asks may not do this."""

    def __init__(self, name: str, verb: str, what: str, scope: str) -> None:
        """Name what was refused.

        Args:
            name: Who asked.
            verb: What they wanted, as in "cancel".
            what: To what, as in "flow run 1234".
            scope: What would be needed, as in "run".
        """
        super().__init__(name, verb, what, scope)
        self.name, self.verb, self.what, self.scope = name, verb, what, scope

    def __str__(self) -> str:
        return f"{self.name!r} may not {self.verb} {self.what}: this needs the scope {self.scope!r}"


class Conflict(OrchestraError):
    """What was asked for does not fit the present state."""


class IllegalTransition(Conflict):
    """A run cannot go from its present state to the one asked for."""

    def __init__(self, run_id: str, state: str, wanted: str) -> None:
        super().__init__(run_id, state, wanted)
        self.run_id, self.state, self.wanted = run_id, state, wanted

    def __str__(self) -> str:
        return f"run {self.run_id} is {self.state}; it cannot be {self.wanted}"


class AlreadyThere(Conflict):
    """Something of this name is there already."""

    def __init__(self, what: str, name: str, remedy: str) -> None:
        """Name the double.

        Args:
            what: "work pool".
            name: Its name.
            remedy: What to do, as in "update it with `orchestra work-pool update`".
        """
        super().__init__(what, name, remedy)
        self.what, self.name, self.remedy = what, name, remedy

    def __str__(self) -> str:
        return f"there is a {self.what} {self.name!r} already: {self.remedy}"


class VariableExists(AlreadyThere, ValueError):
    """A variable of this name is set already."""

    def __init__(self, name: str) -> None:
        super().__init__("variable", name, "give overwrite=True, or `--overwrite` on the command line, to change it")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name,), self.__dict__


class IdempotencyConflict(Conflict):
    """An idempotency key was used again with other parameters."""


class CancelRequested(Conflict):
    """The run is being cancelled, so that it must not go on; what was about to be written is not."""


class ClaimLost(Conflict):
    """This process no longer holds the claim it works under; what it did since is not recorded."""


class StoreError(OrchestraError):
    """The database did not do what was asked."""


class StoreUnavailable(StoreError):
    """The database did not answer in time."""


class SearchTooLong(OrchestraError):
    """A search would have looked through very many records, and was broken off."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return (
            f"this search was broken off after {self.seconds:g} s: there is much to look through. Ask for less, as for "
            "one flow, deployment or run, for a state, or for a time; or sort by CREATED"
        )


class GraphTooLarge(OrchestraError):
    """A run's graph has more edges than are given one by one."""

    def __init__(self, flow_run_id: str, edges: int) -> None:
        super().__init__(flow_run_id, edges)
        self.flow_run_id, self.edges = flow_run_id, edges

    def __str__(self) -> str:
        return (
            f"the graph of flow run {self.flow_run_id!r} has {self.edges:,} edges, too many to be named one by one: "
            "its page shows it by task, and `orchestra task-run ls --flow-run` lists its tasks"
        )


class DbTransactionError(OrchestraError):
    """Rows cannot be committed together with the end of a task; nothing of them was."""


class DbTransactionTimeout(DbTransactionError):
    """A transaction of `db_transaction()` was open for too long, and was rolled back."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return (
            f"db_transaction() was open for longer than {self.seconds:g} s, a third of the lease, and was rolled "
            "back: prepare what takes time before the block, keep the block last in the body, or set "
            "ORCHESTRA_LEASE_SECONDS higher"
        )


class ResultStorageUnavailable(StoreError):
    """The storage of results did not do what was asked; what was to be kept there is not recorded, and tried again."""

    def __init__(self, storage: str, doing: str, reason: object) -> None:
        """Name the fault.

        Args:
            storage: Its URL, without secrets.
            doing: What was asked, as in "a result of 12 bytes cannot be written".
            reason: What it answered.
        """
        super().__init__(storage, doing, reason)
        self.storage, self.doing, self.reason = storage, doing, reason

    def __str__(self) -> str:
        return (
            f"{self.doing} ({type(self.reason).__name__}: {self.reason}): see that the result storage {self.storage!r} "
            "is there and that this process may use it; it is tried again"
        )


class SchemaMismatch(StoreError):
    """The database's schema is of another version than this code."""


class BrokerUnavailable(OrchestraError):
    """The broker did not answer in time; runs are kept, and announced when it is back."""


# -- signals -----------------------------------------------------------------------------------------------------


class Signal(BaseException):
    """Root of what ends a body from outside; not an error, so that `except Exception` lets it pass."""


class Parked(Signal):
    """The body waits for something that is not there; this segment ends and the slot is free."""


class Cancelled(Signal):
    """The run was cancelled."""


class Adrift(Signal):
    """The database is away; nothing more can be recorded here, and the run is taken up again when it is back."""


class Fenced(Signal):
    """Another process has claimed this row; nothing more may be written for it here."""

    def __init__(self, reason: str = "its claim was taken over") -> None:
        super().__init__(reason)


class Terminated(Fenced):
    """The worker ends this process; whoever claims the row next goes on."""

    def __init__(self, reason: str = "the worker ends its process") -> None:
        super().__init__(reason)
