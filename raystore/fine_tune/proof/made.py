"""How the encoder of a proof was made, as the last part of its page: what was read and left out, and the recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from raystore.fine_tune.examples.types import IDS_NAMED
from raystore.fine_tune.recipe import Recipe
from raystore.fine_tune.records import RunRecord

_LEAKS = {"entity": "by entity", "same": "by content", "near": "as near-duplicates"}


def made_html(record: RunRecord, words: Sequence[str]) -> str:
    """`words`: what the run says of itself, a sentence each."""
    parts = ["<h2>How was it made?</h2>", *(f"<p>{escape(said)}</p>" for said in words)]
    if removed := _removed(record.data.get("leaks", {})):
        told = "Rows of train and val that stand in the evaluation too, or nearly so, are left out: what is measured was not seen."
        parts += [
            f"<h3>Left out by the leak guard</h3><p class='soft'>{told}</p>",
            _table(("side", "kind", "rows"), removed),
        ]
    if aside := record.data.get("set_aside"):
        listed = [(reason, f"{n:,}") for reason, n in sorted(aside.items(), key=lambda each: -each[1])]
        parts += ["<h3>Rows that could not be used</h3>", _table(("reason", "rows"), listed)]
    if named := record.data.get("ids_by_reason"):
        ids = [(reason, ", ".join(few)) for reason, few in named.items()]
        parts += [
            f"<h3>Which rows these were</h3><p class='soft'>At most {IDS_NAMED} a reason.</p>",
            _table(("reason", "ids"), ids),
        ]
    called = f"'{record.recipe_name}'" if record.recipe_name else "without a name"
    parts += [f"<h3>The recipe, {called}</h3>", _table(("setting", "value", ""), _settings(record.recipe))]
    return "".join(parts)


def _removed(leaks: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(side, kind, rows) of those there are."""
    return [
        (side, _LEAKS.get(kind, kind), f"{n:,}")
        for side in ("train", "val")
        for kind, n in leaks.get(side, {}).items()
        if n
    ]


def _settings(recipe: Recipe) -> list[tuple[str, str, str]]:
    """(name, value, what it is): every setting that differs from what it is by itself; losses always."""
    return [(name, said, str(Recipe.model_fields[name].description)) for name, said in recipe.changed.items()]


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
