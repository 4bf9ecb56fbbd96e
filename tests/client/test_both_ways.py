"""Every command that looks at what a server has, or changes it, says the same by the API as by the database itself."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from orchestra import settings
from orchestra.cli import cli
from orchestra.client.backend import DatabaseBackend
from orchestra.client.http import HttpBackend
from orchestra.deployments import Deployment
from orchestra.server import create_app
from orchestra.store import behind, workers
from orchestra.store.database import database
from orchestra.store.workers import WorkerRow
from tests import conftest, servers
from tests.client import flows
from tests.drive import Driver

#: Of this host, its settings and its processes.
OF_THIS_HOST = set(
    "version,dev,task serve,worker start,beat start,server start,server stop,server status,dashboard open,flower,"
    "login,logout,cloud workspace set,cloud login,cloud logout,db current,db upgrade,db reset,db clean,db prune,"
    "config view,config set,config unset,config validate,profile ls,profile create,profile use,profile inspect,"
    "profile rename,profile delete,completion,doctor".split(",")
)
#: They load the user's code.
LOAD_CODE = {"deploy", "flow serve", "flow canvas"}
#: Without an end; `tests/server/test_event_stream.py` follows it.
ENDLESS = {"events stream"}

#: What is said, one after another; $NAME stands for the id that a line before gave it. A line that ends in "= CODE"
#: does not end well.
SCRIPT = """
flow ls -o json
flow-run create --deployment doubled/nightly --param number=2 -> $WAITING
deployment run doubled/nightly --param number=3 --name second -> $SECOND
deployment run doubled/nightly --param number=three = 2
deployment run nowhere/nightly = 3
flow-run ls -o json
flow-run ls --flow-name refused
flow-run inspect $BAD -o json
flow-run inspect $BAD
flow-run inspect none = 3
flow-run logs $BAD -o json
flow-run watch $BAD = 6
flow-run canvas $BAD -o json
flow-run pause $SECOND
flow-run resume $SECOND
flow-run suspend $SECOND
flow-run cancel $SECOND
flow-run retry $BAD
flow-run retry $WAITING = 4
flow-run delete $BAD $GOOD = 4
task-run ls --flow-run $BAD -o json
task-run inspect $TASK -o json
task-run logs $TASK -o json
task-run inspect none = 3
deployment ls -o json
deployment ls --pool etl
deployment inspect doubled/nightly -o json
deployment inspect doubled/nightly
deployment inspect doubled/none = 3
deployment pause doubled/nightly
deployment resume doubled/nightly
deployment schedule create doubled/nightly --cron "0 3 * * *" --slug night --param number=5 -> $NIGHT
deployment schedule create doubled/nightly --interval 90 --slug night = 4
deployment schedule create doubled/nightly --interval 90 --param number=many = 2
deployment schedule create doubled/nightly --interval 1h30m --anchor-date 2026-01-01T00:00 --max-late 1h
deployment schedule ls doubled/nightly -o json
deployment schedule pause doubled/nightly night
deployment schedule resume doubled/nightly night
deployment schedule delete doubled/nightly night
deployment schedule delete doubled/nightly night = 3
deployment schedule create doubled/nightly --rrule FREQ=DAILY --replace
deployment schedule ls doubled/nightly
deployment schedule clear doubled/nightly
work-pool create other --type process --description "for tests" --concurrency-limit 3 --paused
work-pool create other = 4
work-pool create other --overwrite --type docker
work-pool create bad,name = 2
work-pool create third --type nothing = 2
work-pool ls -o json
work-pool inspect other -o json
work-pool inspect none = 3
work-pool update other --description changed
work-pool pause other
work-pool resume other
work-pool set-concurrency-limit etl 4
work-pool clear-concurrency-limit etl
work-pool get-default-base-job-template --type process
work-pool preview etl -o json
work-pool preview none = 3
work-pool slots etl -o json
work-pool slots etl
work-queue create urgent --pool etl --priority 0 --limit 2
work-queue create urgent --pool etl = 4
work-queue ls -o json
work-queue ls --pool etl
work-queue ls --pool none = 3
work-queue inspect urgent --pool etl -o json
work-queue inspect none --pool etl = 3
work-queue update urgent --pool etl --priority 3
work-queue pause urgent --pool etl
work-queue resume urgent --pool etl
work-queue set-concurrency-limit urgent 5 --pool etl
work-queue clear-concurrency-limit urgent --pool etl
work-queue preview default --pool etl
work-queue slots urgent --pool etl -o json
work-queue slots none --pool etl = 3
work-queue delete urgent --pool etl
work-queue delete default --pool etl = 2
work-pool delete other
deployment delete doubled/nightly
deployment delete doubled/nightly = 3
deployment delete --all
worker ls -o json
worker ls --pool etl
worker inspect loader -o json
worker inspect none = 3
cache ls -o json
cache ls --limit 1
cache ls --older-than 1h
cache clear --key none
cache clear --yes
transaction ls -o json
transaction ls --state ROLLED_BACK --limit 1
transaction inspect $ROLLED -o json
transaction inspect $ROLLED
transaction inspect none = 3
transaction retry $ROLLED = 4
global-concurrency-limit create api --limit 2
global-concurrency-limit create api --limit 2 = 4
global-concurrency-limit ls -o json
global-concurrency-limit inspect api -o json
global-concurrency-limit update api --limit 3 -o json
global-concurrency-limit disable api
global-concurrency-limit enable api
global-concurrency-limit delete api
global-concurrency-limit delete api = 3
variable set region eu
variable set region us = 4
variable set region us --overwrite
variable ls -o json
variable get region
variable inspect region -o json
variable unset region
variable set region eu
variable delete region
variable delete region = 3
artifact ls -o json
artifact inspect report -o json
artifact delete report --yes
artifact inspect report = 3
events emit order.shipped --resource-id order.42
events ls --event order.* -o json
user create ada --password-stdin
user create ada --password-stdin = 4
user ls -o json
user update ada --scope read
user update ada --disable
user update none --scope read = 3
user ls
user delete ada
api-key create ci --scope read
api-key ls -o json
api-key delete ci
api-key delete ci = 3
flow-run delete $GOOD
"""


def commands(command: click.Command, name: str = "") -> Iterator[str]:
    """The names of all commands below one."""
    if not isinstance(command, click.Group):
        yield name.strip()
        return
    context = click.Context(command)
    for each in command.list_commands(context):
        _, found, _ = command.resolve_command(context, [each])
        assert found is not None
        yield from commands(found, f"{name} {each}")


def script() -> Iterator[tuple[list[str], int, str]]:
    """Of each line: the words of the command, its exit code, and the name its first line of data goes by."""
    for line in SCRIPT.strip().splitlines():
        said, _, name = line.partition(" -> ")
        said, _, code = said.partition(" = ")
        yield [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', said)], int(code or 0), name


def test_the_script_knows_every_command() -> None:
    """A new command is said both ways too, or named here as one that cannot."""
    said = {" ".join(words) for words, *_ in script()}
    wanted = set(commands(cli)) - OF_THIS_HOST - LOAD_CODE - ENDLESS

    assert {name for name in wanted if not any(f"{each} ".startswith(f"{name} ") for each in said)} == set()
    assert set(commands(cli)) >= OF_THIS_HOST | LOAD_CODE | ENDLESS


def taken(method: Callable[..., object], *, named: bool) -> list[tuple[str, object]]:
    """What a method takes, with the defaults; without `named` only what is not handed on as it is."""
    parameters = inspect.signature(method).parameters.values()
    return [(each.name, each.default) for each in parameters if named or each.kind == each.POSITIONAL_OR_KEYWORD]


def test_database_and_api_are_asked_by_the_same_methods() -> None:
    """With the same parameters, where the database's do not just hand them on."""
    asked = {name: method for name, method in inspect.getmembers(DatabaseBackend, callable) if name[0] != "_"}
    for name, method in asked.items():
        hands_on = any(each.kind == each.VAR_KEYWORD for each in inspect.signature(method).parameters.values())
        of_api = getattr(HttpBackend, name)
        assert taken(of_api, named=not hands_on) == taken(method, named=not hands_on), name
    assert {name for name, _ in inspect.getmembers(HttpBackend, callable) if name[0] != "_"} == asked.keys()


def begin(driver: Driver) -> dict[str, str]:
    """What there is before the script: a deployment, a worker, runs that ended, a cached result, an artifact."""
    at, runner = driver.database, CliRunner()
    assert runner.invoke(cli, ["work-pool", "create", "etl"]).exit_code == 0
    Deployment.build_from_flow(flows.doubled, "nightly", parameters={"number": 1}, work_pool_name="etl").apply()
    row = WorkerRow(name="loader@here", host="here", pid=7, queues=("etl",), slots=2, pool="prefork", version="1")
    workers.register(at, row)
    good, bad, rolled = (driver.submit(each, number=4) for each in (flows.kept, flows.refused, flows.rolled_back))
    for run_id in (good, bad, rolled):
        driver.finish(run_id)
    behind.flush()
    listed = runner.invoke(cli, ["task-run", "ls", "--flow-run", bad])
    key = runner.invoke(cli, ["api-key", "create", "own"]).stdout.strip()
    return {
        "$KEY": key,
        "$GOOD": good,
        "$BAD": bad,
        "$ROLLED": rolled,
        "$TASK": listed.stdout.splitlines()[1].split()[0],
    }


def told(names: dict[str, str]) -> Iterator[str]:
    """What the script's commands say, with what differs between any two runs of it taken out."""
    for words, code, name in script():
        given = [names.get(word, word) for word in words]
        result = CliRunner().invoke(cli, given, input="a long password\n", catch_exceptions=False)
        assert result.exit_code == code, f"{' '.join(words)}: {result.output}"
        if name:
            names[name] = result.stdout.split()[0]
        yield f"$ {' '.join(words)}\n{plain(result.output)}"


def plain(text: str) -> str:
    """Text without times, ids, random names, keys and processes, and the room they take in tables."""
    text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)?", "TIME", text)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}|[0-9a-f]{16,}|(?<=/)[0-9a-f]{8}(?=\")", "ID", text)
    text = re.sub(r"\d+\.\d{4,}|(?<=after )[\d.]+(?= s)", "NUMBER", text)
    text = re.sub(r"orc_[\w-]+", "KEY", text)
    # Nobody but the API's client uses the key that it uses.
    text = re.sub(r'("last_used": ).*', r"\1...", text)
    text = re.sub(r"[ -]{2,}", " ", text)
    return re.sub(r"(ID doubled |\"name\": \")[a-z]+-[a-z]+\b", r"\1NAME", text)


@contextlib.contextmanager
def through_api(monkeypatch: pytest.MonkeyPatch, key: str) -> Iterator[None]:
    """The commands know of a server only, and a key."""
    with TestClient(create_app(), base_url="http://127.0.0.1:4200") as web, monkeypatch.context() as patched:
        web.headers["Authorization"] = f"Bearer {key}"
        patched.setattr("orchestra.client.caller._client", lambda url, headers: web)
        patched.setattr("orchestra.client.backend.database", refuse)
        patched.setenv("ORCHESTRA_API_URL", "http://127.0.0.1:4200/api")
        settings.reset()
        yield
    settings.reset()


def refuse(*_: object) -> None:
    """In the place of the database."""
    raise AssertionError("the database was asked")


def test_all_commands_say_the_same_both_ways(
    home: Path, broker: servers.Broker, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Word for word, errors and exit codes among it."""
    heard = []
    for way in ("directly", "by-api"):
        with conftest.fresh_database("sqlite", request, home / way) as url:
            monkeypatch.setenv("ORCHESTRA_DATABASE_URL", url)
            conftest.forget()
            names = begin(Driver(database(), slots=1))
            by_api = through_api(monkeypatch, names["$KEY"])
            with by_api if way == "by-api" else contextlib.nullcontext():
                heard.append(list(told(names)))
            conftest.forget()

    assert [pair for pair in zip(*heard, strict=True) if pair[0] != pair[1]] == []
