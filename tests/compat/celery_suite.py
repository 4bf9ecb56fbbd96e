"""Run Celery's own unit tests twice, without orchestra and with it on every app, and compare: `make celery-suite`.

The tests are those of the installed version, from its source distribution; Celery itself is the released one. They run
in an environment of their own, with what they need. What fails with orchestra only is a fault of ours. What fails in
both runs is of the place: tests that root must not run, and those of services whose clients are not installed.

    python -m tests.compat.celery_suite [--folder FOLDER] [WORDS FOR PYTEST…]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import xml.etree.ElementTree as ET
from collections import Counter
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: What Celery's unit tests import, beside Celery and what we depend on. A module of tests that misses one is left out.
NEEDED = (
    "pytest>=8.3 pytest-subtests pytest-timeout pytest-click pytest-order freezegun cryptography pymongo boto3 moto "
    "pyyaml msgpack gevent fakeredis[lua] pymemcache ephem tblib azure-storage-blob azure-identity grpcio "
    "google-cloud-storage google-cloud-firestore"
).split()
#: How long one test may take, in seconds.
TIMEOUT = 120
BAD = {"error", "failure"}


def main() -> int:
    """Fetch, run, compare; gives 1 where a test fails with orchestra only."""
    parser = argparse.ArgumentParser(description="Run Celery's own unit tests without and with orchestra.")
    parser.add_argument("--folder", type=Path, help="where the source and the environment are kept (default: nowhere)")
    options, words = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as passing:
        folder = (options.folder or Path(passing)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        source, python = fetched(folder), environment(folder)
        without = outcomes(python, source, folder / "without.xml", words or ["t/unit"])
        including = outcomes(
            python, source, folder / "with.xml", ["-p", "tests.compat.everywhere", *(words or ["t/unit"])]
        )
    return report(without, including)


def fetched(folder: Path) -> Path:
    """The unpacked source of the Celery that is installed here."""
    number = version("celery")
    source = folder / f"celery-{number}"
    if not source.exists():
        command = [sys.executable, "-m", "pip", "download", "--no-binary", ":all:", "--no-deps", f"celery=={number}"]
        subprocess.run([*command, "--quiet", "--dest", str(folder)], check=True)
        with tarfile.open(folder / f"celery-{number}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    if not (source / "t" / "unit").is_dir():
        raise SystemExit(f"the source distribution of Celery {number} has no tests")
    if (source / "celery").exists():
        # The installed one is tested, not the one beside the tests.
        (source / "celery").rename(source / "celery-source")
    return source


def environment(folder: Path) -> Path:
    """The Python of an environment that has what the tests and orchestra need."""
    place = folder / "environment"
    ready = place / ".ready"
    if not ready.exists():
        venv.create(place, with_pip=True)
        ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        wanted = [*ours, *NEEDED, f"celery=={version('celery')}", f"kombu=={version('kombu')}"]
        subprocess.run([str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", *wanted], check=True)
        ready.touch()
    return place / "bin" / "python"


def outcomes(python: Path, source: Path, result: Path, words: list[str]) -> dict[str, str]:
    """How each test ended, by its name."""
    result.unlink(missing_ok=True)
    plugins = ["-p", "no:cacheprovider", "-p", "celery.contrib.pytest"]
    command = [str(python), "-m", "pytest", "-q", *plugins, "--continue-on-collection-errors", f"--timeout={TIMEOUT}"]
    with tempfile.TemporaryDirectory() as home:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ORCHESTRA_", "CELERY_"))}
        surrounding = kept | {"ORCHESTRA_HOME": home, "PYTHONPATH": str(ROOT)}
        subprocess.run([*command, f"--junitxml={result}", *words], cwd=source, env=surrounding, check=False)
    return read(result)


def read(result: Path) -> dict[str, str]:
    """The outcomes in a JUnit file."""
    if not result.exists():
        raise SystemExit(f"pytest wrote no {result.name}: it did not run to its end")
    found: dict[str, str] = {}
    for case in ET.parse(result).iter("testcase"):
        kinds = {child.tag for child in case}
        name = f"{case.get('classname')}::{case.get('name')}"
        outcome = next((kind for kind in ("error", "failure", "skipped") if kind in kinds), "passed")
        # A test whose teardown fails stands there twice.
        found[name] = outcome if found.get(name) not in BAD else found[name]
    return found


def report(without: dict[str, str], including: dict[str, str]) -> int:
    """Print the numbers and what is new; gives the exit code."""
    for title, found in (("without orchestra", without), ("with orchestra", including)):
        print(f"{title}: " + ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(found.values()).items())))
    new = sorted(name for name, outcome in including.items() if outcome in BAD and without.get(name) not in BAD)
    missing = sorted(without.keys() - including.keys())
    for name in new:
        print(f"fails with orchestra only: {name}")
    for name in missing:
        print(f"did not run with orchestra: {name}")
    print(f"{len(new)} new failures; {len(missing)} tests did not run")
    return 1 if new or missing or not including else 0


if __name__ == "__main__":
    sys.exit(main())
