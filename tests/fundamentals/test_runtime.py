"""What a body can learn about its run, and of the outside."""

from __future__ import annotations

from datetime import UTC

from orchestra import flow, now, once, random, runtime, task, uuid4


def test_a_body_can_ask_about_its_run() -> None:
    """`orchestra.runtime` answers for the run that runs here."""

    @task(tags=["io"])
    def step(number: int) -> tuple[object, ...]:
        run = runtime.task_run
        return run.name, run.task_name, run.parameters, run.tags, run.run_count

    @flow(name="etl", version="7")
    def work(day: str) -> tuple[object, ...]:
        run = runtime.flow_run
        return run.flow_name, run.flow_version, run.parameters, run.run_count, step(1)

    assert work("monday") == ("etl", "7", {"day": "monday"}, 1, ("step-0", "step", {"number": 1}, ["io"], 1))


def test_outside_of_runs_there_is_nothing_to_say() -> None:
    """Every attribute has its empty value."""
    assert (runtime.flow_run.id, runtime.flow_run.parameters, runtime.task_run.tags) == (None, {}, [])


def test_a_step_has_an_idempotency_key() -> None:
    """The same for each try of one step, another one for each step."""
    keys = []

    @task(retries=1)
    def pay() -> None:
        keys.append(runtime.task_run.idempotency_key)
        if len(keys) % 2:
            raise ConnectionError

    @flow
    def work() -> None:
        pay()
        pay()

    work()

    assert keys[0] == keys[1]
    assert keys[2] == keys[3]
    assert keys[0] != keys[2]


def test_the_outside_is_observed_through_orchestra() -> None:
    """Time, chance, and anything `once`: on a worker, replay sees the same again."""

    @flow
    def work() -> tuple[object, ...]:
        return now().tzinfo, 0 <= random() < 1, uuid4().version, once(lambda: 42)

    assert work() == (UTC, True, 4, 42)
