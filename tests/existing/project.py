"""A Celery project as it was before, with tasks of every kind; and flows that call them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task, shared_task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

import orchestra.celery
from orchestra import flow, task
from orchestra.task_runners import ProcessPoolTaskRunner

app = Celery("existing", broker=os.environ.get("EXISTING_BROKER", "memory://"), set_as_current=False)
app.conf.update(
    task_default_queue="existing",
    task_routes={"billing.*": {"queue": "billing", "priority": 4}, "tests.existing.project.add": {"queue": "sums"}},
    **json.loads(os.environ.get("EXISTING_CONF", "{}")),
)
orchestra.celery.install(app)

#: What the handlers below saw, in order.
seen: list[tuple[Any, ...]] = []


class Watched(Task):
    """A base class of the project, with all of Celery's handlers."""

    abstract = True

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        seen.append(("before_start", list(args)))

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        seen.append(("on_success", retval))

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        seen.append(("on_retry", str(exc)))

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        seen.append(("on_failure", str(exc)))

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        seen.append(("after_return", status))


@app.task
def add(a: int, b: int = 1) -> int:
    """The sum."""
    return a + b


@app.task(bind=True)
def tells(self: Any, a: int, *, b: int = 2) -> dict[str, Any]:
    """What it finds in its request."""
    request = self.request
    return {
        "args": list(request.args),
        "kwargs": request.kwargs,
        "retries": request.retries,
        "called_directly": request.called_directly,
        "has_id": bool(request.id) and request.id == request.correlation_id,
        "has_root": bool(request.root_id) and request.root_id != request.id,
        "has_host": bool(request.hostname),
        "redelivered": request.delivery_info["redelivered"],
        "task": self.name,
    }


@app.task(bind=True, max_retries=2)
def third_time(self: Any) -> int:
    """Ends well at the third try."""
    if self.request.retries < 2:
        raise self.retry(countdown=0.01, exc=ValueError("not yet"))
    return int(self.request.retries)


@app.task(bind=True, max_retries=1)
def gives_up(self: Any) -> None:
    """Asks for more tries than it has."""
    seen.append(("try", self.request.retries))
    raise self.retry(countdown=0.01, exc=ValueError("never"))


@app.task(bind=True, max_retries=0, default_retry_delay=0)
def gives_up_plainly(self: Any) -> None:
    """As the one before, without an error of its own."""
    raise self.retry()


@app.task(autoretry_for=(LookupError,), dont_autoretry_for=(IndexError,), max_retries=2, retry_kwargs={"countdown": 0})
def looks_up(kind: str) -> str:
    """Raises what it is told to; tried again on some errors."""
    seen.append(("try", kind))
    if kind == "KeyError" and len(seen) == 3:
        return "found"
    raise {"KeyError": KeyError, "IndexError": IndexError, "TypeError": TypeError}[kind](kind)


@app.task(bind=True, base=Watched, max_retries=1)
def watched(self: Any, how: str) -> str:
    """Its base class is told of all that happens."""
    if how == "retry" and not self.request.retries:
        raise self.retry(countdown=0, exc=ValueError("once more"))
    if how == "fail":
        raise ValueError("as it should")
    return how


@app.task
def ignores() -> None:
    """Has nothing to say."""
    raise Ignore("nothing to do")


@app.task(max_retries=1)
def rejects(requeue: bool) -> None:
    """Does not want the message."""
    seen.append(("try",))
    raise Reject("not mine", requeue=requeue)


@app.task(bind=True)
def replaced(self: Any) -> Any:
    """Another task does its work."""
    return self.replace(add.s(20, 22))


@app.task(bind=True)
def with_other_arguments(self: Any, a: int) -> None:
    """Wants to be run again, but differently."""
    raise self.retry(args=(a + 1,), countdown=0)


@app.task(soft_time_limit=0.2)
def tidies_up() -> str:
    """Has a soft limit, and makes use of it."""
    try:
        time.sleep(20)
    except SoftTimeLimitExceeded:
        return "tidied up"
    return "slept well"


@app.task(time_limit=0.2)
def takes_too_long() -> None:
    """Has a hard limit."""
    time.sleep(20)


@app.task(name="billing.charge")
def charge(amount: int) -> str:
    """Registered under another name than its function's."""
    return f"charged {amount}"


class Refund(app.Task):
    """A task that is a class."""

    name = "billing.refund"

    def run(self, amount: int) -> str:
        """Give it back."""
        return f"refunded {amount}"


refund = app.register_task(Refund())


def _hidden(amount: int) -> int:
    return amount * 2


doubled = app.task(_hidden)


@shared_task
def shared(a: int) -> int:
    """A task of whichever app there is."""
    return a + 100


@task(retries=2, retry_delay_seconds=0)
@app.task(name="stacked")
def stacked(a: int) -> int:
    """Both decorators at once."""
    seen.append(("try",))
    if len(seen) < 3:
        raise ValueError("not yet")
    return a


@app.task(bind=True)
def notes(self: Any, file: str, what: str) -> list[Any]:
    """Writes down that it runs, and where; fails at first."""
    with Path(file).open("a") as out:
        out.write(f"{what} {self.request.retries}\n")
    if not self.request.retries:
        raise self.retry(countdown=1.5, exc=ConnectionError("away"))
    return [self.request.hostname.partition("@")[0], self.request.delivery_info["routing_key"]]


@app.task
def own_work(file: str) -> None:
    """A task that no flow knows."""
    Path(file).write_text("done")


def note_hook(task: Any, task_run: Any, state: Any) -> None:
    """A state hook."""
    seen.append(("hook", task.name, state.result()))


#: The tasks of the project as tasks of flows.
STEPS = {
    "add": task(add),
    "tells": task(tells),
    "third_time": task(third_time),
    "gives_up": task(gives_up),
    "gives_up_plainly": task(gives_up_plainly),
    "looks_up": task(looks_up),
    "watched": task(watched),
    "ignores": task(ignores),
    "rejects": task(rejects),
    "replaced": task(replaced),
    "with_other_arguments": task(with_other_arguments),
    "tidies_up": task(tidies_up),
    "takes_too_long": task(takes_too_long),
    "charge": task(charge),
    "refund": task(refund),
    "doubled": task(doubled),
    "shared": task(shared),
    "notes": task(notes),
    "stacked": stacked,
    "hooked": task(add, on_completion=note_hook),
}
once_more = task(add, retries=2, retry_delay_seconds=0, name="sum")


@flow
def direct(name: str, args: list[Any]) -> Any:
    """Calls one."""
    return STEPS[name](*args, return_state=True)


@flow
def submitted(name: str, args: list[Any]) -> Any:
    """Submits one."""
    future = STEPS[name].submit(*args)
    future.wait()
    return future.state


@flow(queue="flows")
def mapped(numbers: list[int]) -> list[int]:
    """One call per number, then one over all of them."""
    sums = STEPS["add"].map(numbers, 10)
    return [*sums.result(), once_more(1, 2)]


@flow(queue="flows")
def lasting(seconds: float) -> int:
    """Takes longer than the app allows its own tasks."""
    time.sleep(seconds)
    return sum(STEPS["add"].map([1, 2], 0).result())


@flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
def in_processes() -> list[Any]:
    """Submits to a process of its own."""
    futures = [STEPS["add"].submit(1), STEPS["refund"].submit(5), STEPS["third_time"].submit()]
    return [future.result() for future in futures]


@flow(queue="flows")
def misrouted(submits: bool) -> Any:
    """Sends a task to a queue that nobody consumes."""
    elsewhere = task(add, queue="typo")
    return elsewhere.submit(1).result() if submits else elsewhere(1)


@flow(queue="flows")
def noting(file: str) -> list[Any]:
    """A call that is tried again later, on a queue that is not the flow's, and one that is found by its name."""
    return [STEPS["notes"](file, "noted"), STEPS["refund"](5), STEPS["charge"](7)]
