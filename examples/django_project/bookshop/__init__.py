"""A small Django project; its Celery app is loaded with it, as Celery's documentation says."""

from __future__ import annotations

from bookshop.celery import app as celery_app

__all__ = ["celery_app"]
