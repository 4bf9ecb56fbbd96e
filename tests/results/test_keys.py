"""Results under names of the user's own: `result_storage_key`, and `ResultStore`."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from orchestra import flow, serializers, settings, task
from orchestra.errors import DefinitionError, MissingResult, ResultCorrupt, SerializationError
from orchestra.results import ResultRecord, ResultRecordMetadata, ResultStore, get_result_store
from orchestra.store.database import Database
from tests.properties.test_serializers import VALUES, shape
from tests.results import flows
from tests.results.conftest import files
from tests.semantics.conftest import Run


@pytest.mark.parametrize("submitted", [False, True], ids=["direct", "submitted"])
def test_a_call_whose_file_is_there_is_answered_by_it(run: Run, storage: Path, submitted: bool) -> None:
    """In another run too; the file bears the name, and its value can be read without orchestra."""
    answer = {"x": 3, "square": 9}

    assert run.value(flows.squaring, x=3, submitted=submitted) == answer
    assert run.value(flows.squaring, x=3) == answer
    assert run.value(flows.squaring, x=4)["square"] == 16

    assert flows.calls == [3, 4]
    assert json.loads(json.loads((storage / "out-3.json").read_text())["result"]) == answer


def test_such_an_answer_is_a_completed_run_named_cached(storage: Path) -> None:
    """As those of the cache."""

    @flow
    def names(x: int) -> list[str]:
        return [flows.placed(flows.square)(x, return_state=True).name for _ in range(2)]

    assert names(5) == ["Completed", "Cached"]


def test_a_task_outside_of_flows_is_answered_too(storage: Path) -> None:
    """Also one whose function is a coroutine function."""

    @task(result_storage=storage, result_storage_key="deep/{parameters[x]}")
    async def slow(x: int) -> int:
        flows.calls.append(x)
        return -x

    assert [asyncio.run(slow(1)), asyncio.run(slow(1))] == [-1, -1]
    assert flows.calls == [1]
    assert (storage / "deep" / "1").exists()


@pytest.mark.parametrize(
    "harm",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(file.read_bytes()[:-20]),
        lambda file: file.write_text(file.read_text().replace("9", "8")),
        lambda file: file.write_text("[]"),
        lambda file: file.write_bytes(b"\xff"),
    ],
    ids=["missing", "cut", "changed", "other", "noise"],
)
def test_a_damaged_file_answers_nothing(run: Run, storage: Path, harm: Any) -> None:
    """The task runs anew, and the file is right again."""
    run.value(flows.squaring, x=3)
    harm(storage / "out-3.json")

    assert run.value(flows.squaring, x=3) == {"x": 3, "square": 9}
    assert run.value(flows.squaring, x=3) == {"x": 3, "square": 9}
    assert flows.calls == [3, 3]


def test_a_call_may_ask_for_a_new_file(storage: Path) -> None:
    """By `refresh_cache`; and a file answers for as long as `cache_expiration` says."""
    kept = flows.placed(flows.square)
    kept(3)
    kept.with_options(refresh_cache=True)(3)
    assert flows.calls == [3, 3]

    kept.with_options(cache_expiration=1e-6, refresh_cache=True)(3)
    kept(3)
    assert flows.calls == [3, 3, 3, 3]
    kept(3)
    assert flows.calls == [3, 3, 3, 3]

    settings.override(tasks_disable_caching=True)
    kept(3)
    assert len(flows.calls) == 5


def test_a_file_does_not_answer_for_rows_that_are_not_committed(run: Run, database: Database, storage: Path) -> None:
    """A task that commits rows of its own with its end has no such file; it says what to do instead."""
    with pytest.raises(DefinitionError, match=r"db_transaction\(\).* use cache_policy"):
        run.value(flows.committing)
    assert files(storage) == []


def test_a_file_of_another_installation_answers_nothing(run: Run, storage: Path) -> None:
    """What it holds was signed with another key."""
    run.value(flows.squaring, x=3)
    record = ResultRecord(ResultRecordMetadata("out-3.json"), "forged")
    settings.override(secret_key="another")
    forged = record.serialize()
    settings.reset()
    (storage / "out-3.json").write_bytes(forged)

    assert run.value(flows.squaring, x=3) == {"x": 3, "square": 9}


@pytest.mark.parametrize("x", ["../../elsewhere", "/etc/x", "a/../../../b"])
def test_a_name_does_not_leave_its_storage(run: Run, storage: Path, x: str) -> None:
    """Parameters may come from strangers."""
    named = flows.square.with_options(result_storage=str(storage), result_storage_key="{parameters[x]}")

    @flow
    def stranger(x: str) -> Any:
        return named(x)

    with pytest.raises(DefinitionError, match="stay within"):
        stranger(x)
    assert flows.calls == []


def test_a_name_may_be_as_long_as_that_of_a_file(storage: Path) -> None:
    """One that is longer is refused, and not taken for a storage that is away."""
    store = ResultStore(storage)
    longest = "ü" * 127 + "x"

    store.write(1, f"folder/{longest}")

    assert store.read(f"folder/{longest}").result == 1
    with pytest.raises(DefinitionError, match="at most 255 bytes"):
        store.write(1, f"folder/{longest}x")


def test_a_name_that_cannot_be_made_fails_the_call(storage: Path) -> None:
    """It says what it may be made of."""
    with pytest.raises(DefinitionError, match=r"parameters\[…\]"):
        flows.square.with_options(result_storage=storage, result_storage_key="{parameters[y]}")(1)


def test_a_value_without_a_form_is_told_of(run: Run, storage: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It fails the task on a worker, and is a warning in a process of its own."""
    if run.way == "worker":
        with pytest.raises(SerializationError):
            run.value(flows.keyed_locking)
    else:
        assert run.value(flows.keyed_locking) == "went on"
        assert "not kept" in caplog.text
    assert files(storage) == []


# -- the store ---------------------------------------------------------------------------------------------------


def test_a_store_reads_what_it_wrote(storage: Path) -> None:
    """Until it expires; sync and async."""
    store = ResultStore(storage)
    store.write({"a": 1}, "one")
    asyncio.run(store.awrite(flows.VALUES["dataclass"], "two", expiration=timedelta(hours=1)))

    assert store.read("one").result == {"a": 1}
    assert asyncio.run(store.aread("two")).result == flows.VALUES["dataclass"]
    assert [store.exists("one"), asyncio.run(store.aexists("three"))] == [True, False]
    assert store.write(1, "late", expiration=timedelta.max).expiration is None
    store.write(1, "one", expiration=datetime.now(UTC))
    with pytest.raises(MissingResult, match="expired"):
        store.read("one")


def test_a_file_answers_to_its_own_name_only(storage: Path) -> None:
    """One that was copied over another is not taken for it."""
    store = ResultStore(storage)
    store.write(1, "one")
    (storage / "two").write_bytes((storage / "one").read_bytes())

    with pytest.raises(ResultCorrupt, match="'one'"):
        store.read("two")
    assert not store.exists("two")


def test_the_store_in_force_is_that_of_what_runs(storage: Path) -> None:
    """Of the task, else of the flow, else of the settings."""
    told: list[str] = []

    @task(result_storage=storage / "task")
    def own() -> None:
        told.append(get_result_store().storage)

    @task
    def other() -> None:
        told.append(get_result_store().storage)

    @flow(result_storage=storage / "flow")
    def both() -> None:
        own()
        other()

    both()
    assert told == [str(storage / "task"), str(storage / "flow")]
    assert get_result_store().storage == str(settings.current().home_path / "storage")


@given(
    VALUES, st.sampled_from(["auto", "pickle", "compressed/auto", "compressed/pickle", "tests.results.flows:Reversed"])
)
@example("\ud800\udc00", "auto")
@example_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_serializer_gives_back_what_it_was_given(value: Any, serializer: str) -> None:
    """Directly and in a record."""
    data = serializers.encode(value, serializer=serializer)
    record = ResultRecord(ResultRecordMetadata("name", serializer), value)

    assert shape(serializers.decode(data)) == shape(value)
    assert shape(ResultRecord.deserialize(record.serialize()).result) == shape(value)


@given(st.data(), VALUES)
@example_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_changed_value_is_never_read(data: st.DataObject, value: Any) -> None:
    """Of any serializer that signs, and of a record, which always is signed."""
    serializer = data.draw(st.sampled_from(["pickle", "compressed/auto", "tests.results.flows:Reversed"]))
    record = ResultRecord(ResultRecordMetadata("name", serializer), value).serialize()
    for encoded, read in ((serializers.encode(value, serializer=serializer), serializers.decode), (record, _read)):
        place = data.draw(st.integers(0, len(encoded) - 1))
        changed = encoded[:place] + bytes([encoded[place] ^ data.draw(st.integers(1, 255))]) + encoded[place + 1 :]
        for damaged in (changed, encoded[:place]):
            try:
                found = read(damaged)
            except SerializationError:
                continue
            # White space and the case of an escape may differ.
            assert shape(found) == shape(value)


def _read(data: bytes) -> Any:
    return ResultRecord.deserialize(data).result
