"""The few upward calls: a name to "module:object", imported at first use and never before.

Everything else in orchestra imports downward only (CONTRIBUTING.md has the floors). Heavy packages (celery,
sqlalchemy, pydantic) stay unloaded until something of theirs is needed.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

#: What may be reached upward, and where it lives.
DOORS = {
    "local_runner": "orchestra.engine.local:runner",
    "memory_keeper": "orchestra.engine.keepers:MemoryKeeper",
    "silent_keeper": "orchestra.engine.keepers:SilentKeeper",
    "local_keeper": "orchestra.engine.keepers:LocalKeeper",
    "durable_keeper": "orchestra.engine.transacting_durably:DurableKeeper",
    "task_transaction": "orchestra.engine.transacting:task_transaction",
    "transacting": "orchestra.engine.transacting",
    "restored_transaction": "orchestra.engine.transaction_hooks:restored",
    "rollbacks": "orchestra.engine.rollbacks",
    "processes": "orchestra.runners.processes:ProcessPool",
    "slots": "orchestra.engine.slots",
    "remote_runner": "orchestra.runners.remote:RemoteRunner",
    "remote_carrier": "orchestra.celery.dispatch:remote_carrier",
    "validate_parameters": "orchestra.engine.validation:validate",
    "serialize_parameters": "orchestra.engine.validation:serialize",
    "definitions": "orchestra.engine.definitions",
    "explain_cache_key": "orchestra.engine.cache_keys:explain",
    "draw_flow": "orchestra.engine.drawing:show",
    "submit_flow_run": "orchestra.celery.submit:submit_flow_run",
    "backend": "orchestra.client.backend:backend",
    "http_backend": "orchestra.client.http:HttpBackend",
    "database": "orchestra.store.database:database",
    "db_transaction": "orchestra.engine.atomic:block",
    "heart": "orchestra.engine.heartbeat:heart",
    "run_segment": "orchestra.engine.segment:run_segment",
    "carry_out_job": "orchestra.workers.base:carry_out",
    "run_step": "orchestra.engine.step:run_step",
    "run_hooks": "orchestra.engine.owed:run_hooks",
    "require_installed": "orchestra.celery.apps:require_installed",
    "current_app": "orchestra.celery.apps:current_app",
    "enclosing_celery_task": "orchestra.celery.apps:enclosing_task",
    "reach_broker": "orchestra.celery.reach:reach",
    "carrier": "orchestra.celery.dispatch:carrier",
    "operations": "orchestra.engine.operations",
    "adopted_celery_task": "orchestra.celery.adopted:adopted",
    "celery_task_spec": "orchestra.celery.adopted:spec_of",
    "registered_celery_task": "orchestra.celery.adopted:registered",
    "input": "orchestra.input",
    "input_schema": "orchestra.engine.input_schema",
    "parameter_schema": "orchestra.engine.validation:schema",
    "deployment": "orchestra.deployments:Deployment",
    "deploy": "orchestra.deployments:deploy",
    "serve": "orchestra.serving:serve",
    "deployment_of_run": "orchestra.store.runs:deployment_of",
    "find_deployment": "orchestra.store.deployments:find",
    "run_parameters": "orchestra.store.runs:parameters_of",
    "project_file": "orchestra.project_files:initialize",
    "start_deployment": "orchestra.celery.deployed:start",
    "remote_source": "orchestra.engine.sources:source_of",
    "emit_event": "orchestra.events:emit_event",
    "keep_log_line": "orchestra.store.logs:keep",
    "flow_canvas": "orchestra.celery.canvas:flow_canvas",
    "entered_carrier": "orchestra.celery.canvas:Entered",
    "enter_door": "orchestra.celery.nodes:enter",
    "pass_on": "orchestra.celery.nodes:pass_on",
    "passed_on": "orchestra.celery.nodes:passed_on",
    "signature": "orchestra.celery.doors:signature",
    "serve_tasks": "orchestra.task_worker:serve_specs",
    "submit_task_run": "orchestra.celery.background:submit_task_run",
    "handle_list": "orchestra.handles:HandleList",
    "run_of_canvas": "orchestra.celery.nodes:run_of",
    "serializer_option": "orchestra.serializers:serializer_option",
    "result_files": "orchestra.blobs",
    "pickle_dumps": "orchestra.pickles:dumps",
    "pickle_loads": "orchestra.pickles:loads",
    "exception_dumps": "orchestra.pickles:dump_exception",
    "exception_loads": "orchestra.pickles:load_exception",
}


def load(name: str) -> Any:
    """The object behind a door of `DOORS`.

    Raises:
        KeyError: No such door.
    """
    return resolve(DOORS[name])


def resolve(path: str) -> Any:
    """The object at "module:qualname"; the module itself where no name is given.

    Raises:
        ImportError: The module cannot be imported.
        AttributeError: The module has no such object.
    """
    module, _, qualname = path.partition(":")
    found: Any = import_module(module)
    for part in filter(None, qualname.split(".")):
        found = getattr(found, part)
    return found


def loaded(path: str) -> Any:
    """The object at "module:qualname", as far as its module is loaded by now; None where nothing stands there."""
    module, _, qualname = path.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found
