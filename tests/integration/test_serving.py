"""`flow.serve()`: it brings up what it needs, runs its deployment's runs, and pauses its schedules at the end."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from orchestra import flow, settings
from orchestra.deployments import Deployment, run_deployment
from orchestra.errors import ConfigurationError, DefinitionError
from orchestra.flows import serve
from orchestra.store import deployments
from orchestra.store.database import database
from tests.integration.test_dev import Dev, running

pytestmark = pytest.mark.services

CODE = """
from orchestra import flow

@flow
def served(n: int = 1):
    return n * 2

if __name__ == "__main__":
    served.serve(name="here", cron="0 9 * * *", limit=1)
"""


def test_a_script_serves_its_flow_without_any_configuration(home: Path, tmp_path: Path) -> None:
    """With a broker of its own; nothing is left after Ctrl-C, and the deployment is paused until the next serve."""
    script = tmp_path / "served.py"
    script.write_text(CODE)

    for _ in range(2):
        with running(Dev(home, tmp_path / "serve.log", [sys.executable, str(script)], ORCHESTRA_FLOWS="")) as served:
            assert run_deployment("served/here", {"n": 4}).result() == 8
            assert not deployments.read(database(), "served/here").paused
            served.process.send_signal(signal.SIGINT)
            assert served.process.wait(40) == 0
            served.wait_gone()
        assert "Traceback" not in served.log()
        assert deployments.read(database(), "served/here").paused
        settings.reset()


@flow
def etl() -> None:
    """A flow."""


def test_what_cannot_be_served_is_refused() -> None:
    """Before anything is started."""
    with pytest.raises(DefinitionError, match="at least one"):
        serve()
    with pytest.raises(DefinitionError, match="takes deployments"):
        serve(etl)
    with pytest.raises(ConfigurationError, match="work pool 'etl'"):
        serve(Deployment.build_from_flow(etl, "here", work_pool_name="etl"))
    with pytest.raises(ConfigurationError, match="from 1"):
        etl.serve("here", limit=0)
