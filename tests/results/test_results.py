"""What a body returned comes back as it was: equal, of the same type, whole, or not at all."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from orchestra import flow, settings, task
from orchestra.cache_policies import INPUTS
from orchestra.client.orchestration import get_client
from orchestra.errors import DefinitionError, MissingResult, ResultCorrupt, SerializationError, ValueTooLarge
from orchestra.handles import FlowRunHandle
from orchestra.previews import preview
from orchestra.serializers import NAMES
from orchestra.store import blobs, cache, journal, removal, transactions
from orchestra.store.database import Database
from orchestra.store.tables import blobs as chunks
from orchestra.store.tables import flow_runs, steps, stored_results
from tests.results import flows
from tests.results.conftest import files
from tests.results.flows import MIB
from tests.semantics.conftest import Run

pytestmark = pytest.mark.slow

IN_ANOTHER_PROCESS = """
import sys
from orchestra.handles import FlowRunHandle
from tests.results.flows import VALUES, alike
name, run_id = sys.argv[1:]
assert alike(FlowRunHandle(run_id).result(), VALUES[name])
"""


def rows(database: Database, table: sa.Table) -> list[Any]:
    """All rows of a table."""
    return database.read(lambda connection: list(connection.execute(sa.select(table)).all()))


def run_id(database: Database) -> str:
    """The id of the only run without a parent."""
    query = sa.select(flow_runs.c.id).where(flow_runs.c.parent_run_id.is_(None))
    return str(database.read(lambda connection: connection.scalar(query)))


# -- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", flows.VALUES)
@pytest.mark.parametrize("submitted", [False, True], ids=["direct", "submitted"])
def test_values_come_back_alike(run: Run, database: Database, name: str, submitted: bool) -> None:
    """From the task, and from the run as others read it."""
    found = run.value(flows.giving, name=name, submitted=submitted)

    assert flows.alike(found, flows.VALUES[name])
    assert flows.alike(FlowRunHandle(run_id(database)).result(), flows.VALUES[name])


@pytest.mark.parametrize("name", ["model", "nested", "array", "pandas", "polars"])
def test_values_come_back_alike_in_another_process(database: Database, home: Path, name: str) -> None:
    """One that has no more than the installation's key and the database."""
    flows.giving(name, False)

    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, name, run_id(database)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("serializer", [*NAMES, flows.Reversed])
def test_each_serializer_gives_back_what_it_was_given(run: Run, serializer: Any) -> None:
    """The ones with names, and one of the user's own."""
    value = {"a": [1, 2.5, None, "x"], "t": (1, flows.WHEN)}

    assert run.value(flows.by, serializer=serializer, value=value) == value


def test_json_refuses_what_it_has_no_form_for(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """On a worker the task fails, in a process of its own it is a warning; both say what to do."""
    if run.way == "worker":
        with pytest.raises(SerializationError, match=r"value_of.*result_serializer=.auto. or .pickle"):
            run.value(flows.by, serializer="json", value=flows.VALUES["array"])
    else:
        assert run(flows.by, serializer="json", value=flows.VALUES["array"]).is_completed()
        assert "JSON, even with types, has no form for" in caplog.text


def test_an_own_serializer_that_raises_is_told_of(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """With its name and what it raised."""
    state = run(flows.by, serializer=flows.Unwilling, value=1)

    told = caplog.text if run.way == "here" else state.message or ""
    assert "tests.results.flows:Unwilling: ValueError: not today" in told


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"result_serializer": "yaml"}, "none of auto, json"),
        ({"result_serializer": object()}, "dumps"),
        ({"result_serializer": type("Local", (flows.Reversed,), {"__qualname__": "f.<locals>.L"})}, "importable"),
        ({"result_storage": 3}, "a folder"),
        ({"result_storage": ""}, "a folder"),
        ({"result_storage": Path("s3://bucket/results")}, "a URL has :// in it"),
        ({"result_storage_key": 3}, "is a text"),
        ({"cache_result_in_memory": "no"}, "True or False"),
        ({"persist_result": "no"}, "True or False"),
        ({"refresh_cache": 1}, "True or False"),
        ({"persist_result": False, "result_storage_key": "x"}, "would do nothing"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, says: str) -> None:
    """Where the task is defined."""
    with pytest.raises(DefinitionError, match=says):
        task(**options)(flows.alike)


def test_an_own_serializer_with_settings_is_refused() -> None:
    """A process that reads could not know them."""
    own = flows.Reversed()
    own.level = 3  # type: ignore[attr-defined]

    with pytest.raises(DefinitionError, match="make a subclass"):
        task(result_serializer=own)(flows.alike)


# -- what is not kept --------------------------------------------------------------------------------------------


def test_a_value_that_cannot_be_kept_fails_its_task_on_a_worker_only(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """In a process of its own it is a warning that names the run."""
    if run.way == "worker":
        with pytest.raises(SerializationError, match=r"'lock'"):
            run.value(flows.locking)
    else:
        assert run.value(flows.locking) == "went on"
        assert "the result of run 'lock-0' is not kept" in caplog.text


def test_a_result_that_was_not_kept_is_told_of(database: Database) -> None:
    """Read from elsewhere it raises, and says how to keep it; None would be a wrong answer."""

    @flow
    def forgetful() -> int:
        return 3

    assert forgetful() == 3
    with pytest.raises(MissingResult, match="persist_result=True"):
        FlowRunHandle(run_id(database)).result()
    with get_client(sync_client=True) as client, pytest.raises(MissingResult, match="persist_result=True"):
        client.read_flow_run(run_id(database)).state.result()


def test_a_setting_keeps_the_results_of_local_runs(database: Database) -> None:
    """Of flows and of tasks that do not say otherwise."""
    settings.override(results_persist_by_default=True)

    @flow
    def ordinary() -> int:
        return int(flows.value_of(3)) + int(flows.value_of.with_options(persist_result=False)(4))

    assert ordinary() == 7
    assert FlowRunHandle(run_id(database)).result() == 7
    assert [row.result is None for row in rows(database, steps)] == [False, True]


@pytest.mark.usefixtures("database")
def test_a_result_over_the_cap_says_its_size(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """It fails its task on a worker, and is a warning here."""
    settings.override(result_max_bytes=MIB)

    state = run(flows.large, size=2 * MIB)

    if run.way == "worker":
        with pytest.raises(ValueTooLarge, match=r"2,097,\d{3} bytes.* at most 1,048,576"):
            state.result()
    else:
        assert "2,097," in caplog.text
        assert len(state.result()) == 2 * MIB


# -- large ones --------------------------------------------------------------------------------------------------


def test_a_large_result_of_a_local_run_is_kept(database: Database) -> None:
    """As a blob, of the task and of the flow; equal ones are kept once."""
    assert len(flows.large(2 * MIB)) == 2 * MIB

    found = run_id(database)
    assert len(FlowRunHandle(found).result()) == 2 * MIB
    assert {row.result_blob for row in rows(database, steps)} == {row.name for row in rows(database, chunks)}
    removal.delete(database, found)
    assert rows(database, chunks) == []


@pytest.mark.parametrize("submitted", [False, True], ids=["direct", "submitted"])
def test_a_task_may_say_where_its_results_are(run: Run, database: Database, storage: Path, submitted: bool) -> None:
    """However small: they are files there, and not in the database. They go with the run."""
    assert run.value(flows.keeping, size=512, submitted=submitted) == 512

    [file] = files(storage)
    [row] = rows(database, stored_results)
    assert (row.storage, row.path, row.size) == (str(storage), str(file.relative_to(storage)), file.stat().st_size)
    [step] = rows(database, steps)
    assert (step.result, step.result_blob) == (None, row.name)
    removal.delete(database, run_id(database))
    assert files(storage) == []
    assert rows(database, stored_results) == []


def test_large_results_go_where_the_setting_says(run: Run, database: Database, tmp_path: Path) -> None:
    """Small ones stay in their rows."""
    settings.override(result_storage=str(tmp_path / "all"), result_inline_max_bytes=1024)

    assert len(run.value(flows.large, size=4096)) == 4096
    assert len(files(tmp_path / "all")) == 2
    assert rows(database, chunks) == []
    assert run.value(flows.by, serializer="auto", value=1) == 1
    assert len(files(tmp_path / "all")) == 2


def test_a_flow_says_it_for_its_tasks(run: Run, storage: Path) -> None:
    """A worker that runs one of them knows the flow."""

    assert run.value(flows.placed(flows.giving), name="dataclass", submitted=True) == flows.VALUES["dataclass"]
    assert len(files(storage)) == 2


def test_a_storage_in_memory_serves_one_process(run: Run, database: Database) -> None:
    """On a worker it is refused; elsewhere, who reads from another process is told where the result was."""
    kept = flows.giving.with_options(result_storage="memory://results")

    state = run(kept, name="dataclass", submitted=False)

    if run.way == "worker":
        assert "is the memory of one process" in (state.message or "")
        return
    assert state.result() == flows.VALUES["dataclass"]
    code = f"from orchestra.handles import FlowRunHandle; FlowRunHandle({state.state_details.flow_run_id!r}).result()"
    done = subprocess.run([sys.executable, "-c", code], check=False, text=True, capture_output=True)
    assert "MissingResult" in done.stderr
    assert "in the memory of the process that wrote it" in done.stderr


def test_a_cached_result_is_where_its_task_says(database: Database, storage: Path) -> None:
    """In one file, for the step that has computed it, for later calls, and for those that it answers."""
    noise = flows.placed(flows.noise, cache_policy=INPUTS)

    @flow
    def twice() -> list[Any]:
        return [noise(512, return_state=True).name for _ in range(2)]

    assert twice() == ["Completed", "Cached"]
    assert len(files(storage)) == 1


def test_a_cleared_result_takes_its_file_along(database: Database, storage: Path) -> None:
    """One that a run refers to stays."""
    noise = flows.placed(flows.noise, cache_policy=INPUTS)
    noise(512)
    flow(name="noisy")(lambda: noise(1024))()
    before = files(storage)

    assert cache.clear(database, cache.Query()) == 2

    assert (len(before), len(files(storage))) == (2, 1)


def test_a_cached_result_is_encoded_as_its_task_says(database: Database) -> None:
    """What no other serializer has a form for is cached, too."""
    own = flows.lock.with_options(result_serializer=flows.Kinds, cache_key_fn=lambda *_: "lock")

    @flow
    def twice() -> list[Any]:
        return [own(return_state=True).name for _ in range(2)]

    assert twice() == ["Completed", "Cached"]


@pytest.mark.parametrize(
    ("harm", "error", "says"),
    [
        (lambda file: file.unlink(), MissingResult, "gone"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), ResultCorrupt, "instead of"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"?"), ResultCorrupt, "SHA-256"),
        (lambda file: file.write_bytes(b""), ResultCorrupt, "instead of"),
    ],
    ids=["missing", "cut", "changed", "empty"],
)
def test_a_damaged_file_is_told_of(
    database: Database, storage: Path, harm: Any, error: type[Exception], says: str
) -> None:
    """Never is it taken for the value."""
    flows.placed(flows.large)(4096)
    for file in files(storage):
        harm(file)

    with pytest.raises(error, match=says):
        FlowRunHandle(run_id(database)).result()


def test_a_damaged_blob_is_told_of(database: Database) -> None:
    """One of the database."""
    flows.large(2 * MIB)
    cut = sa.delete(chunks).where(chunks.c.chunk == 1)
    database.write(lambda connection: connection.execute(cut))

    with pytest.raises(ResultCorrupt, match="SHA-256"):
        FlowRunHandle(run_id(database)).result()


def test_a_file_that_two_rows_refer_to_stays_for_the_other(database: Database, storage: Path) -> None:
    """Only the last one's deletion deletes it."""
    flows.keeping(512)
    [step] = rows(database, steps)
    first = run_id(database)
    other = flows.large.with_options(name="other")
    second = other(256, return_state=True).state_details.flow_run_id
    point = sa.update(flow_runs).where(flow_runs.c.id == second).values(result_blob=step.result_blob)
    database.write(lambda connection: connection.execute(point))

    removal.delete(database, first)
    assert len(files(storage)) == 1
    removal.delete(database, str(second))
    assert files(storage) == []


def test_values_need_not_be_held(run: Run) -> None:
    """`cache_result_in_memory=False`: they are read again each time, so that what was read is no one else's."""
    assert run.value(flows.unheld, size=4096) == [4096, 4096, False]
    assert run.value(flows.held, size=4096) is True


# -- what only looks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [flows.VALUES["array"], flows.VALUES["model"]], ids=["pickle", "typed"])
@pytest.mark.parametrize("serializer", [*NAMES, "tests.results.flows:Reversed"])
def test_previews_load_nothing(value: Any, serializer: str) -> None:
    """Of whatever serializer."""
    from orchestra import serializers

    try:
        data = serializers.encode(value, serializer=serializer)
    except SerializationError:
        assert serializer.endswith("json")
        return
    shown = preview(data)
    assert isinstance(shown, (str, dict))


def test_the_command_line_does_not_import_what_results_are_made_of(database: Database, database_url: str) -> None:
    """`flow-run inspect` shows a result whose module cannot even be imported there."""
    flows.giving("dataclass", False)
    code = (
        "import sys; from orchestra.cli import main; sys.argv = ['orchestra', *sys.argv[1:]]\n"
        "try: main()\n"
        "finally: assert not [name for name in sys.modules if name.startswith(('tests', 'numpy', 'cloudpickle'))]"
    )
    command = [sys.executable, "-c", code, "flow-run", "inspect", run_id(database)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


# -- leftovers ---------------------------------------------------------------------------------------------------


def test_clean_deletes_what_nothing_refers_to(database: Database, storage: Path) -> None:
    """Whatever a crash between the writing of a file and of its row left; and nothing else, and nothing young."""
    from orchestra.store import stored_results as store

    flows.keeping(512)
    orphan = store.keep(database, b"nobody's", str(storage))
    blobs.keep(database, b"x" * 10)
    assert len(files(storage)) == 2

    assert blobs.clean(database, 3600) == blobs.Cleaned(0, 0, 0)
    assert blobs.clean(database, -1) == blobs.Cleaned(1, 1, 0)
    assert [row.name != orphan for row in rows(database, stored_results)] == [True]
    assert len(files(storage)) == 1
    assert blobs.clean(database, -1) == blobs.Cleaned(0, 0, 0)


def test_what_a_transaction_has_staged_is_no_orphan(database: Database) -> None:
    """A large value under a user's key outlives the run that staged it."""
    value = b"v" * (settings.current().result_inline_max_bytes + 1)
    transactions.keep_key(database, "report", value)

    assert blobs.clean(database, -1) == blobs.Cleaned(0, 0, 0)

    assert transactions.read_key(database, "report") == value


def test_a_storage_that_is_away_keeps_no_run_from_being_deleted(
    database: Database, storage: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its files are deleted by a later `orchestra db clean`."""
    flows.keeping(512)
    [file] = files(storage)
    away = storage.rename(storage.with_name("away"))
    storage.write_text("no folder")

    with caplog.at_level(logging.WARNING):
        removal.delete(database, run_id(database))

    assert "orchestra db clean" in caplog.text
    assert rows(database, steps) == []
    storage.unlink()
    away.rename(storage)
    assert blobs.clean(database, 3600) == blobs.Cleaned(0, 1, 0)
    assert not file.exists()


def test_a_file_that_was_cleaned_away_is_not_referred_to(database: Database, storage: Path) -> None:
    """Whoever is so late that its file was taken for a leftover writes nothing that points nowhere."""
    from orchestra.errors import StoreError
    from orchestra.store import stored_results as store

    name = store.keep(database, b"late", str(storage))
    blobs.clean(database, -1)

    with pytest.raises(StoreError, match="deleted before it was recorded"):
        database.write(lambda connection: blobs.place(connection, b"late", name))


def test_a_result_read_for_a_replay_is_read_outside_of_the_transaction(database: Database, storage: Path) -> None:
    """A storage that is slow holds nobody up."""
    flows.keeping(512)

    [step] = rows(database, steps)
    data = journal.result_of(database, step.run_id, step.run_attempt, step.step_key)
    assert data is not None
    assert len(data) > 512
