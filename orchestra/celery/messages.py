"""What of a Celery task's message says how its canvas goes on: kept while a run stands for the task, and sent then."""

from __future__ import annotations

from typing import Any

from celery import Task

from orchestra import serializers
from orchestra.store.pass_ons import PassOn

#: The options of a signature, by the names that a message has for them.
_NAMES = {
    "link": "callbacks",
    "link_error": "errbacks",
    "chain": "chain",
    "chord": "chord",
    "group_id": "group_id",
    "group_index": "group_index",
    "root_id": "root_id",
    "parent_id": "parent_id",
    "reply_to": "reply_to",
    "origin": "origin",
    "replaced_task_nesting": "replaced_task_nesting",
    "ignore_result": "ignore_result",
    "headers": "headers",
}


def kept(task: Task) -> PassOn:
    """What goes on when the task that is being run has ended. Its limits and its expiry were for its own message.

    Raises:
        SerializationError: A signature holds something that cannot be kept.
    """
    request = task.request
    options = task.signature_from_request(request, (), {}).options
    found = {ours: options.get(celerys) for celerys, ours in _NAMES.items()}
    stamps = options.get("stamped_headers") or []
    if stamps:
        found |= {"stamped_headers": list(stamps)} | {name: options.get(name) for name in stamps}
    return PassOn(str(request.id), serializers.encode(_plain(found), what="the canvas behind a flow or task"))


def restored(message: bytes) -> dict[str, Any]:
    """The options of a message, as `kept` kept them. The signature is checked before anything is loaded."""
    found: dict[str, Any] = serializers.decode(message)
    return found


def _plain(value: Any) -> Any:
    """Signatures as the dicts that they are, at any depth; other values as they are."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
