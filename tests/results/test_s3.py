"""Results in S3: a real server of its protocol, and real workers."""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from orchestra import settings
from orchestra.errors import ResultCorrupt, ResultStorageUnavailable
from orchestra.handles import FlowRunHandle
from orchestra.results import ResultStore
from orchestra.store import removal
from orchestra.store.database import Database
from orchestra.store.tables import flow_runs
from tests import servers
from tests.conftest import WorkerFactory
from tests.helpers import free_port, wait_until
from tests.results import flows
from tests.results.flows import MIB, sizes
from tests.results.test_results import rows

pytestmark = pytest.mark.services


class S3:
    """A server of S3's protocol, with one bucket."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.url = "s3://bucket/results"
        self.env = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "us",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.start()

    def start(self) -> None:
        """Start it, empty."""
        argv = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = servers.Process(argv, self.folder / "s3.log")
        wait_until(self._answers, "the S3 server", 30)
        self._ask("/bucket", method="PUT")

    def kill(self) -> None:
        """End it at once; what it held is gone."""
        self.process.kill_group()

    def files(self) -> list[str]:
        """The objects of the bucket."""
        fs = fsspec.filesystem("s3")
        fs.invalidate_cache()
        found: list[str] = fs.find("bucket")
        return found

    def _answers(self) -> bool:
        try:
            self._ask("/")
        except OSError:
            return False
        return True

    def _ask(self, path: str, method: str = "GET") -> bytes:
        request = urllib.request.Request(self.endpoint + path, method=method)
        with urllib.request.urlopen(request, timeout=5) as answer:
            body: bytes = answer.read()
        return body


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A server of S3's protocol, which this process and its workers are told of."""
    server = S3(tmp_path)
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    yield server
    server.kill()
    fsspec.filesystem("s3").clear_instance_cache()


def test_workers_keep_results_in_s3(s3: S3, database: Database, worker_factory: WorkerFactory) -> None:
    """Of direct and submitted calls, in several processes; they are read here, and go with their run."""
    worker_factory("tests.results.flows", concurrency=2)

    handle = sizes.delay(s3.url, 3 * MIB)

    assert handle.result(timeout=60) == [3 * MIB, 6 * MIB, 6 * MIB]
    assert len(s3.files()) == 2
    removal.delete(database, handle.id)
    assert s3.files() == []


def test_a_local_run_keeps_its_large_result_in_s3(s3: S3, database: Database) -> None:
    """As the setting says; one that was cut there is told of."""
    settings.override(result_storage=s3.url)
    state = flows.large(2 * MIB, return_state=True)
    handle = FlowRunHandle(str(state.state_details.flow_run_id))

    assert handle.result() == state.result()
    fs = fsspec.filesystem("s3")
    for file in s3.files():
        fs.pipe_file(file, fs.cat_file(file)[:-1])
    with pytest.raises(ResultCorrupt, match="instead of"):
        FlowRunHandle(handle.id).result()


def test_names_of_ones_own_in_s3(s3: S3) -> None:
    """Read, written over, and not there."""
    store = ResultStore(s3.url, "json")
    store.write([1], "a/one.json")
    store.write([2], "a/one.json")

    assert store.read("a/one.json").result == [2]
    assert not store.exists("a/two.json")
    assert s3.files() == ["bucket/results/a/one.json"]


def test_a_worker_waits_for_s3(
    s3: S3, database: Database, worker_factory: WorkerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is away loses no step, and counts as no crash."""
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", "3")
    monkeypatch.setenv("ORCHESTRA_SWEEP_SECONDS", "1")
    s3.kill()
    worker_factory("tests.results.flows", concurrency=1)

    handle = sizes.delay(s3.url, 5120)
    told = "waiting for its result storage: a result of"
    wait_until(lambda: any(told in str(run.state_message) for run in rows(database, flow_runs)), "it to wait", 60)
    s3.start()

    assert handle.result(timeout=60) == [5120, 10240, 10240]
    assert [run.lapses for run in rows(database, flow_runs)] == [0]


def test_a_bucket_that_is_not_there_is_told_of(s3: S3) -> None:
    """With its name."""
    with pytest.raises(ResultStorageUnavailable, match="s3://other/results"):
        ResultStore("s3://other/results").write(1, "one")
