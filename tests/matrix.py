"""Which combinations of pool, broker and database a session runs: a third of all, or all.

`ORCHESTRA_TEST_MATRIX=all` runs all of them; another number is the seed of another third.
"""

from __future__ import annotations

import itertools
import os
import random

POOLS = ("prefork", "threads", "gevent", "solo")
BROKERS = ("valkey", "valkey-socket", "rabbitmq")
DATABASES = ("sqlite", "postgres")
VARIABLE = "ORCHESTRA_TEST_MATRIX"

ALL = list(itertools.product(POOLS, BROKERS, DATABASES))
#: The same in every run: whether it passes must not depend on luck.
SEED = os.environ.get(VARIABLE) or "1"


def selected(seed: str = SEED) -> list[tuple[str, str, str]]:
    """The combinations of a seed, in which each pool, broker and database occurs; all of them where it is "all"."""
    if seed == "all":
        return ALL
    rng = random.Random(seed)
    while True:
        chosen = set(rng.sample(ALL, len(ALL) // 3))
        if set(itertools.chain.from_iterable(chosen)) == {*POOLS, *BROKERS, *DATABASES}:
            return [each for each in ALL if each in chosen]


def header() -> str:
    """What a session says of it."""
    return f"matrix: {len(selected())} of {len(ALL)} combinations, {VARIABLE}={SEED}"
