"""Run Celery's own unit tests twice, without orchestra and with it on every app, and compare: `make celery-suite`.

The tests are those of the installed version, from its source distribution. They run in an environment of their own,
with what they need. What fails only with orchestra is a fault of ours.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import xml.etree.ElementTree as ET
from collections import Counter
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: What Celery's unit tests import beside Celery.
NEEDED = ["pytest>=8.3", "pytest-subtests", "pytest-timeout", "pytest-click", "pytest-order", "moto", "boto3"]
#: How long one test may take, in seconds.
TIMEOUT = 60


def main() -> int:
    """Fetch, run, compare; gives 1 where a test fails with orchestra only."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where source and environment are kept; default: a temporary one"
    )
    parser.add_argument("words", nargs="*", help="more words for pytest, such as -k 'worker and not pool'")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        folder = (options.folder or Path(passing)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        source = fetched(folder)
        python = environment(folder)
        words = options.words or ["t/unit"]
        without = outcomes(python, source, folder / "without.xml", words)
        including = outcomes(python, source, folder / "with.xml", ["-p", "tests.compat.everywhere", *words])
        return report(without, including)


def fetched(folder: Path) -> Path:
    """The unpacked source of the installed Celery."""
    number = version("celery")
    source = folder / f"celery-{number}"
    if not source.exists():
        command = [sys.executable, "-m", "pip", "download", "--no-binary", ":all:", "--no-deps", f"celery=={number}"]
        subprocess.run([*command, "--dest", str(folder)], check=True)
        with tarfile.open(folder / f"celery-{number}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    if not (source / "t" / "unit").is_dir():
        raise SystemExit(f"the source distribution of Celery {number} has no tests")
    # The installed Celery is tested, not the one beside the tests.
    if (source / "celery").exists():
        (source / "celery").rename(source / "celery-source")
    return source


def environment(folder: Path) -> Path:
    """The Python of an environment that has what the tests need, on top of ours."""
    place = folder / "environment"
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *NEEDED], check=True)
    return python


def outcomes(python: Path, source: Path, result: Path, words: list[str]) -> dict[str, str]:
    """How each test ended, by its name."""
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    with tempfile.TemporaryDirectory() as home:
        surrounding = {
            name: value for name, value in os.environ.items() if not name.startswith(("ORCHESTRA_", "CELERY_"))
        }
        surrounding |= {"ORCHESTRA_HOME": home, "PYTHONPATH": f"{ROOT}:{packages}"}
        command = [str(python), "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"]
        subprocess.run(
            [*command, f"--timeout={TIMEOUT}", f"--junitxml={result}", *words],
            cwd=source,
            env=surrounding,
            check=False,
        )
    return read(result)


def read(result: Path) -> dict[str, str]:
    """The outcomes in a JUnit file."""
    if not result.exists():
        raise SystemExit(f"pytest wrote no {result}: it did not run")
    found: dict[str, str] = {}
    for case in ET.parse(result).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = next((kind for kind in ("error", "failure", "skipped") if kind in kinds), "passed")
        found[f"{case.get('classname')}::{case.get('name')}"] = outcome
    return found


def report(without: dict[str, str], including: dict[str, str]) -> int:
    """Print the numbers and what is new; gives the exit code."""
    for title, found in (("without orchestra", without), ("with orchestra", including)):
        counted = Counter(found.values())
        print(f"{title}: " + ", ".join(f"{count} {kind}" for kind, count in sorted(counted.items())))
    bad = {"error", "failure"}
    new = sorted(name for name, outcome in including.items() if outcome in bad and without.get(name) not in bad)
    missing = sorted(without.keys() - including.keys())
    for name in new:
        print(f"fails with orchestra only: {name}")
    for name in missing:
        print(f"did not run with orchestra: {name}")
    print(f"{len(new)} new failures, {len(missing)} tests that did not run")
    return 1 if new or missing or not including else 0


if __name__ == "__main__":
    sys.exit(main())
