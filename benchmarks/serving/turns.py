"""Taking turns: A, B, A, B, the order turned each round; the ratio of each round's pair is what counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from common import Ratio, ratio_of
from serving.load import Answers
from serving.servers import Server

Starts = Mapping[str, Callable[[], AbstractContextManager[Server]]]


def turned(names: Iterable[str], turn: int) -> list[str]:
    """The names in the order of this round."""
    found = list(names)
    return [*found[turn % len(found) :], *found[: turn % len(found)]]


def answered(name: str, answers: Answers) -> Answers:
    """The answers. Raises where anything but 200 came: a ratio of failures means nothing."""
    if answers.failed or answers.unsent or not answers.good:
        raise RuntimeError(f"{name}: {dict(answers.statuses)} and {answers.unsent} not sent, and all were to be answered")
    return answers


def one_by_one(
    starts: Starts,
    ask: Callable[[str, Server], dict[str, Answers]],
    rounds: int,
) -> dict[str, dict[str, list[Answers]]]:
    """In each round each server is started, asked and ended, so that nothing else runs beside it.

    Returns:
        By what was asked and by server, the answers of the rounds.
    """
    found: dict[str, dict[str, list[Answers]]] = {}
    for turn in range(rounds):
        for name in turned(starts, turn):
            with starts[name]() as server:
                for what, answers in ask(name, server).items():
                    found.setdefault(what, {}).setdefault(name, []).append(answered(name, answers))
    return found


def side_by_side(names: Sequence[str], ask: Callable[[str, int], Answers], rounds: int) -> dict[str, list[Answers]]:
    """What `ask(name, round)` found, for each name over the rounds: of one server that is asked in several ways."""
    found: dict[str, list[Answers]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in turned(names, turn):
            found[name].append(ask(name, turn))
    return found


def faster(ours: Sequence[Answers], peer: Sequence[Answers]) -> Ratio:
    """Our answers a second over the peer's, round by round."""
    return ratio_of([(1 / a.rate, 1 / b.rate) for a, b in zip(ours, peer, strict=True)])


def against(goal: float, ratio: Ratio) -> dict[str, Any]:
    record = ratio.record()
    return {
        "ratio": record["ratio"],
        "spread": record["spread"],
        "goal": goal,
        "reached": ratio.median >= goal,
        "rounds": ratio.repeats,
    }


def middle(values: Sequence[float], digits: int = 2) -> float:
    ordered = sorted(values)
    n = len(ordered)
    return round((ordered[(n - 1) // 2] + ordered[n // 2]) / 2, digits)


def figures(found: Sequence[Answers]) -> dict[str, float]:
    """Medians over the rounds."""
    return {
        "requests_per_s": middle([each.rate for each in found], 1),
        "p50_ms": middle([each.ms(50) for each in found]),
        "p99_ms": middle([each.ms(99) for each in found]),
    }


def show(title: str, rows: Sequence[Sequence[object]]) -> None:
    """A table; the first row is its head."""
    texts = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in texts) for i in range(len(texts[0]))]
    print(f"\n{title}")
    for row in texts:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)
