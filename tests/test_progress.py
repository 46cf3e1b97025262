from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from raystore.progress import bar, notebook_bar, noted, shown


def drawn(terminal: bool, *calls: tuple[int, int]) -> str:
    out = io.StringIO()
    with bar(Console(file=out, force_terminal=terminal, width=100), "embedding") as advance:
        for done, total in calls:
            advance(done, total)
    return out.getvalue()


def test_where_nobody_looks_no_bar_is_drawn_and_calls_do_nothing() -> None:
    with shown(None, "embedding") as advance:
        advance(1, 2)


def test_the_callers_own_function_is_called_instead_of_a_bar() -> None:
    calls: list[tuple[int, int]] = []
    with shown(lambda done, total: calls.append((done, total)), "embedding") as advance:
        advance(1, 2)
    assert calls == [(1, 2)]


def test_the_callers_own_function_is_told_how_it_goes_where_it_takes_a_note() -> None:
    calls: list[tuple[object, ...]] = []

    def told(done: int, total: int, note: str = "") -> None:
        calls.append((done, total, note))

    with noted(told, "training") as advance:
        advance(1, 2, "loss 0.5")
    with noted(lambda done, total: calls.append((done, total)), "training") as advance:
        advance(2, 2, "loss 0.4")
    assert calls == [(1, 2, "loss 0.5"), (2, 2)]


def test_the_words_of_work_stand_behind_the_bar() -> None:
    out = io.StringIO()
    with (
        bar(Console(file=out, force_terminal=True, width=100), "training") as progress,
        noted(progress, "not drawn") as told,
    ):
        told(1, 2, "loss 0.500, kNN of val 84.2%")
    assert "loss 0.500, kNN of val 84.2%" in out.getvalue()
    assert "not drawn" not in out.getvalue()


def test_into_a_file_only_the_end_of_the_work_is_written() -> None:
    said = drawn(False, (0, 200), (120, 200), (200, 200))
    assert said.count("embedding") == 1
    assert "200/200" in said
    assert "rows/s, 0:00 left" in said


def test_where_there_was_nothing_to_do_nothing_is_written() -> None:
    assert drawn(False).strip() == ""


def test_what_was_done_before_does_not_count_as_pace() -> None:
    assert "rows/s" not in drawn(False, (150, 200), (150, 200))


def test_on_a_terminal_the_bar_moves() -> None:
    assert "200/200" in drawn(True, (0, 200), (200, 200))


def test_in_a_notebook_the_bar_is_drawn_in_place_and_its_words_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    from IPython.core import interactiveshell

    published: list[dict[str, Any]] = []
    shell = interactiveshell.InteractiveShell.instance()
    try:
        monkeypatch.setattr(shell.display_pub, "publish", lambda data, *_, **told: published.append({**data, **told}))
        with notebook_bar("embedding into <b>") as advance:
            advance(0, 200)
            advance(1, 200)  # too soon after the last drawing
            advance(200, 200)
    finally:
        interactiveshell.InteractiveShell.clear_instance()
    assert [drawn.get("update", False) for drawn in published] == [False, True]
    assert "<progress value='0' max='200'></progress> embedding into &lt;b&gt;: 0 of 200 rows" in published[0]["text/html"]
    assert "200 of 200 rows" in published[1]["text/html"]
