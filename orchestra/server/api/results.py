"""Results as they are stored: the server hands the bytes on, and never reads what is in them."""

from __future__ import annotations

from starlette.responses import Response


def result_response(data: bytes | None) -> Response:
    """Encoded bytes, or 204 where nothing was kept."""
    if data is None:
        return Response(status_code=204)
    return Response(data, media_type="application/octet-stream")
