"""Progress of long work: a bar with rows a second and the time left, on a terminal and in a notebook; nothing elsewhere.

The work itself calls `progress(done, total)`; whoever gives no such function gets the bar.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console

_REDRAW_S = 0.2

Progress = Callable[[int, int], None]  # done, in all; the first call says what was done before
Noted = Callable[[int, int, str], None]  # and a few words on how it goes


def shown(progress: Progress | None, what: str, unit: str = "rows") -> AbstractContextManager[Progress]:
    """The caller's own function, or a bar on standard error."""
    return nullcontext(progress) if progress is not None else _drawn(what, unit)


def noted(progress: Progress | None, what: str, unit: str = "rows") -> AbstractContextManager[Noted]:
    """As `shown`, of work that says how it goes: the words stand behind the bar. The caller's own function is told them if it
    has a parameter `note`, as a bar has."""
    if progress is None:
        return _drawn(what, unit)
    told: Any = progress
    if "note" in inspect.signature(progress).parameters:
        return nullcontext(told)
    return nullcontext(lambda done, total, _: progress(done, total))


def _drawn(what: str, unit: str) -> AbstractContextManager[_Advance]:
    if _in_notebook():
        return notebook_bar(what, unit)
    if not sys.stderr.isatty():
        return nullcontext(_nobody)
    from rich.console import Console

    return bar(Console(stderr=True, highlight=False), what, unit)


class _Advance(Protocol):
    def __call__(self, done: int, total: int, note: str = ...) -> None: ...


def _nobody(done: int, total: int, note: str = "") -> None:
    """Where nobody looks."""


def _in_notebook() -> bool:
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


@contextmanager
def notebook_bar(what: str, unit: str = "rows") -> Iterator[_Advance]:
    """A `progress(done, total, note)` that draws itself in the cell's output, at most five times a second.

    No widget: rich's own bar asks for ipywidgets, warns without them, and then shows nothing until the end.
    """
    from IPython.display import HTML, display

    began, first, drawn = time.monotonic(), -1, 0.0
    handle: Any = None

    def advance(done: int, total: int, note: str = "") -> None:
        nonlocal first, drawn, handle
        now = time.monotonic()
        first = done if first < 0 else first
        if handle is not None and done < total and now - drawn < _REDRAW_S:
            return
        drawn, pace = now, (done - first) / max(now - began, 1e-9)
        of = f" of {total:,}" if total else ""
        speed = f", {pace:,.0f} {unit}/s" if pace else ""
        left = f", {(total - done) / pace:,.0f} s left" if pace and done < total else ""
        shape = f"<progress value='{done}' max='{max(total, 1)}'></progress>"
        shown = HTML(f"{shape} {escape(what)}: {done:,}{of} {unit}{speed}{left} {escape(note)}")
        if handle is None:
            handle = display(shown, display_id=True)
        else:
            handle.update(shown)

    yield advance


@contextmanager
def bar(console: Console, what: str, unit: str = "rows") -> Iterator[_Advance]:
    """A `progress(done, total, note)` that moves a bar; where `console` is no terminal, only its end is shown.

    Pace is new rows a second since the start: workers report in batches of a thousand, so a pace over the last moments
    would jump.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class PaceColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            new = task.completed - task.fields["before"]
            if not task.elapsed or new <= 0 or task.total is None:
                return Text("")
            pace = new / task.elapsed
            left = max(0, round((task.total - task.completed) / pace))
            return Text(f"{pace:,.0f} {unit}/s, {left // 60}:{left % 60:02} left", style="cyan")

    class NoteColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(task.fields["note"], style="dim")

    drawn = Bar(TextColumn(what), BarColumn(), MofNCompleteColumn(), PaceColumn(), NoteColumn(), console=console)
    task = drawn.add_task(what, total=None, before=0, note="")

    def advance(done: int, total: int, note: str = "") -> None:
        drawn.start()
        first = drawn.tasks[0].total is None
        drawn.update(
            task, completed=done, total=total, before=done if first else drawn.tasks[0].fields["before"], note=note
        )

    if console.is_terminal:  # elsewhere only its end is shown, and where there was nothing to do, nothing
        drawn.start()
    try:
        yield advance
    finally:
        drawn.live.transient = drawn.tasks[0].total is None
        if drawn.live.is_started:
            drawn.stop()
