"""Images for deployments: named, and built and pushed by the engine's own command line."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestra.errors import ImageNotBuilt

#: How long the engine may take to answer at all, in seconds.
_ANSWERS_WITHIN = 30.0
#: The programs that build images; the first on PATH is asked.
_ENGINES = ("docker", "podman")


@dataclass(frozen=True, slots=True)
class DockerImage:
    """An image that runs of a deployment start in.

    The name may carry the tag: `DockerImage("registry/etl:1.2")`.
    """

    name: str
    tag: str | None = None
    #: A Dockerfile, or "auto": one made here, of this folder and its requirements.txt.
    dockerfile: str = "auto"
    #: Further options of `docker build`, as in `{"target": "prod"}`.
    build_kwargs: Mapping[str, str] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """The name with its tag: "etl:latest"."""
        if self.tag is not None:
            return f"{self.name}:{self.tag}"
        return self.name if ":" in self.name.rpartition("/")[2] or "@" in self.name else f"{self.name}:latest"

    def build(self) -> None:
        """Build the image of the working directory.

        Raises:
            ImageNotBuilt: No engine answers, or the build failed.
        """
        options = [part for name, value in self.build_kwargs.items() for part in (f"--{name}", str(value))]
        command = [_engine(self.reference), "build", "--tag", self.reference, *options]
        if self.dockerfile == "auto":
            _run(self.reference, [*command, "--file", "-", "."], _AUTO)
        elif not Path(self.dockerfile).is_file():
            raise ImageNotBuilt(self.reference, f"there is no {self.dockerfile!r} in {str(Path.cwd())!r}")
        else:
            _run(self.reference, [*command, "--file", self.dockerfile, "."])

    def push(self) -> None:
        """Push the image to its registry.

        Raises:
            ImageNotBuilt: No engine answers, or it could not be pushed.
        """
        _run(self.reference, [_engine(self.reference), "push", self.reference])


#: The Dockerfile of "auto".
_AUTO = """
FROM python:3.12-slim
WORKDIR /opt/orchestra/flows
COPY . .
RUN pip install --no-cache-dir celery-orchestra && if [ -f requirements.txt ]; then pip install -r requirements.txt; fi
"""


def _engine(reference: str) -> str:
    """The program that builds images, if the engine behind it answers."""
    program = next(filter(None, map(shutil.which, _ENGINES)), None)
    if program is None:
        raise ImageNotBuilt(reference, f"neither of {' and '.join(_ENGINES)} is installed here")
    try:
        answer = subprocess.run([program, "info"], capture_output=True, text=True, timeout=_ANSWERS_WITHIN, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageNotBuilt(reference, f"{program} does not answer ({error})") from error
    if answer.returncode:
        raise ImageNotBuilt(reference, f"the engine behind {program} does not answer: {answer.stderr.strip()}")
    return program


def _run(reference: str, command: list[str], given: str | None = None) -> None:
    done = subprocess.run(command, input=given, text=True, check=False)
    if done.returncode:
        raise ImageNotBuilt(reference, f"`{' '.join(command)}` ended with {done.returncode}; see its output above")
