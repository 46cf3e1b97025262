"""What `fine_tune` hands back: the encoder, its run and proof, and whether its name means it. Knows how it is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raystore.catalog import Catalog
from raystore.encoders.registry import Encoder
from raystore.fine_tune.proof.live import make_live
from raystore.fine_tune.proof.proof import Proof
from raystore.fine_tune.records import RunRecord, Runs
from raystore.layout import FP12


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
        """Whether the run's name means this encoder at present."""
        return Runs(self.catalog).is_live(self.record)

    def make_live(self, force: str | None = None) -> FineTuned:
        """Itself; from now on its name means this encoder.

        Args:
            force: a reason, which is kept, to do so although a required figure fell.

        Raises:
            NotBetter: a required figure fell, and no reason is given.
        """
        make_live(
            self.catalog,
            self.record.name,
            self.encoder.fingerprint,
            self.proof,
            run=self.record.number,
            run_folder=Runs(self.catalog).notes_folder(self.record),
            force=force,
            require=[name for name in self.record.require if name in self.proof.metrics] or None,
        )
        return self

    def to_html(self, items: Mapping[str, str] | None = None) -> str:
        """The proof as one HTML file with the two maps; `items` as in `Proof.to_html`."""
        return self.proof.to_html(items)

    def to_dict(self) -> dict[str, Any]:
        """All that stands in the record, JSON-ready, and whether it is live."""
        return {"run": self.record.label, "live": self.live, **self.record.model_dump(mode="json")}

    def __str__(self) -> str:
        return "\n".join([*self._words(), "", str(self.proof)])

    def __repr__(self) -> str:
        return f"<run {self.record.label}: {self.encoder.label} from {self.record.base}, {self.proof.verdict}>"

    def _repr_html_(self) -> str:
        from html import escape

        return "".join(f"<p>{escape(line)}</p>" for line in self._words()) + self.proof._repr_html_()

    def _words(self) -> list[str]:
        """How it was made and what became of it, a sentence a line."""
        run, trained = self.record, self.record.training
        minutes = trained.seconds / 60
        took = f"{minutes:,.1f} minutes" if minutes >= 1 else f"{trained.seconds:,.0f} s"
        lines = [
            f"Run {run.label}: {run.base} -> {self.encoder.label}, {trained.steps:,} steps ({trained.rows:,} rows seen) in {took}; "
            f"{trained.ended}; the weights of step {trained.best_step:,} were kept."
        ]
        lines += data_words(run.data)
        if trained.suspects:
            n = len(trained.suspects)
            lines.append(
                f"{n:,} training {'row has a label' if n == 1 else 'rows have labels'} that the training did not believe."
            )
        lines.append(self._state())
        return lines

    def _state(self) -> str:
        name, fp12 = self.record.name, self.encoder.fingerprint[:FP12]
        if self.live:
            forced = [d for d in Runs(self.catalog).decisions(self.record) if d.get("forced")]
            why = f" It was forced: {forced[-1]['reason']}" if forced else ""
            return f"Live: '{name}' means {fp12} from now on.{why}"
        if self.record.fell:
            return f"Not live: {'; '.join(self.record.fell)}. The encoder is kept as {fp12}."
        return f"Not live: '{name}' means another encoder at present. This one is kept as {fp12}."


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
