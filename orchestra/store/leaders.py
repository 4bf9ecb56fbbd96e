"""Leadership: of the many that could do a duty, a database row says who does it."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra.store.database import Database, insert, instant
from orchestra.store.tables import leaders


@dataclass(frozen=True, slots=True)
class Leadership:
    """The answer to asking for a duty."""

    is_leader: bool
    #: Seconds since the duty was last done by anyone; None: never before.
    idle_seconds: float | None


def lead(database: Database, duty: str, owner: str, lease_seconds: float) -> Leadership:
    """Take or keep a duty for `lease_seconds`, if nobody else holds it."""

    def work(connection: Connection) -> Leadership:
        moment = instant(connection)
        row = connection.execute(sa.select(leaders).where(leaders.c.duty == duty).with_for_update()).first()
        values = {"owner": owner, "lease_until": moment + lease_seconds, "ticked_at": moment}
        if row is None:
            statement = insert(connection, leaders).values(duty=duty, **values).on_conflict_do_nothing()
            return Leadership(connection.execute(statement.returning(leaders.c.duty)).first() is not None, None)
        idle = moment - row.ticked_at
        if row.owner != owner and row.lease_until > moment:
            return Leadership(False, idle)
        connection.execute(sa.update(leaders).where(leaders.c.duty == duty).values(**values))
        return Leadership(True, idle)

    return database.write(work)


def step_down(database: Database, duty: str, owner: str) -> None:
    """Give a duty up, so that another may take it at once."""
    mine = sa.and_(leaders.c.duty == duty, leaders.c.owner == owner)
    statement = sa.update(leaders).where(mine).values(lease_until=0.0)
    database.write(lambda connection: connection.execute(statement).rowcount)
