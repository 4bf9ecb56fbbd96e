"""What all commands share: exit codes, errors as sentences, options, and how text and data are written.

Human text goes to stderr, data to stdout, so that a pipe receives data only. Data is never cut where stdout is
no terminal.
"""

from __future__ import annotations

import enum
import json
import math
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import rich_click as click

from orchestra import errors, lazy, settings
from orchestra.engine import definitions
from orchestra.names import is_loopback
from orchestra.specs import FlowSpec, TaskSpec
from orchestra.states import StateType

if TYPE_CHECKING:
    from orchestra.client.backend import Backend

F = TypeVar("F", bound=Callable[..., Any])


class ExitCode(enum.IntEnum):
    """What a command's exit status says."""

    OK = 0
    #: Something went wrong that none of the others names; a failed check of `doctor`.
    ERROR = 1
    #: The command line or a setting is wrong.
    USAGE = 2
    #: What was asked for is not there.
    NOT_FOUND = 3
    #: It is there, but not in a state that allows what was asked.
    CONFLICT = 4
    #: The database or the broker does not answer.
    UNAVAILABLE = 5
    #: The run that was watched did not complete.
    RUN_FAILED = 6


_CODES: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (errors.NotFound, ExitCode.NOT_FOUND),
    (errors.Conflict, ExitCode.CONFLICT),
    (errors.StoreUnavailable, ExitCode.UNAVAILABLE),
    (errors.BrokerUnavailable, ExitCode.UNAVAILABLE),
    (errors.ConfigurationError, ExitCode.USAGE),
    (errors.DefinitionError, ExitCode.USAGE),
    (errors.ParameterError, ExitCode.USAGE),
    (errors.InvalidRunInput, ExitCode.USAGE),
    (errors.InvalidArtifact, ExitCode.USAGE),
    (errors.InvalidVariable, ExitCode.USAGE),
)


class Failure(Exception):
    """Ends the command with one sentence on stderr and a named exit code."""

    def __init__(self, message: str, code: ExitCode = ExitCode.ERROR) -> None:
        super().__init__(message)
        self.message, self.code = message, code


def failure(error: errors.OrchestraError) -> Failure:
    """An error of orchestra as the command line shows it."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.ERROR)
    return Failure(str(error) or type(error).__name__, code)


class Group(click.RichGroup):
    """Commands in declared order, imported when they are called, errors told as sentences.

    `lazy_commands` maps a command's name to the "module:attribute" it is loaded from and the sentence that help lists
    it with, `short_names` other names of commands to theirs, which help does not list.
    """

    def __init__(
        self,
        *args: Any,
        lazy_commands: Mapping[str, tuple[str, str]] | None = None,
        short_names: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.lazy_commands = lazy_commands or {}
        self.short_names = short_names or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands' names, as declared."""
        return [name for name in (*self.lazy_commands, *self.commands) if name not in self.short_names]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of that name; of one that is not imported what help and completion list: name and sentence."""
        name = self.short_names.get(name, name)
        if name in self.lazy_commands:
            return click.RichCommand(name=name, help=self.lazy_commands[name][1])
        return super().get_command(ctx, name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is called, imported now, and its arguments."""
        called, command, rest = super().resolve_command(ctx, args)
        name = self.short_names.get(args[0], args[0])
        if name in self.lazy_commands:
            command = lazy.resolve(self.lazy_commands[name][0])
        return called, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors of orchestra become one sentence and an exit code."""
        try:
            return super().invoke(ctx)
        except (errors.OrchestraError, Failure) as error:
            told = error if isinstance(error, Failure) else failure(error)
            # Not a ClickException: rich-click would wrap the sentence into a box, at 80 columns also in a file.
            say(visible(f"Error: {told.message}"))
            ctx.exit(int(told.code))
        except KeyboardInterrupt:
            # As a shell says it of a command that Ctrl-C ended.
            ctx.exit(130)


# -- options -----------------------------------------------------------------------------------------------------


def parameter_options(command: F) -> F:
    """`--param name=value` and `--params JSON`."""
    one = click.option(
        "-p",
        "--param",
        "pairs",
        multiple=True,
        metavar="NAME=VALUE",
        help="A parameter; the value as JSON, else as text.",
    )
    whole = click.option("--params", "text", metavar="JSON", help="All parameters as one JSON object, or @file.json.")
    return one(whole(command))


def output_option(command: F) -> F:
    """`-o json` for scripts."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="How to write the data.",
    )(command)


def app_option(command: F) -> F:
    """`-A module[:attribute]`, the Celery app to send through."""
    return click.option(
        "-A",
        "--app",
        metavar="MODULE[:APP]",
        expose_value=False,
        callback=_use_app,
        help="Celery app to use; else ORCHESTRA_APP, else orchestra's own.",
    )(command)


def _use_app(ctx: click.Context, option: click.Parameter, value: str | None) -> None:
    import_from_here()
    if value:
        settings.override(app=value)


def backend(*, of_runs: bool = False) -> Backend:
    """As `client.backend.backend`, loaded when a command asks: help needs neither SQLAlchemy nor an HTTP client."""
    return lazy.load("backend")(of_runs=of_runs)  # type: ignore[no-any-return]  # a door is untyped


def works_elsewhere() -> bool:
    """Whether ORCHESTRA_API_URL names a server on another host, and no database is set: this home's is not meant."""
    now = settings.current()
    return bool(now.api_url) and not now.database_url and not is_loopback(urlsplit(now.api_url).hostname or "")


def need_database(own_names: Collection[str] = ()) -> None:
    """Go on only where the database by the settings is the one that is meant; for what runs on it itself.

    Args:
        own_names: Public names of this host: a server of such a name is no other one.

    Raises:
        DatabaseNeeded: It is this home's, while the server of another host is worked with.
    """
    now = settings.current()
    if works_elsewhere() and urlsplit(now.api_url).hostname not in own_names:
        raise errors.DatabaseNeeded(now.api_url, now.resolved_database_url)


def import_from_here() -> None:
    """Let modules of the working directory be imported, as `python` and `celery` do."""
    definitions.see_working_directory()


def page_options(limit: int, what: str) -> Callable[[F], F]:
    """`--limit` and `--after` of a list."""

    def add(command: F) -> F:
        after = click.option("--after", metavar="ID", help=f"Start after this {what}: the last of the page before.")
        most = click.option(
            "-l",
            "--limit",
            type=click.IntRange(1, 10_000),
            default=limit,
            show_default=True,
            help="Most lines to show.",
        )
        return most(after(command))

    return add


def state_options(command: F) -> F:
    """`--state` and `--state-type` of a list."""
    kinds = [kind.value for kind in StateType]
    by_name = click.option(
        "--state",
        "state_names",
        multiple=True,
        metavar="NAME",
        callback=_state_names,
        help="Only in states of this name, as Late or AwaitingRetry; repeatable.",
    )
    by_type = click.option(
        "--state-type",
        "state_types",
        multiple=True,
        help="Only of this type; repeatable.",
        type=click.Choice(kinds, case_sensitive=False),
    )
    return by_name(by_type(command))


def tag_option(command: F) -> F:
    """`--tag` of a list."""
    return click.option(
        "-t", "--tag", "tags", multiple=True, help="Only those with this tag; repeatable, all must be."
    )(command)


def _state_names(ctx: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """State names as they are written: "failed" reads as "Failed"."""
    return tuple(value[:1].upper() + value[1:] if not value.isupper() else value.capitalize() for value in values)


def parameters(pairs: Iterable[str], text: str | None) -> dict[str, Any]:
    """Flow parameters from `--param k=v` (v as JSON, else as text) over `--params JSON`.

    Raises:
        UsageError: One of them cannot be read.
    """
    found: Any = {}
    if text:
        found = read_json("--params", text)
        if not isinstance(found, dict):
            raise click.UsageError('--params must be a JSON object, as \'{"day": "2026-11-22"}\'')
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--param {pair!r} must read name=value, as --param day=2026-11-22")
        found[name] = _value(value)
    return dict(found)


def read_json(option: str, text: str) -> Any:
    """The value of an option that holds JSON, or `@` and the name of a file that does.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        return json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except (ValueError, OSError) as error:
        raise click.UsageError(f"{option} cannot be read as JSON: {error}") from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def load_flow(path: str) -> FlowSpec:
    """The flow at "module:name" or "file.py:name".

    Raises:
        UsageError: The path has not that form.
        DefinitionNotFound: It cannot be imported, or is no flow.
    """
    _ready_to_load(path, "module:flow, as in etl:pipeline")
    return definitions.load_flow(path)


def load_task(path: str) -> TaskSpec:
    """The task at "module:name" or "file.py:name".

    Raises:
        UsageError: The path has not that form.
        DefinitionNotFound: It cannot be imported, or is no task.
    """
    _ready_to_load(path, "module:task, as in shop:send_receipt")
    return definitions.load_task(path)


def _ready_to_load(path: str, form: str) -> None:
    module, _, name = path.rpartition(":")
    if not module or not name:
        raise click.UsageError(f"{path!r} must read {form}")
    import_from_here()


# -- output ------------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """One line for the person at the terminal."""
    click.echo(text, err=True)


def say_more(after: str | None) -> None:
    """Say how to get the next page, where there is one."""
    if after is not None:
        say(f"There are more: --after {after}")


def fail(text: str, code: ExitCode = ExitCode.ERROR) -> NoReturn:
    """End the command with a sentence.

    Raises:
        Failure: Always.
    """
    raise Failure(text, code)


def emit(text: str) -> None:
    """One line of data, at once also through a pipe."""
    click.echo(text)


def emit_json(value: Any) -> None:
    """Data as JSON."""
    click.echo(json.dumps(jsonable(value), indent=2, allow_nan=False))


def jsonable(value: Any) -> Any:
    """Records, datetimes and numbers that JSON has not, as JSON can hold them."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def flat(details: Any) -> dict[str, Any]:
    """A record with details as one dictionary: the fields of its `run`, then its own."""
    own = {field.name: getattr(details, field.name) for field in fields(details)}
    return dict(_fields(own.pop("run"))) | own


def emit_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Rows of text: a table on a terminal, else plain columns that are never cut."""
    cells = [[visible(cell(value)) for value in row] for row in rows]
    if not sys.stdout.isatty():
        for line in _plain(columns, cells):
            emit(line)
        return
    lazy.resolve("orchestra.cli._tables:show")(columns, cells)


def emit_record(value: Any) -> None:
    """The fields of one record, a line each; empty ones are left out."""
    pairs = [(name, item) for name, item in _fields(value) if item not in (None, (), [], {}, "")]
    width = max((len(name) for name, _ in pairs), default=0)
    for name, item in pairs:
        first, *rest = visible(cell(item)).splitlines() or [""]
        emit(f"{name:<{width}}  {first}")
        for line in rest:
            emit(f"{'':<{width}}  {line}")


def emit_details(record: dict[str, Any]) -> None:
    """A run's page in words: states and errors as lines instead of as data."""
    state = record["state"]
    shown = {name: value for name, value in record.items() if name != "state" and not (value == 0 and name in _COUNTS)}
    shown |= {"state_message": state.message, "result": _in_words(record["result"])}
    if "pauses" in record:
        shown["pauses"] = "\n".join(map(_pause_lines, record["pauses"]))
    if "owed_hooks" in record:
        shown["owed_hooks"] = "\n".join(map(_owed_line, record["owed_hooks"]))
    shown["states"] = "\n".join(_state_line(each) for each in record["states"])
    emit_record(shown)


def _pause_lines(pause: Any) -> str:
    """A pause in words: its key and until when it waits, then what it asks for, a field a line."""
    lines = [f"{pause.key}, until {cell(pause.until)}" + (f": {pause.description}" if pause.description else "")]
    if pause.refused:
        lines.append(f"  refused before: {pause.refused}")
    schema = pause.schema or {}
    for name, field in schema.get("properties", {}).items():
        kind = field.get("type") or json.dumps({key: value for key, value in field.items() if key != "title"})
        needed = ", required" if name in schema.get("required", ()) else ""
        default = f", else {json.dumps(field['default'])}" if "default" in field else ""
        told = f": {field['description']}" if "description" in field and "type" in field else ""
        lines.append(f"  {name} ({kind}{needed}{default}){told}")
    return "\n".join(lines)


def _owed_line(owed: Any) -> str:
    """Hooks that have not run to their end: of what, told of which state, and who runs them or why they wait."""
    whose = f"step {owed.step_key}" if owed.step_key else "the run"
    now = f"run by {owed.worker}" if owed.worker else owed.waits_for or "waiting for a worker"
    return f"of {whose}, told of {owed.state_name}: {now}"


def _state_line(state: Any) -> str:
    told = f": {state.message}" if state.message else ""
    return f"{cell(state.timestamp)}  {state.name}{told}"


#: Counts that are shown only where there is something to count.
_COUNTS = frozenset({"unfinished", "needed", "lapses", "total_run_time"})


def _in_words(result: Any) -> Any:
    """An error's traceback, which ends with its type and message; another result as it is."""
    if isinstance(result, dict) and set(result) == {"type", "message", "traceback"}:
        return result["traceback"] or f"{result['type']}: {result['message']}"
    return result


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of a record or dictionary."""
    if is_dataclass(value):
        yield from ((field.name, getattr(value, field.name)) for field in fields(value))
    else:
        yield from value.items()


def cell(value: Any) -> str:
    """A value as text for people."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return ago(value) if sys.stdout.isatty() else value.isoformat(timespec="milliseconds")
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(jsonable(value), ensure_ascii=False)


def _plain(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]
    for row in (columns, *cells):
        yield "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()


#: Lengths in seconds, and their words.
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def ago(moment: datetime) -> str:
    """An instant by its distance from now: "3 min ago", "in 2 h"."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    length, unit = next((each for each in _UNITS if abs(seconds) >= each[0]), _UNITS[-1])
    told = f"{abs(seconds) / length:.0f} {unit}"
    return f"{told} ago" if seconds >= 0 else f"in {told}"


#: Control characters that could drive a terminal; line ends, tabs and colours are let through.
_CONTROL = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")


def visible(text: str) -> str:
    """Text that a terminal shows and does not obey; unchanged but for control characters."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def robust_streams() -> None:
    """Write what an ASCII terminal cannot show as escapes, and end quietly when a pipe is closed."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def in_terminal() -> bool:
    """Whether a person sees stderr, and so live progress."""
    return sys.stderr.isatty()
