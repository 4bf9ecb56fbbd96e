"""A flow that asks a person before it pays a large invoice."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from orchestra import flow, pause_flow_run, task
from orchestra.input import RunInput


class Approval(RunInput):
    """Whether an invoice is to be paid."""

    approved: bool
    reason: str = Field("", max_length=200, description="Kept with the payment.")


@task
def read_invoice(number: str) -> float:
    """What an invoice comes to, in euros."""
    return {"2026-117": 1250.0, "2026-118": 80.0}[number]


@task(retries=3, retry_delay_seconds=2)
def pay(number: str, amount: float, reason: str) -> str:
    """Pay it."""
    return f"paid {amount:.2f} euros for {number} ({reason})"


@flow(log_prints=True)
def pay_invoice(number: str = "2026-117", limit: float = 1000.0) -> str:
    """Pay an invoice; above the limit only if somebody says so."""
    amount = read_invoice(number)
    if amount <= limit:
        return pay(number, amount, "below the limit")
    question = Approval.with_initial_data(
        description=f"Invoice {number} comes to {amount:.2f} euros. Pay it?",
        reason="within the budget",
    )
    answer = pause_flow_run(wait_for_input=question, timeout=timedelta(days=3), key="approval")
    if not answer.approved:
        return f"{number} is not paid: {answer.reason}"
    return pay(number, amount, answer.reason)


if __name__ == "__main__":
    print(pay_invoice())
