"""How many runs ended when, and in which state: each half hour is counted once it is over, and kept.

A history may hold millions of ends, and counting them takes as long as there are; what is asked for is put together
from these counts, and what ended since. A run may be retried or deleted later, so the counts are made again in turn, a
bounded number of ends each time that all of them are asked for.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from weakref import WeakKeyDictionary

from orchestra import clock
from orchestra.store import run_lists
from orchestra.store.database import Database
from orchestra.store.run_lists import Ended

#: How long a stretch is that is counted once, in seconds. Longer parts of a time are made of such.
STRETCH = 1800.0
#: A stretch is over so many seconds after its end: an end is written a little later than it was.
_SETTLED = 60.0
#: Stretches that one statement counts at most.
_AT_ONCE = 48
#: Ends that are counted again at a time, or this part of all where it is more; of one stretch all.
_AGAIN, _PART = 20_000, 200


class Throughput:
    """The counts of one database. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: By the ordinal of the stretch since the epoch; only of what is over.
        self._counts: dict[int, Ended] = {}
        #: Held while all there is is counted.
        self._counting = threading.Lock()
        #: All before this stretch is known. None: nobody asked for all yet.
        self._complete: int | None = None
        #: What is counted again next.
        self._turn = 0

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
        if width % STRETCH:
            return run_lists.ended_since(db, first * width, (last + 1) * width, parts=parts)
        each = round(width / STRETCH)
        counts = self._between(db, first * each, math.floor(until / STRETCH) + 1, _settled(until))
        return [_together(place * width, counts[(place - first) * each :][:each]) for place in range(first, last + 1)]

    def all(self, db: Database) -> Ended:
        """How many runs that are there have ended, whenever. What was deleted or retried may count for a while."""
        settled = _settled(clock.now())
        with self._counting:
            self._complete_until(db, settled)
            self._count_again(db, settled)
            lately = run_lists.ended_after(db, settled * STRETCH)
            with self._lock:
                known = [count for place, count in self._counts.items() if place < settled]
        return _together(-math.inf, [*known, lately])

    def _between(self, db: Database, first: int, end: int, settled: int) -> list[Ended]:
        """The counts of these stretches, in their order; those that are not known are counted."""
        with self._lock:
            found = {place: self._counts[place] for place in range(first, end) if place in self._counts}
        for some in _neighbours(place for place in range(first, end) if place not in found):
            found |= self._count(db, some, settled)
        return [found[place] for place in range(first, end)]

    def _complete_until(self, db: Database, settled: int) -> None:
        """Count all before a stretch that was not, and skip what holds no ends."""
        place = self._complete
        while (end := run_lists.first_end(db, None if place is None else place * STRETCH)) is not None:
            begin = math.floor(end / STRETCH)
            if begin >= settled:
                break
            place = min(begin + _AT_ONCE, settled)
            self._count(db, range(begin, place), settled)
        self._complete = settled

    def _count_again(self, db: Database, settled: int) -> None:
        """Those whose turn it is."""
        with self._lock:
            counts = sorted((place, count.total) for place, count in self._counts.items() if count.total)
        after = [each for each in counts if each[0] >= self._turn] or counts
        if not after:
            return
        begin, left = after[0][0], max(_AGAIN, sum(total for _, total in counts) // _PART)
        end = begin + 1
        for place, total in after:
            left -= total
            if place >= begin + _AT_ONCE or left < 0:
                break
            end = place + 1
        self._count(db, range(begin, end), settled)
        self._turn = end

    def _count(self, db: Database, places: range, settled: int) -> dict[int, Ended]:
        begin, end = places.start * STRETCH, places.stop * STRETCH
        found = dict(zip(places, run_lists.ended_since(db, begin, end, parts=len(places)), strict=True))
        with self._lock:
            self._counts |= {place: count for place, count in found.items() if place < settled}
        return found


_of: WeakKeyDictionary[Database, Throughput] = WeakKeyDictionary()


def throughput_of(db: Database) -> Throughput:
    """The one of a database in this process."""
    return _of.setdefault(db, Throughput())


def _settled(until: float) -> int:
    """The first stretch that is not over."""
    return math.floor((until - _SETTLED) / STRETCH)


def _together(begin: float, counts: Sequence[Ended]) -> Ended:
    names = ("completed", "failed", "crashed", "cancelled")
    return Ended(begin, *(sum(getattr(count, name) for count in counts) for name in names))


def _neighbours(places: Iterable[int]) -> Iterator[range]:
    """Ordinals as ranges of such as follow one another, none longer than one statement counts."""
    begin = end = None
    for place in places:
        if begin is None or end is None:
            begin, end = place, place + 1
        elif place == end and end - begin < _AT_ONCE:
            end = place + 1
        else:
            yield range(begin, end)
            begin, end = place, place + 1
    if begin is not None and end is not None:
        yield range(begin, end)
