"""What may be a flow or task, on real workers: found by other processes, called, submitted and replayed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import WorkerFactory
from tests.semantics import test_arguments, test_callables, test_generators, test_mapping, test_names

pytestmark = pytest.mark.services

MODULES = [module.__name__ for module in (test_arguments, test_callables, test_generators, test_mapping, test_names)]
SOON = 60.0


def flows() -> list[tuple[Any, dict[str, Any], Any]]:
    """Flows, their parameters and their values."""
    called = [6, 3, 5, 3, 7, 6, 2, 10]
    return [
        (test_callables.calls, {}, [called, called, 7, 3]),
        (test_callables.awaits, {}, [10, 15]),
        (test_callables.bound, {"x": 1}, 2),
        (test_callables.Loader("a-").whole, {"name": "z"}, ["a-z", "A-Z"]),
        (test_callables.Loader.of_class, {"mark": "*"}, ["Loader*", "Loader*"]),
        (test_callables.Loader.of_none, {"text": "s"}, "S"),
        (test_generators.generates, {"n": 3}, [0, 2, 4]),
        (test_generators.agenerates, {"n": 2}, [0, 2]),
        (test_generators.loops_async, {}, [[0, 1, 2], [0, 2], [0, 1]]),
        (test_arguments.shows_futures, {"submitted": True}, test_arguments.SHOWN),
        (test_mapping.zips, {}, test_mapping.ZIPPED),
        (test_names.children, {}, ["child-web-007", "child-db-012", "with-1-3"]),
    ]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_workers_run_whatever_is_a_flow_or_a_task(worker_factory: WorkerFactory, pool: str) -> None:
    """Started by `.delay()`; each gives what it gives here."""
    worker_factory(*MODULES, pool=pool, concurrency=2)
    wanted = flows()

    handles = [flow.delay(**parameters) for flow, parameters, _ in wanted]

    assert [handle.result(timeout=SOON) for handle in handles] == [value for _, _, value in wanted]
