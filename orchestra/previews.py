"""What people see of stored values: plain JSON, made without checking signatures, importing types or unpickling."""

from __future__ import annotations

import base64
import json
import math
from datetime import datetime, timedelta, timezone

from orchestra.names import clean_text
from orchestra.typed_values import TAG, Json, Node, from_json

#: Bytes above which only the kind and size of a value are shown.
_SHOWN_MAX = 1024 * 1024
#: Kinds that cannot be shown without unpacking or loading what is in them.
_OPAQUE = {b"p": "pickle", b"z": "compressed", b"o": "own serializer"}
#: Bytes before the body of a signed value.
_HEAD = 33


def preview(data: bytes | None) -> Json:
    """A view for people, fit for JSON, that neither checks signatures nor imports types nor unpickles.

    Exceptions show as `{"type", "message", "traceback"}`, pickles and what is over 1 MiB by kind and size.
    """
    if data is None:
        return None
    kind, size = data[:1], max(len(data) - _HEAD, 0)
    if kind in _OPAQUE:
        return f"<{_OPAQUE[kind]}, {size:,} bytes>"
    if len(data) > _SHOWN_MAX:
        return f"<{'error' if kind == b'x' else 'json'}, {len(data):,} bytes>"
    try:
        return _shown(kind, data)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return f"<unreadable, {len(data):,} bytes>"


def _shown(kind: bytes, data: bytes) -> Json:
    if kind == b"j":
        return _view(from_json(data[1:]), tagged=False)
    body = data[_HEAD:]
    if kind == b"x":
        return _view(from_json(body[4 : 4 + int.from_bytes(body[:4], "big")]), tagged=False)
    if kind == b"t":
        return _view(from_json(body), tagged=True)
    raise ValueError(kind)


def _view(node: Json, *, tagged: bool) -> Json:
    if isinstance(node, str):
        return clean_text(node)
    if isinstance(node, list):
        return [_view(part, tagged=tagged) for part in node]
    if isinstance(node, float) and not math.isfinite(node):
        return repr(node)
    if not isinstance(node, dict):
        return node
    if tagged and TAG in node:
        return _view_tagged(node)
    return {clean_text(key): _view(part, tagged=tagged) for key, part in node.items()}


def _view_tagged(node: Node) -> Json:
    tag, value = node[TAG], node["v"]
    if tag in ("bytes", "bytearray"):
        return f"<{tag}, {len(base64.b64decode(value)):,} bytes>"
    if tag == "enum":
        return clean_text(f"{node['t'].rpartition(':')[2]}.{value}")
    if tag == "dict":
        return {_view_key(key): _view(part, tagged=True) for key, part in value}
    if tag == "timedelta":
        return str(timedelta(*value))
    if tag == "step":
        return clean_text(f"<result of {value}>")
    if tag in ("datetime", "time"):
        return clean_text(value) + _view_zone(node["z"])
    return _view(value, tagged=True)


def _view_key(key: Json) -> str:
    shown = _view(key, tagged=True)
    return shown if isinstance(shown, str) else json.dumps(shown)


def _view_zone(zone: str | int | None) -> str:
    if isinstance(zone, int):
        return datetime(2000, 1, 1, tzinfo=timezone(timedelta(microseconds=zone))).isoformat()[19:]
    return f"[{zone}]" if zone else ""
