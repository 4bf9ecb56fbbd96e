"""How many runs ended when: counted once, and kept, since what is over does not change.

A month may hold a million ends, and counting them takes as long as there are; of each range of time all but the newest
part was counted before. A run that is retried or deleted later has ended then all the same.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict

from orchestra.store import run_lists
from orchestra.store.database import Database
from orchestra.store.run_lists import Ended

#: How many parts are kept; those that were asked for last stay.
_KEPT = 2_000
#: A part is over so many seconds after its end: an end is written a little later than it was.
_SETTLED = 60.0


class Throughput:
    """The counts of one database. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: OrderedDict[tuple[str, float, int], Ended] = OrderedDict()

    def ended(self, db: Database, until: float, seconds: float, *, parts: int) -> list[Ended]:
        """How many runs ended in each of equal parts of a time, whose beginnings are the same whenever it is asked.

        Args:
            db: The database.
            until: The end of the last part, in seconds since the epoch; that part may be shorter.
            seconds: How long the time is.
            parts: Of it.
        """
        width = seconds / parts
        last = math.floor(until / width)
        first = last - parts + 1
        with self._lock:
            known = {place: self._counts.get((db.url, width, place)) for place in range(first, last + 1)}
        unknown = [place for place, count in known.items() if count is None]
        # The unknown ones are the newest, or all of them.
        counted = run_lists.ended_since(db, unknown[0] * width, (last + 1) * width, parts=last + 1 - unknown[0])
        found = known | dict(zip(range(unknown[0], last + 1), counted, strict=True))
        self._keep(db.url, width, found, until - _SETTLED)
        return [count for count in found.values() if count is not None]

    def _keep(self, url: str, width: float, found: dict[int, Ended | None], settled: float) -> None:
        with self._lock:
            for place, count in found.items():
                if count is not None and (place + 1) * width <= settled:
                    self._counts[url, width, place] = count
                    self._counts.move_to_end((url, width, place))
            while len(self._counts) > _KEPT:
                self._counts.popitem(last=False)
