"""orchestra beside bare Celery: the same shapes of work, timed in one run."""
