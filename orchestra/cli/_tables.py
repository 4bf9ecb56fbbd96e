"""Tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Colour of a state, by the word it is shown as; other words are plain.
COLOURS = {
    "Completed": "green",
    "Running": "cyan",
    "Waiting": "cyan",
    "Pending": "yellow",
    "Scheduled": "yellow",
    "AwaitingRetry": "yellow",
    "Late": "red",
    "Paused": "magenta",
    "NonDeterministic": "magenta",
    "Failed": "red",
    "TimedOut": "red",
    "UpstreamFailed": "red",
    "Crashed": "red",
    "Cancelling": "bright_black",
    "Cancelled": "bright_black",
}


def show(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Print a table; ids stay whole, other columns wrap."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column.endswith("ID"), overflow="fold")
    for row in cells:
        table.add_row(*(Text.from_ansi(text, style=COLOURS.get(text, "")) for text in row))
    Console().print(table)
