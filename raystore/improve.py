"""One call from labelled files to a better encoder in use: check, fine-tune, prove, embed, index. Each step is the store's own.

Whatever was done before a kill is found again: the run by its key, rows by their ids, the index by what it covers. So there is
no state here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from raystore.encoders.registry import Encoder
from raystore.errors import InvalidArguments
from raystore.fine_tune.examples.plan import Paths
from raystore.index.manifest import newest_number
from raystore.progress import Progress

if TYPE_CHECKING:
    from raystore.collection import Collection
    from raystore.data.ingest import EmbedReport
    from raystore.fine_tune.result import FineTuned
    from raystore.store import Store

FEW = 20  # rows a class up to which labels are few


@dataclass(frozen=True)
class Improved:
    """What became of it. `switched`: the collection is asked by the new encoder; else by the base, and `reason` says why."""

    run: FineTuned
    collection: str
    encoder: Encoder
    switched: bool
    reason: str
    embedded: tuple[EmbedReport, ...]
    index: int | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "run": self.run.record.label,
            "verdict": self.run.proof.verdict,
            "headline": self.run.proof.headline,
            "collection": self.collection,
            "encoder": self.encoder.label,
            "fingerprint": self.encoder.fingerprint,
            "switched": self.switched,
            "reason": self.reason,
            "rows": sum(each.added + each.filled + each.known for each in self.embedded),
            "index": self.index,
        }

    def __str__(self) -> str:
        return "\n".join([*self._words(), "", str(self.run)])

    def _repr_html_(self) -> str:
        return "".join(f"<p>{escape(line)}</p>" for line in self._words()) + self.run._repr_html_()

    def _words(self) -> list[str]:
        state = "is asked by" if self.switched else "stays with"
        lines = [f"{self.reason} Collection '{self.collection}' {state} {self.encoder.label}."]
        lines += [str(report) for report in self.embedded]
        if self.index is not None:
            lines.append(f"Index {self.index} covers it.")
        return lines


def improve(
    store: Store,
    labelled: Paths,
    *,
    name: str,
    base: str | Encoder | None,
    pool: Paths | None,
    collection: str | None,
    budget_minutes: float,
    progress: Progress | None,
    asked: Mapping[str, Any],
) -> Improved:
    """See `Store.improve`."""
    options = dict(asked)
    base = _base(store, base, options)
    where = collection or name.replace("-", "_")
    if options.get("recipe") is None:
        options["recipe"] = "image" if options.get("image") else _recipe_for(name, base, labelled, options)
    run = store.fine_tune(
        name,
        base=base,
        data=labelled,
        pool=pool,
        budget_minutes=budget_minutes,
        only_if_better=True,
        progress=progress,
        **options,
    )
    better = run.live and run.proof.better
    winner = run.encoder if better else base
    target = store.collection(where) if where in store.collections else store.create_collection(where, encoder=winner)
    if winner.fingerprint not in target.table.fingerprints:
        target.add_encoder(winner, progress=progress)
    columns = {role: options[role] for role in ("text", "image", "id", "subject") if options.get(role)}
    reports = [
        target.embed(labelled, keep=[options["label"]] if options.get("label") else [], progress=progress, **columns)
    ]
    if pool is not None:
        content = {role: columns[role] for role in ("text", "image", "id") if role in columns}
        reports.append(target.embed(pool, progress=progress, **content))
    if better:
        if target.encoder().fingerprint != winner.fingerprint:
            target.use_encoder(winner, reason=f"run {run.record.label}: {run.proof.headline}")
        reason = f"Better: {run.proof.headline}"
    else:
        reason = f"Not switched: {run.proof.headline}"
    return Improved(run, where, winner, better, reason, tuple(reports), _index(target, winner, progress))


def _base(store: Store, base: str | Encoder | None, asked: Mapping[str, Any]) -> Encoder:
    if isinstance(base, Encoder):
        return base
    if base is not None:
        return store.encoders.get(base)
    if asked.get("image"):
        problem = "which encoder is to be improved? For images there is no default: register one and name it with base="
        raise InvalidArguments(call="improve", problems=[problem])
    return store.encoders.get("minilm") if "minilm" in store.encoders else store.encoders.register("minilm", model="minilm")


def _recipe_for(name: str, base: Encoder, labelled: Paths, options: Mapping[str, Any]) -> str:
    """By the data: few labels, many classes, or neither."""
    from raystore.fine_tune.ask import COLUMNS, make_asked

    columns = {role: options[role] for role in COLUMNS if role in options}
    data = make_asked(name, base, labelled, **columns).data
    sizes = sorted(n for n in data.class_rows if n)
    if sizes and sizes[len(sizes) // 2] <= FEW:
        return "few-shot"
    return "many-classes"


def _index(target: Collection, encoder: Encoder, progress: Progress | None) -> int | None:
    """The number of the index over the encoder's vectors; a new one where there is none. Rows since are searched beside it."""
    number = newest_number(target.table.layout, target.name, encoder.fingerprint)
    if number is None:
        target.build_index(encoder=encoder.fingerprint, progress=progress)
        number = newest_number(target.table.layout, target.name, encoder.fingerprint)
    return number
