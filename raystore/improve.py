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
OF_PAIRS: Mapping[str, Any] = {"losses": {"softmax": 1.0}, "classes_per_batch": 64, "per_class": 1}


@dataclass(frozen=True)
class Improved:
    """What became of it. `encoder` is what the collection is asked by: the new one where `switched`, else what it was asked by
    before. `reason` says why."""

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
        options |= _recipe_for(name, base, labelled, options)
    run = store.fine_tune(
        name,
        base=base,
        data=labelled,
        pool=pool if options.get("pretrain_steps") else None,
        budget_minutes=budget_minutes,
        only_if_better=True,
        progress=progress,
        **options,
    )
    switched = run.live and (run.proof.better or options.get("force") is not None)
    if where in store.collections:
        target = store.collection(where)
    else:
        best = store.encoders.get(name) if name in store.encoders else base
        target = store.create_collection(where, encoder=run.encoder if switched else best)
    winner = run.encoder if switched else target.encoder()
    if winner.fingerprint not in target.table.fingerprints:
        target.add_encoder(winner, progress=progress)
    reports = _embedded(target, labelled, pool, options, progress)
    reason = _reason(run, switched, options.get("force"))
    if switched and target.encoder().fingerprint != winner.fingerprint:
        target.use_encoder(winner, reason=f"run {run.record.label}: {reason}")
    return Improved(run, where, winner, switched, reason, reports, _index(target, winner, progress))


def _reason(run: FineTuned, switched: bool, force: str | None) -> str:
    if switched:
        return run.proof.headline if run.proof.better else f"Forced: {force}. {run.proof.headline}"
    return f"Not switched. {run.state if run.proof.better else run.proof.headline}"


def _embedded(
    target: Collection, labelled: Paths, pool: Paths | None, asked: Mapping[str, Any], progress: Progress | None
) -> tuple[EmbedReport, ...]:
    """Of a picture with its text the picture is embedded, of two texts the first."""
    content = {role: asked[role] for role in ("image", "text") if asked.get(role)}
    columns = dict([*content.items()][:1]) | ({"id": asked["id"]} if asked.get("id") else {})
    subject = {"subject": asked["subject"]} if asked.get("subject") else {}
    keep = [asked["label"]] if asked.get("label") else []
    first = target.embed(labelled, keep=keep, progress=progress, **columns, **subject)
    # Without an id column a row is named by its file's name and its number: files of both may bear the same name.
    apart = {} if "id" in columns else {"id_prefix": "pool-"}
    return (first,) if pool is None else (first, target.embed(pool, progress=progress, **columns, **apart))


def _base(store: Store, base: str | Encoder | None, asked: Mapping[str, Any]) -> Encoder:
    if isinstance(base, Encoder):
        return base
    if base is not None:
        return store.encoders.get(base)
    if asked.get("image"):
        problem = "which encoder is to be improved? For images there is no default: register one and name it with base="
        raise InvalidArguments(call="improve", problems=[problem])
    return store.encoders.get("minilm") if "minilm" in store.encoders else store.encoders.register("minilm", model="minilm")


def _recipe_for(name: str, base: Encoder, labelled: Paths, options: Mapping[str, Any]) -> dict[str, Any]:
    """By the data: pairs without labels, pictures, few labels, or neither."""
    from raystore.fine_tune.ask import COLUMNS, make_asked

    if not options.get("label") and (options.get("pair") or (options.get("image") and options.get("text"))):
        # A pair is its own class: a learned vector for each would be as many as there are rows.
        return {name: value for name, value in OF_PAIRS.items() if name not in options}
    if options.get("image"):
        return {"recipe": "image"}
    columns = {role: options[role] for role in COLUMNS if role in options}
    data = make_asked(name, base, labelled, **columns).data
    sizes = sorted(n for n in data.class_rows if n)
    return {"recipe": "few-shot" if sizes and sizes[len(sizes) // 2] <= FEW else "many-classes"}


def _index(target: Collection, encoder: Encoder, progress: Progress | None) -> int | None:
    """The number of the index over the encoder's vectors; a new one where there is none. Rows since are searched beside it."""
    number = newest_number(target.table.layout, target.name, encoder.fingerprint)
    if number is None:
        target.build_index(encoder=encoder.fingerprint, progress=progress)
        number = newest_number(target.table.layout, target.name, encoder.fingerprint)
    return number
