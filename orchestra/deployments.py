"""The place of deployments, which are not there yet."""

from __future__ import annotations

from orchestra.unbuilt import absent

__getattr__ = absent(
    __name__,
    "deployments",
    """
    Deployment run_deployment arun_deployment deploy initialize_project
    """,
)
