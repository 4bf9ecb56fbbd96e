"""`orchestra events` (`event`): see what happens, as it happens, and tell what happened."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import rich_click as click

from orchestra import clock, lazy
from orchestra.cli import _options, _support
from orchestra.cli._support import backend

if TYPE_CHECKING:
    from orchestra.store.events import EventRecord

F = TypeVar("F", bound=Callable[..., Any])

_ID = "orchestra.resource.id"


@click.group(cls=_support.Group)
def events() -> None:
    """See what happens, as it happens, and tell what happened."""


def _filters(command: F) -> F:
    """`--event`, `--resource` and `--flow-run`."""
    name = click.option(
        "-e", "--event", "names", multiple=True, metavar="NAME",
        help="Only events of this name, or beginning as in 'orchestra.flow-run.*'; repeatable: any of them.",
    )  # fmt: skip
    about = click.option(
        "-r", "--resource", "resources", multiple=True, metavar="ID",
        help="Only about this resource, or beginning as in 'order.*'; repeatable: any of them.",
    )  # fmt: skip
    run = click.option("--flow-run", "flow_run_id", metavar="ID", help="Only about this run and its task runs.")
    return name(about(run(command)))


def _instant(ctx: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """Seconds since the epoch, from a time in ISO 8601, or from how long ago it was."""
    if value is None:
        return None
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return clock.now() - (_options.duration(ctx, option, value) or 0.0)
    found = _options.instant(ctx, option, value)
    return None if found is None else found.timestamp()


def _since(command: F) -> F:
    return click.option(
        "--since", callback=_instant, metavar="TIME", help="From then on: 15m, 2h (ago), or 2026-11-22T09:00+01:00."
    )(command)


@events.command()
@_filters
@_since
@click.option("--until", callback=_instant, metavar="TIME", help="Before then, in the same way.")
@_support.page_options(50, "event")
@_support.output_option
def ls(
    names: tuple[str, ...],
    resources: tuple[str, ...],
    flow_run_id: str | None,
    since: float | None,
    until: float | None,
    limit: int,
    after: str | None,
    output: str,
) -> None:
    """List events, the newest first.

    \b
    Examples:
      orchestra events ls --event 'orchestra.flow-run.*' --since 1h
      orchestra events ls --resource 'orchestra.deployment.*' -o json
    """
    wanted = lazy.resolve("orchestra.store.events:EventFilter")(names, resources, since, until, flow_run_id)
    found, following = backend().list_events(wanted, limit=limit, after=after)
    if output == "json":
        _support.emit_json([_record(event) for event in found])
    else:
        rows = [(clock.to_datetime(each.occurred), each.event, _whose(each), each.resource[_ID]) for each in found]
        _support.emit_table(("OCCURRED", "EVENT", "OF", "RESOURCE ID"), rows)
    _support.say_more(following)


@events.command()
@_filters
@_since
@click.option("--output-file", type=click.Path(dir_okay=False, path_type=Path), help="Append to this file.")
@click.option("--run-once", is_flag=True, help="End after the first event.")
@click.option(
    "-o", "--output", "--format", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="A line of text, or of JSON, for each event.",
)  # fmt: skip
def stream(
    names: tuple[str, ...],
    resources: tuple[str, ...],
    flow_run_id: str | None,
    since: float | None,
    output_file: Path | None,
    run_once: bool,
    output: str,
) -> None:
    """Print events as they come, until Ctrl-C.

    \b
    Examples:
      orchestra events stream --event 'orchestra.flow-run.*'
      orchestra events stream -o json --since 1h | jq .event
    """
    wanted = lazy.resolve("orchestra.store.events:EventFilter")(names, resources, None, None, flow_run_id)
    line = _json_line if output == "json" else _text_line
    with _ended_by_interrupt(), _target(output_file) as target:
        if sys.stderr.isatty():
            _support.say("Events appear here as they come; Ctrl-C ends this.")
        for event in backend().follow_events(wanted, since=since):
            click.echo(line(event), file=target)
            if run_once:
                return


@events.command()
@click.argument("event")
@click.option("--resource-id", metavar="ID", help="What it happened to, as in order.42.")
@click.option(
    "-r", "--resource", "labels", multiple=True, metavar="ID|LABEL=VALUE|JSON",
    help="What it happened to: its id, a label, or all labels; repeatable.",
)  # fmt: skip
@click.option("--related", multiple=True, metavar="JSON", help="What else it has to do with; repeatable.")
@click.option("-p", "--payload", metavar="JSON", help="More about it: an object, or @file.json.")
def emit(
    event: str, resource_id: str | None, labels: tuple[str, ...], related: tuple[str, ...], payload: str | None
) -> None:
    """Tell that something happened; prints the id of the event.

    \b
    Examples:
      orchestra events emit order.shipped --resource-id order.42
      orchestra events emit order.shipped -r order.42 -r customer=7 --payload '{"parts": 2}'
    """
    resource = _labels(resource_id, labels)
    given = None if payload is None else _object("--payload", payload)
    about = [_object("--related", each) for each in related]
    _support.emit(backend().emit_event(event, resource, related=about, payload=given))


def _labels(resource_id: str | None, given: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        if text.startswith("{"):
            found |= _object("--resource", text)
        elif "=" in text:
            label, _, value = text.partition("=")
            found[label] = value
        else:
            found[_ID] = text
    if resource_id is not None:
        found[_ID] = resource_id
    if not found:
        raise click.UsageError("say what it happened to: --resource-id order.42")
    return found


def _object(option: str, text: str) -> dict[str, Any]:
    found = _support.read_json(option, text)
    if not isinstance(found, dict):
        raise click.UsageError(f"{option} must be a JSON object")
    return found


@contextmanager
def _target(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    try:
        # Line by line, so that what follows the file sees each event at once.
        opened = path.open("a", buffering=1, encoding="utf-8")
    except OSError as error:
        _support.fail(f"{path} cannot be written to: {error.strerror}", _support.ExitCode.USAGE)
    with opened:
        yield opened


@contextmanager
def _ended_by_interrupt() -> Iterator[None]:
    """Ctrl-C is how one ends it, and no failure."""
    try:
        yield
    except KeyboardInterrupt:
        return


def _text_line(event: EventRecord) -> str:
    moment = clock.to_datetime(event.occurred)
    when = moment.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] if moment else ""
    whose = _whose(event)
    return _support.visible(f"{when} | {event.event} | {whose}{' ' if whose else ''}({event.resource[_ID]})")


def _json_line(event: EventRecord) -> str:
    return json.dumps(_support.jsonable(_record(event)))


def _whose(event: EventRecord) -> str:
    return event.resource.get("orchestra.resource.name", "")


def _record(event: EventRecord) -> dict[str, Any]:
    """An event with Prefect's field names."""
    return {
        "id": event.id,
        "occurred": clock.to_datetime(event.occurred),
        "event": event.event,
        "resource": event.resource,
        "related": event.related,
        "payload": event.payload,
        "follows": event.follows,
    }
