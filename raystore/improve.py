"""One call from labelled files to a better encoder in use: check, fine-tune, prove, embed, index, switch. Each step is the store's
own.

Whatever was done before a kill is found again: the run by its key, rows by their ids and by the vectors they lack, the index by
what it covers. So there is no state here. The switch comes last, and only where every row can be found by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from raystore.encoders.bridged import is_bridged, read_bridge
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
INSTEAD: Mapping[str, str] = {  # of what `fine_tune` takes and this does not
    "data": "the labelled files are given first, without a name",
    "dry_run": "fine_tune(dry_run=True) takes 5 steps, writes nothing, and says memory, steps and time",
    "only_if_better": "it never switches to what is not better, unless force= gives a reason",
}
OF_PAIRS: Mapping[str, Any] = {"losses": {"softmax": 1.0}, "classes_per_batch": 64, "per_class": 1}


@dataclass(frozen=True)
class Improved:
    """What became of it. `encoder` is what the collection is asked by: the new one where `switched`, else what it was asked by
    before. `reason` says why. `index` is the number of the index over `encoder`'s vectors. A collection may hold the new encoder's
    vectors without being asked by it: where it is better, but has none of some rows."""

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
    _check(store, labelled, name, base, asked)
    options = dict(asked)
    base = _base(store, base)
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
    better = run.live and (run.proof.better or options.get("force") is not None)
    if where in store.collections:
        target = store.collection(where)
    else:
        best = store.encoders.get(name) if name in store.encoders else base
        target = store.create_collection(where, encoder=run.encoder if better else best)
    if better:
        target.add_encoder(run.encoder, progress=progress)  # what an earlier call left unfilled too
    reports = _embedded(target, labelled, pool, options, progress)
    before = target.encoder()
    reason = _reason(run, better, options.get("force"))
    lost = _lost(target, run.encoder, before) if better else None
    switched = better and lost is None
    encoder = run.encoder if switched else before
    index = _index(target, encoder, progress)  # first, so that no search is without one
    if switched and before.fingerprint != encoder.fingerprint:
        target.use_encoder(encoder, reason=f"run {run.record.label}: {reason}")
    said = reason if lost is None else f"{reason} Not switched: {lost}"
    return Improved(run, where, encoder, switched, said, reports, index)


def _check(store: Store, labelled: Paths, name: str, base: str | Encoder | None, asked: Mapping[str, Any]) -> None:
    """InvalidArguments for what only this call refuses, with whatever else is wrong; the rest `fine_tune` refuses by itself."""
    problems = [f"{each}= is not taken: {instead}" for each, instead in INSTEAD.items() if each in asked]
    if problems and base is not None:
        from raystore.fine_tune.ask import make_asked

        rest = {each: value for each, value in asked.items() if each not in (*INSTEAD, "force")}
        start = _base(store, base)
        try:
            if rest.get("recipe") is None:
                rest |= _recipe_for(name, start, labelled, rest)
            make_asked(name, start, labelled, **rest)
        except InvalidArguments as error:
            problems += error.problems
    if base is None and asked.get("image"):
        problem = "which encoder is to be improved? For images there is no default: register one and name it with base="
        problems.append(problem)
    if problems:
        raise InvalidArguments(call="improve", problems=problems)


def _reason(run: FineTuned, better: bool, force: str | None) -> str:
    if better:
        return run.proof.headline if run.proof.better else f"Forced: {force}. {run.proof.headline}"
    return f"Not switched. {run.state if run.proof.better or run.record.unchanged else run.proof.headline}"


def _lost(target: Collection, new: Encoder, before: Encoder) -> str | None:
    """Why the collection is not to be asked by the new encoder: rows that would not be found. None where it may be, or is."""
    lacking = target.table.count_lacking(new.fingerprint)
    if not lacking or before.fingerprint == new.fingerprint:
        return None
    rows = "1 row has" if lacking == 1 else f"{lacking:,} rows have"
    why = f"{rows} no vector of it, for their content is gone"
    layout = target.table.layout
    if is_bridged(before.passport) and read_bridge(layout, before.fingerprint).target == new.fingerprint:
        return f"{why}; they are found through the bridge to it, {before.label}, which asks with it already."
    command = f"raystore encoder migrate {target.name} --to {new.name} --cut-over"
    return f"{why}: `{command}` bridges them, then it is asked by it."


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
    apart: dict[str, Any] = {} if "id" in columns else {"id_prefix": "pool-"}
    return (first,) if pool is None else (first, target.embed(pool, progress=progress, **columns, **apart))


def _base(store: Store, base: str | Encoder | None) -> Encoder:
    if isinstance(base, Encoder):
        return base
    if base is not None:
        return store.encoders.get(base)
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
