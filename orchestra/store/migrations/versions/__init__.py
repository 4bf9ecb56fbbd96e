"""Alembic revisions of the schema, oldest first; CONTRIBUTING.md says how a new one looks."""
