"""Runners: how calls are carried out, in this process or by Celery."""
