"""What `fine_tune` hands back: the encoder, its run and proof, and whether its name means it. Knows how it is shown, and how a
run is that an alarm stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raystore.catalog import Catalog
from raystore.encoders.registry import Encoder
from raystore.errors import InvalidArguments, listed
from raystore.fine_tune.loop.points import Point, Trained
from raystore.fine_tune.proof.live import make_live
from raystore.fine_tune.proof.proof import Proof
from raystore.fine_tune.records import RunRecord, Runs, StoppedRun
from raystore.layout import FP12

_NOTHING = "no step was better than the base itself, so there is nothing to switch to"
_LAST_POINTS = 5


@dataclass(frozen=True)
class FineTuned:
    """A finished run. `encoder` can be used by its fingerprint whether it is live or not."""

    encoder: Encoder
    record: RunRecord
    catalog: Catalog

    @property
    def proof(self) -> Proof:
        """Before and after, on rows that training did not see."""
        return self.record.judged

    @property
    def live(self) -> bool:
        """Whether the run's name means this encoder at present; never where it is the base itself."""
        return Runs(self.catalog).is_live(self.record)

    def make_live(self, force: str | None = None) -> FineTuned:
        """Itself; from now on its name means this encoder.

        Args:
            force: a reason, which is kept, to do so although something stands against it.

        Raises:
            NotBetter: a required figure fell, against the base or against what the name meant when the run ended, or could not be
                measured; and no reason is given.
            InvalidArguments: the encoder is the base itself, so there is nothing to switch to.
        """
        if self.record.unchanged:
            problem = f"{self.record.label} is its base, {self.record.base}, unchanged: {_NOTHING}"
            raise InvalidArguments(call=f"make '{self.record.name}' live", problems=[problem])
        make_live(
            self.catalog,
            self.record.name,
            self.encoder.fingerprint,
            self.proof,
            standing=self.record.against_standing,
            run=self.record.number,
            run_folder=Runs(self.catalog).notes_folder(self.record),
            force=force,
            require=self.record.require,
        )
        return self

    def to_html(self, items: Mapping[str, str] | None = None, *, collection: str | None = None) -> str:
        """The proof as one HTML file with the two maps, and how the encoder was made.

        Args:
            items: as in `Proof.to_html`: what is shown beside the ids of rows.
            collection: or the name of a collection with the same ids that keeps its content: then it is taken from there.

        Raises:
            CollectionNotFound; InvalidArguments: the collection keeps no content, or knows none of the rows.
        """
        from raystore.fine_tune.proof.html import page
        from raystore.fine_tune.proof.made import made_html

        shown = {**self._items(collection), **(items or {})}
        return page(self.proof, shown, made_html(self.record, self._words()))

    def to_text(self, *, collection: str | None = None) -> str:
        """As `str` shows it; `collection` as in `to_html`."""
        return "\n".join([*self._words(), "", self.proof.to_text(self._items(collection))])

    def to_dict(self) -> dict[str, Any]:
        """All that stands in the record, JSON-ready, and whether it is live."""
        return {"run": self.record.label, "live": self.live, **self.record.model_dump(mode="json")}

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return f"<run {self.record.label}: {self.encoder.label} from {self.record.base}, {self.proof.verdict}>"

    def _repr_html_(self) -> str:
        from html import escape

        return "".join(f"<p>{escape(line)}</p>" for line in self._words()) + self.proof._repr_html_()

    def _items(self, collection: str | None) -> dict[str, str]:
        from raystore.fine_tune.proof.kept import kept_items

        return {} if collection is None else kept_items(self.catalog.layout, collection, self.proof)

    def _words(self) -> list[str]:
        """How it was made and what became of it, a sentence a line."""
        run, trained = self.record, self.record.training
        lines = [
            f"Run {run.label}: {run.base} -> {self.encoder.label}, {_taken(trained)}; {trained.ended}; "
            f"the weights of step {trained.best_step:,} were kept."
        ]
        lines += data_words(run.data)
        before = trained.pretrained.notes if trained.pretrained else ()
        lines += [f"Other than the recipe says: {note}." for note in dict.fromkeys((*before, *trained.notes))]
        if trained.suspects:
            n = len(trained.suspects)
            lines.append(
                f"{n:,} training {'row has a label' if n == 1 else 'rows have labels'} that the training did not believe."
            )
        if lacking := [id_ for id_ in run.show if id_ not in {asked.id for asked in self.proof.neighbours}]:
            lines.append(f"The neighbours of {listed(lacking)} are not shown: the proof has no such row on its test side.")
        lines.append(self.state)
        return lines

    @property
    def state(self) -> str:
        """Whether the name means it, and why not, in a sentence."""
        if self.record.unchanged:
            return f"Unchanged: {_NOTHING}."
        runs, name, fp12 = Runs(self.catalog), self.record.name, self.encoder.fingerprint[:FP12]
        if self.live:
            forced = [d for d in runs.decisions(self.record) if d.get("forced")]
            why = f" It was forced: {forced[-1]['reason']}" if forced else ""
            return f"Live: '{name}' means {fp12} from now on.{why}"
        if self.record.fell:
            return f"Not live: {'; '.join(self.record.fell)}. The encoder is kept as {fp12}."
        other = runs.means(name)
        if other is None:
            return f"Not live: '{name}' means no encoder yet. This one is kept as {fp12}; make_live() gives it the name."
        again = "It meant this one before" if runs.was_live(self.record) else "This one is kept"
        return f"Not live: '{name}' means {other[:FP12]} at present. {again}, as {fp12}; make_live() gives it the name."


def data_words(data: Mapping[str, Any]) -> list[str]:
    """What was read, what was left out and why; a sentence a line."""
    sides = data["rows"]
    found = [f"Data: {sides['train']:,} rows to train on, {sides['val']:,} to watch it, {sides['test']:,} to prove it."]
    if leaks := data.get("leaks_said"):
        found.append(str(leaks))
    if aside := data.get("set_aside"):
        (reason, _), *_ = Counter(aside).most_common(1)
        n = sum(aside.values())
        found.append(
            f"{n:,} {'row was' if n == 1 else 'rows were'} set aside{', mostly' if len(aside) > 1 else ''}: {reason}."
        )
    return found


def stopped_text(run: StoppedRun) -> str:
    """A run that an alarm stopped: its sentence, what was read, the end of its curve, its recipe."""
    trained, called = run.training, f"'{run.recipe_name}'" if run.recipe_name else "without a name"
    lines = [
        f"Run {run.label}: {run.base}, {_taken(trained)}; {trained.ended}, so there is no encoder.",
        f"{run.reason[:1].upper()}{run.reason[1:]}",
        *(data_words(run.data) if "rows" in run.data else []),  # the alarm may have come before they were counted
    ]
    if trained.points:
        lines += ["", f"The end of its curve, which is runs/{run.name}/{run.number}/points.csv in the store:"]
        lines += [f"  step {p.step:,} of {p.steps:,}: {point_words(p)}" for p in trained.points[-_LAST_POINTS:]]
    lines += ["", f"The recipe, {called}:", *(f"  {name} = {said}" for name, said in run.recipe.changed.items())]
    return "\n".join(lines)


def point_words(point: Point) -> str:
    """'loss 1.234, kNN of val 56.7%'."""
    words = [] if point.loss is None else [f"loss {point.loss:.3f}"]
    words += [] if point.val_accuracy is None else [f"kNN of val {point.val_accuracy:.1%}"]
    words += ["pre-training"] if point.phase == "pretrain" else []
    return ", ".join(words)


def _taken(trained: Trained) -> str:
    minutes = trained.seconds / 60
    took = f"{minutes:,.1f} minutes" if minutes >= 1 else f"{trained.seconds:,.0f} s"
    return f"{trained.steps:,} {'step' if trained.steps == 1 else 'steps'} ({trained.rows:,} rows seen) in {took}"
