"""A ready Celery app for those who have none: `celery -A celery_app worker -Q default`.

The broker is ORCHESTRA_BROKER_URL, or the one that `orchestra dev` runs in ORCHESTRA_HOME; flows are found by
ORCHESTRA_FLOWS (modules, comma-separated), imported when a worker starts, from the working directory too.
"""

from __future__ import annotations

import sys

from orchestra import celery
from orchestra.engine.definitions import see_working_directory
from orchestra.errors import ConfigurationError

see_working_directory()
try:
    app = celery.app()
except ConfigurationError as error:
    sys.exit(f"celery_app: {error}")
