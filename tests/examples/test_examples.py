"""Every example runs here, in one process, and says what its README promises."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, wait_until

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"


def run(example: str, *words: str, home: Path) -> str:
    """What an example prints, to both streams; it must end well."""
    environment = {**os.environ, "ORCHESTRA_HOME": str(home), "PYTHONPATH": str(ROOT)}
    folder = shutil.copytree(EXAMPLES / example, home.parent / example)
    command = [sys.executable, "-W", "error", *words]
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


def test_the_quickstart_prints_what_the_readme_shows(home: Path) -> None:
    """The smallest program logs its sum under the run's name."""
    printed = run("quickstart", "hello.py", home=home)

    shown = re.search(r"Flow run '.+' - (\d.+)\n", (ROOT / "README.md").read_text())
    assert shown is not None
    assert shown[1] in printed


def test_the_pipeline_loads_twelve_months(home: Path) -> None:
    """The ETL example retries its flaky step, and its database holds the answer."""
    printed = run("etl_seattle", "etl.py", home=home)

    assert "the airport service did not answer" in printed
    with sqlite3.connect(home.parent / "etl_seattle" / "weather.db") as database:
        assert database.execute("select count(*), sum(hours) from months").fetchone() == (12, 8759)
    database.close()


def test_the_async_example_fetches_all_pages(home: Path) -> None:
    """Pages fetched by gather come back in order."""
    printed = run("async_fetch", "fetch.py", home=home)

    assert str([f"/page/{number}" for number in range(8)]) in printed


def test_a_flow_of_an_existing_celery_project_runs_without_celery(home: Path) -> None:
    """The same flow that workers run is a function here."""
    printed = run("existing_celery_app", "-c", "import flows; print(flows.daily_orders('2026-11-22'))", home=home)

    assert "{'north': 500, 'south': 500, 'west': 400}" in printed


def test_celery_tasks_of_an_existing_project_are_steps_here_too(home: Path) -> None:
    """A flow over the app's own tasks runs without Celery's workers."""
    printed = run("existing_celery_app", "-c", "import flows; print(flows.bill())", home=home)

    assert "['north: 6.25', 'south: 6.25', 'west: 5.00']" in printed


def test_the_accounts_come_to_what_the_readme_shows(home: Path) -> None:
    """The transfers that fit are there, the one that is refused is not."""
    printed = run("db_transaction", "accounts.py", home=home)

    shown = re.search(r"```text\n(.*?)\n```", (EXAMPLES / "db_transaction" / "README.md").read_text(), re.DOTALL)
    assert shown is not None
    assert shown[1] in printed
    assert "refused: ValueError: ada has 1000 cents only" in printed


def test_the_client_example_reports_what_failed(home: Path) -> None:
    """It prints what its README shows, and leaves one run."""
    printed = run("client", "report.py", home=home)

    shown = re.search(r"report.py\n(.*?)```", (EXAMPLES / "client" / "README.md").read_text(), re.DOTALL)
    assert shown is not None
    assert [line for line in printed.splitlines() if line in shown[1].splitlines()] == shown[1].splitlines()


def test_the_testing_example_passes_its_own_tests(home: Path) -> None:
    """With the plugin as it is installed with orchestra."""
    printed = run("testing", "-m", "pytest", "-q", "-p", "orchestra.testing.plugin", home=home)

    assert "5 passed" in printed


def test_the_hooks_example_pages_once(home: Path) -> None:
    """Of three runs two fail, and one of these has no pager."""
    printed = run("state_hooks", "shop.py", home=home)

    assert "12 orders on monday" in printed
    assert len(re.findall("PAGER: orders run .+ is Failed: ValueError: the shop is closed on sunday", printed)) == 1
    assert printed.count("orders of sunday are free again") == 2


def test_the_approval_example_waits_for_a_person_and_goes_on(home: Path) -> None:
    """The command line shows what it waits for, refuses what does not fit, and gives it the rest."""
    environment = {**os.environ, "ORCHESTRA_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", str(EXAMPLES / "human_approval" / "approve.py")]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as paying:
        (run_id,) = wait_until(lambda: paused(environment), "the flow to ask", 30, every=0.2)
        assert "approved (boolean, required)" in orchestra(environment, "flow-run", "inspect", run_id).stdout
        wrong = orchestra(environment, "flow-run", "resume", run_id, "--input", '{"approved": "perhaps"}')
        assert (wrong.returncode, "'approved'" in wrong.stderr) == (2, True)
        orchestra(environment, "flow-run", "resume", run_id, "--input", '{"approved": true}')
        printed, said = paying.communicate(timeout=60)

    assert (printed, paying.returncode) == ("paid 1250.00 euros for 2026-117 (within the budget)\n", 0), said


def orchestra(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """What a command of orchestra gives."""
    command = [sys.executable, "-m", "orchestra", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def paused(environment: dict[str, str]) -> list[str]:
    """The ids of the runs that are paused."""
    listed = orchestra(environment, "flow-run", "ls", "--state-type", "PAUSED", "-o", "json").stdout
    return [run["id"] for run in json.loads(listed or "[]")]


def test_the_message_example_orders_from_a_running_flow(home: Path) -> None:
    """The shop has what was in stock."""
    printed = run("human_approval", "messages.py", home=home)

    assert "had ['apples']\nleft {'apples': 6, 'pears': 3}\n" in printed


def test_the_canvas_example_prints_a_native_canvas(home: Path) -> None:
    """The drawn flow is a Celery signature that names its nodes."""
    printed = run("canvas", "draw.py", home=home)

    assert "orchestra.enter" in printed
    assert "pass_on(" in printed


def test_the_fan_out_prints_what_the_readme_shows(home: Path) -> None:
    """A thousand files in two maps; the failed ones are counted, and nothing depends on them."""
    printed = run("fan_out", "fan_out.py", "1000", home=home)

    shown = re.search(r"^\{'failed': 10, .*\}$", (EXAMPLES / "fan_out" / "README.md").read_text(), re.M)
    assert shown is not None
    assert shown[0] in printed


def test_the_async_api_answers_as_the_readme_shows(home: Path) -> None:
    """A quote, and an error of the flow as an answer."""
    printed = run("async_api", "api.py", home=home)

    for line in re.findall(r"^(?:200|502) .*$", (EXAMPLES / "async_api" / "README.md").read_text(), re.M):
        assert line in printed


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("flows", "2 Completed 2"),
        ("tasks", "first: 6, second: 6"),
        ("versions", "['order 7 is paid', 'order 7 is on its way']\n2026-10 is closed"),
        ("retries", "['there at try 3', 'there at try 3'"),
        ("results", "publishing 2026-11-26\nSummary(rows=3, mean=3.0) ['summary-2026-11-26.json']"),
        ("limits", "total 14 - had both"),
        ("caching", "asking for USD\nwriting the report of 2026-11-26\nwriting the report of 2026-11-25\n"),
        ("transactions", "airline: cancel OR 816\nairline: cancel OR 815\nseat 12A is free again\nsent 7 sent 7"),
        ("concurrency", "0.08 [0.01, 0.05] (1, 1) [0.0] [0.01, 0.01, 0.01]"),
    ],
)
def test_the_code_of_the_how_to_pages_runs(home: Path, page: str, shown: str) -> None:
    """And prints what it should."""
    assert shown in run("howto", f"{page}.py", home=home)


def test_every_common_mistake_gives_the_message_that_the_page_shows(home: Path) -> None:
    """Word for word, and no mistake is missing there."""
    printed = run("howto", "mistakes.py", home=home)

    page = (ROOT / "docs" / "howto" / "common-mistakes.md").read_text().partition("# On workers")[0]
    shown = re.findall(r"^```text\n(.*?)\n```", page, re.M | re.S)
    said = re.findall(r"^[a-z_]+: (\w+: .+)$", printed, re.M)
    assert [" ".join(message.split()) for message in shown] == said


def test_the_report_shows_what_the_readme_shows(home: Path) -> None:
    """Artifacts and variables of two runs."""
    printed = run("artifacts", "report.py", home=home)

    shown = re.search(r"```text\n(.*?)\n```", (EXAMPLES / "artifacts" / "README.md").read_text(), re.DOTALL)
    assert shown is not None
    for line in shown[1].splitlines():
        assert line in printed


def test_the_task_runners_example_counts_alike_everywhere(home: Path) -> None:
    """In processes, and one by one, as its README shows."""
    printed = run("task_runners", "primes.py", home=home)

    assert "2262 primes below 20000; counted one by one: 2262" in printed


def test_a_page_of_prefect_code_is_ported_by_search_and_replace(home: Path) -> None:
    """Both files differ in nothing else, and the ported one does what its README shows."""
    folder = EXAMPLES / "from_prefect"
    original = (folder / "shop_prefect.py").read_text()

    assert (folder / "shop.py").read_text() == original.replace("prefect", "orchestra").replace("Prefect", "orchestra")
    shown = re.search(r"^(\{'total'.*)$", (folder / "README.md").read_text(), re.MULTILINE)
    assert shown is not None
    assert shown[1] in run("from_prefect", "shop.py", home=home).splitlines()


def test_orders_tell_what_happens_to_them(home: Path) -> None:
    """A program hears of each order that is shipped; the token is in no line of the log."""
    printed = run("events", "orders.py", home=home)

    assert "order.1\norder.2\n0 runs have failed" in printed
    assert "calling the carrier with ********" in printed
    assert "carrier-token" not in printed
