"""Names: of flows from functions, of runs from words, and what an address's name says."""

from __future__ import annotations

import ipaddress
import random
import re
from functools import lru_cache

from orchestra.identifiers import fingerprint

#: A longer name is cut, and told from others by a digest.
LONGEST_STEP_NAME = 120

_ADJECTIVES = (
    "amber bold brave brisk calm clever crimson curious daring dapper eager early fair fleet gentle glad golden hardy "
    "honest humble jolly keen kind lively lucky mellow merry mighty misty modest nimble noble patient placid polite "
    "proud quick quiet rapid rosy serene sharp shy silver simple sleek sly smart snowy solid spry steady still sunny "
    "swift tidy tranquil upbeat vivid warm wise witty young zesty"
).split()
_NOUNS = (
    "badger bear beetle bison bobcat buck camel caribou cobra condor coyote crane cricket deer dingo dolphin dove "
    "eagle egret elk falcon ferret finch fox gazelle gecko goose hare hawk heron ibex ibis jackal jay kestrel kiwi "
    "koala lark lemur lion llama lynx magpie marmot marten mole moose newt ocelot orca osprey otter owl panda pelican "
    "penguin puffin puma quail rabbit raven robin salmon seal shrew skunk sloth sparrow squid stoat stork swan tapir "
    "tern tiger toad trout viper vole walrus weasel whale wolf wombat wren yak zebra"
).split()


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def clean_text(text: str) -> str:
    r"""Text that every database takes: NUL becomes `\x00`, a lone surrogate `\udXXX`, as text."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def visible(text: str) -> str:
    r"""Text on one line that no terminal obeys: line ends and other control characters as `\x0a`."""
    return text if text.isprintable() else _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def flow_name(function_name: str) -> str:
    """A flow's default name: its function's, with `_` read as `-`."""
    return function_name.replace("_", "-")


@lru_cache(maxsize=4096)
def step_name(task_name: str) -> str:
    """A task's name as it stands in step keys: without the characters that part a key (`/`, white space), and short."""
    name = re.sub(r"[\s/]+", "-", clean_text(task_name)) or "task"
    if len(name) <= LONGEST_STEP_NAME:
        return name
    return f"{name[: LONGEST_STEP_NAME - 9]}~{fingerprint(name.encode())[:8]}"


def run_name() -> str:
    """A random name for a flow run, two words."""
    return f"{random.choice(_ADJECTIVES)}-{random.choice(_NOUNS)}"


#: Longest name of a queue, in bytes: RabbitMQ takes 255, of which the suffix for wake-ups needs some.
_LONGEST_QUEUE = 240


def versioned_queue(queue: str, version: str) -> str:
    """The Celery queue on which messages of `queue` travel that are for workers of one version: `queue@version`."""
    name = f"{queue}@{version}"
    return name if len(name.encode()) <= _LONGEST_QUEUE else f"{queue}@{fingerprint(version.encode())[:16]}"


#: The queue of a work pool that takes what names no other.
DEFAULT_QUEUE = "default"


def pool_queue(pool: str, queue: str | None = None) -> str:
    """The Celery queue of a work pool's queue: `P` of its default one, else `P.q`."""
    return pool if queue in (None, "", DEFAULT_QUEUE) else f"{pool}.{queue}"


def pool_of(queue: str) -> tuple[str, str]:
    """The names of the work pool, and of its work queue, that a Celery queue belongs to if there is such a pool."""
    pool, _, name = queue.partition("@")[0].partition(".")
    return pool, name or DEFAULT_QUEUE


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
