"""Money goes from one account to another, once: the two rows and the end of the task are one commit."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from orchestra import flow, task
from orchestra.transactions import db_transaction


class Base(DeclarativeBase):
    """Our tables, in the database that orchestra uses."""


class Account(Base):
    """What somebody has."""

    __tablename__ = "accounts"
    owner: Mapped[str] = mapped_column(primary_key=True)
    cents: Mapped[int]


@task
def open_accounts() -> None:
    """The tables, and 100 euros for Ada."""
    with db_transaction() as session:
        Base.metadata.create_all(session.connection())
        session.merge(Account(owner="ada", cents=10_000))
        session.merge(Account(owner="bob", cents=0))


@task
def transfer(payer: str, payee: str, cents: int) -> int:
    """Move money; gives what the payer has left."""
    with db_transaction() as session:
        source = session.get_one(Account, payer, with_for_update=True)
        target = session.get_one(Account, payee, with_for_update=True)
        if source.cents < cents:
            raise ValueError(f"{payer} has {source.cents} cents only")
        source.cents -= cents
        target.cents += cents
    return source.cents


@task
def balances() -> dict[str, int]:
    """What everybody has."""
    with db_transaction() as session:
        return {account.owner: account.cents for account in session.scalars(sa.select(Account))}


@flow(log_prints=True)
def pay_day(times: int = 3) -> dict[str, int]:
    """Transfers one after another; the last one is too much."""
    open_accounts()
    for _ in range(times):
        print("left:", transfer("ada", "bob", 3_000))
    print("refused:", transfer("ada", "bob", 3_000, return_state=True).message)
    return balances()


if __name__ == "__main__":
    print(pay_day())
