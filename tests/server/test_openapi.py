"""Machines ask whatever the OpenAPI document allows, and more: nothing of it makes the server fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from starlette.testclient import TestClient

from orchestra import tags
from orchestra.deployments import Deployment
from orchestra.server import create_app
from tests.client import flows

pytestmark = pytest.mark.slow

#: Asked of each operation; together below a minute.
EXAMPLES = 8


@pytest.fixture
def seeded(sqlite_database: object) -> Iterator[schemathesis.BaseSchema]:
    """The document of a server over a few runs and a deployment."""
    with tags("nightly"):
        flows.doubled(1)
    flows.refused(3, return_state=True)
    Deployment.build_from_flow(flows.doubled, "nightly", parameters={"number": 1}).apply()
    app = create_app()
    with TestClient(app, base_url="http://127.0.0.1:4200"):
        yield schemathesis.openapi.from_asgi("/api/openapi.json", app, base_url="http://127.0.0.1:4200")


schema = schemathesis.pytest.from_fixture("seeded")


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_nothing_makes_the_server_fail(case: schemathesis.Case) -> None:
    """Each request is answered, and not by a 5xx."""
    answer = case.call(headers={"host": "127.0.0.1:4200"})

    assert answer.status_code < 500, answer.text
