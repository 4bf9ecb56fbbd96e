"""Leadership: of the many that could do a duty, a database row says who does it, and when it was last done."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra.store.database import Database, insert, instant
from orchestra.store.tables import leaders

#: No duty to lead in: `ticked_at` is when a sweeper last saw the database, `lease_until` from when on it may expire.
EXPIRY = "expiry"
#: Part of a lease after which an outage may have cost a living owner its claim: it renews every sixth.
_AWAY = 5 / 6


def lead(database: Database, duty: str, owner: str, lease_seconds: float) -> bool:
    """Take or keep a duty for `lease_seconds`, if nobody else holds it; gives whether it is the caller's."""

    def work(connection: Connection) -> bool:
        moment = instant(connection)
        row = connection.execute(sa.select(leaders).where(leaders.c.duty == duty).with_for_update()).first()
        values = {"owner": owner, "lease_until": moment + lease_seconds, "ticked_at": moment}
        if row is None:
            statement = insert(connection, leaders).values(duty=duty, **values).on_conflict_do_nothing()
            return connection.execute(statement.returning(leaders.c.duty)).first() is not None
        if row.owner != owner and row.lease_until > moment:
            return False
        connection.execute(sa.update(leaders).where(leaders.c.duty == duty).values(**values))
        return True

    return database.write(work)


def step_down(database: Database, duty: str, owner: str) -> None:
    """Give a duty up, so that another may take it at once."""
    mine = sa.and_(leaders.c.duty == duty, leaders.c.owner == owner)
    statement = sa.update(leaders).where(mine).values(lease_until=0.0)
    database.write(lambda connection: connection.execute(statement).rowcount)


def may_expire(connection: Connection, lease_seconds: float) -> bool:
    """Note that a sweeper is there, and tell whether leases that have lapsed may be expired in this transaction.

    They may not for a lease after nobody was there: the database, or every sweeper, was away, and owners that live
    could not renew. It is asked within the transaction that expires: one that waited for the database knows of it.

    The row stays locked until the transaction ends; one that crashes has neither ticked nor expired.
    """
    moment = instant(connection)
    row = connection.execute(sa.select(leaders).where(leaders.c.duty == EXPIRY).with_for_update()).first()
    if row is None:
        values = {"duty": EXPIRY, "owner": "", "lease_until": 0.0, "ticked_at": moment}
        connection.execute(insert(connection, leaders).values(**values).on_conflict_do_nothing())
        return True
    was_away = moment - row.ticked_at > lease_seconds * _AWAY
    expire_from = moment + lease_seconds if was_away else row.lease_until
    statement = sa.update(leaders).where(leaders.c.duty == EXPIRY)
    connection.execute(statement.values(lease_until=expire_from, ticked_at=moment))
    return bool(expire_from <= moment)
