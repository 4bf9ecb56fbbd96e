"""A flow as a native Celery canvas, before it runs."""

from __future__ import annotations

from reports import report

canvas = report.canvas(days=3)
print(canvas)
