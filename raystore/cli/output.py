"""What the command line shows: tables and progress for people, one JSON document with --json, and exit codes.

0  done           2  the call was wrong (arguments, SQL, rows)      4  conflict (known id, other passport)
1  it failed      3  something named is not there                 130  interrupted; what was committed is safe
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from raystore.errors import RaystoreError
from raystore.progress import bar

EXIT_CODES = {404: 3, 409: 4}
INTERRUPTED = 130


def exit_code(error: RaystoreError) -> int:
    """2 for what the caller can mend, 1 for what failed; not-found and conflict have codes of their own."""
    return EXIT_CODES.get(error.status, 2 if 400 <= error.status < 500 else 1)


@dataclass
class Output:
    """One per process. `emit` takes the same facts both ways: an object for --json, a function that draws for people."""

    as_json: bool = False

    def __post_init__(self) -> None:
        # Into a pipe, a row stays on one line: it will be searched, not looked at.
        self.console = Console(highlight=False, width=None if sys.stdout.isatty() else 400)
        self.errors = Console(stderr=True, highlight=False)

    def emit(self, facts: Any, draw: Callable[[], None] | None = None) -> None:
        if self.as_json:
            sys.stdout.write(json.dumps(_plain(facts), indent=1, ensure_ascii=False, default=str, allow_nan=False) + "\n")
            sys.stdout.flush()  # a service goes on after it
        elif draw is not None:
            draw()
        else:
            self.say(str(facts))

    def say(self, text: str = "") -> None:
        """A line for people; nothing with --json."""
        if not self.as_json:
            self.console.print(text, markup=False, soft_wrap=True)

    def step(self, text: str) -> None:
        """What is being done now, on a terminal; nothing elsewhere."""
        if not self.as_json and self.errors.is_terminal:
            self.errors.print(Text(f"{text} ...", style="dim"), soft_wrap=True)

    def heading(self, text: str) -> None:
        if not self.as_json:
            self.console.print()
            self.console.print(Text(text, style="bold"), soft_wrap=True)

    def table(
        self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None, title: str | None = None
    ) -> None:
        if self.as_json:
            return
        names = list(columns) if columns is not None else list(rows[0]) if rows else []
        if title:
            self.say(f"\n{title}")
        table = Table(header_style="bold", show_edge=False, pad_edge=False)
        for name in names:
            values = [value for value in (row.get(name) for row in rows) if value is not None]
            numeric = bool(values) and all(isinstance(value, (int, float)) for value in values)
            table.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(_shown(row.get(name))) for name in names))
        self.console.print(table)

    @contextmanager
    def progress(self, what: str, unit: str = "rows", *, kept: bool = True) -> Iterator[Callable[[int, int], None]]:
        """A bar with rows/s and time left on standard error; a `progress(done, total)` callback. Nothing with --json, and where
        it is not `kept` (of verbs that write nothing) nothing but on a terminal."""
        silent = self.as_json or not (kept or self.errors.is_terminal)
        with nullcontext(_nobody) if silent else bar(self.errors, what, unit) as advance:
            yield advance

    def fail(self, error: RaystoreError) -> int:
        """Say the error where scripts and people look for it; the exit code."""
        self._complain(type(error).__name__, str(error), error.facts)
        return exit_code(error)

    def misused(self, error: Any) -> int:
        """A command line that does not parse, or help where a verb is missing; typer's own words."""
        if self.as_json:
            self._complain("UsageError", error.format_message(), {})
        else:
            error.show()
        return int(error.exit_code)

    def interrupted(self) -> None:
        says = "interrupted; what was committed is safe, and the same command goes on from there"
        if self.as_json:
            self._complain("Interrupted", says, {})
        else:
            self.errors.print(says, soft_wrap=True)

    def _complain(self, kind: str, message: str, facts: Mapping[str, Any]) -> None:
        if self.as_json:
            about = {"error": {"type": kind, "message": message, "facts": facts}}
            sys.stderr.write(json.dumps(_plain(about), ensure_ascii=False, default=str) + "\n")
        else:
            self.errors.print(Text.assemble((kind, "bold red"), ": ", message), soft_wrap=True)


def _nobody(done: int, total: int) -> None:
    """With --json nobody looks."""


def _plain(value: Any) -> Any:
    """The value with null for the floats that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
    return str(value)  # whole numbers plain: they may be ids or years, and are copied
