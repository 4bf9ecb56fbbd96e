"""Flows whose code changes between their segments, behind a patch; `code["is"]` says which code there is."""

from __future__ import annotations

import asyncio

from orchestra import flow, patched, task

#: "old", "patched", or "dropped": the new code alone.
code = {"is": "old"}
#: What the bodies did, in order.
effects: list[str] = []
#: How often `brittle` still fails.
failures = {"left": 0}


def by_new_code():
    """Whether the new code is gone by, as the code that there is decides it."""
    return {"old": lambda: False, "patched": lambda: patched("new code"), "dropped": lambda: True}[code["is"]]()


@task
def do(what):
    effects.append(what)
    return what


@task
def brittle():
    if failures["left"]:
        failures["left"] -= 1
        raise ValueError("not yet")
    effects.append("brittle")


@flow
def opens_and_closes():
    do("begin")
    do("open new" if by_new_code() else "open old")
    do.submit("work").result()
    do("close new" if by_new_code() else "close old")
    return code["is"]


@flow
def renames():
    name = "new name" if by_new_code() else "old name"
    do.with_options(name=name)(name)
    do.submit("work").result()


@flow
async def branches():
    by_new_code()

    async def branch(number):
        do.submit(f"work {number}").result()
        do(f"new {number}" if by_new_code() else f"old {number}")

    await asyncio.gather(branch(1), branch(2))


@flow(retries=1)
def mended_by_a_patch():
    do("new begin" if by_new_code() else "old begin")
    if code["is"] == "patched" and patched("mend"):
        do("mended")
    else:
        brittle()


@flow
def here():
    return by_new_code()


@flow
def wrong_name(name):
    patched(name)
