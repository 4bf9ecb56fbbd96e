"""Secrets in parameters: bodies on workers have them, and nobody reads them in logs and states."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from orchestra.store import behind, logs, queries
from tests.drive import Driver
from tests.engine import event_flows

pytestmark = pytest.mark.slow


def test_a_secret_parameter_is_in_no_line_and_no_state(driver: Driver) -> None:
    """Of a flow or of its task, on a worker; also where it fails with it, and in each replay."""
    run_id = driver.submit(event_flows.secretive, token=SecretStr("hunter2hunter2"))
    driver.finish(run_id)
    behind.flush()

    said = [line.message for line in logs.read(driver.database, run_id)]
    assert "flow with ********" in said
    assert "task with ********" in said
    told = [state.message for state in queries.state_history(driver.database, run_id)]
    assert told[-1] == driver.row(run_id)["state_message"] == "ValueError: no entry for ********"
    assert not [text for text in (*said, *told) if text and "hunter2" in text]


def test_a_kept_error_shows_no_secret(driver: Driver) -> None:
    """In message and traceback, as the API and pages show them; code that catches it has what was raised."""
    run_id = driver.submit(event_flows.secretive, token=SecretStr("hunter2hunter2"))
    ended = driver.finish(run_id)

    shown = queries.read_flow_run(driver.database, run_id).result
    assert shown["message"] == "no entry for ********"
    assert "ValueError: no entry for ********" in shown["traceback"]
    assert "hunter2" not in str(shown)
    error = ended.result(raise_on_failure=False)
    assert str(error) == "no entry for hunter2hunter2"
    assert "hunter2" not in "".join(error.__notes__)


def test_what_code_hides_is_hidden_in_errors_too(driver: Driver) -> None:
    """Also the cause's, and a password in a URL."""
    run_id = driver.submit(event_flows.fetching)
    driver.finish(run_id)

    shown = str(queries.read_flow_run(driver.database, run_id).result)
    assert "RuntimeError: no answer of amqp://me:********@host" in shown
    assert "cause" in shown
    assert not any(secret in shown for secret in ("fetched-secret", "pass-word"))
