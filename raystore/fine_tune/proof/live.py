"""A fine-tuned encoder goes live: its public name points at it, unless a stated metric fell, or a required one is not known.

An alias record says by which run and on what proof a name came to mean its encoder, and why where the gate was overruled; the
same stands beside the run. Records are never edited, so both stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raystore.catalog import Catalog, Record
from raystore.encoders.records import KIND, check_encoder_name, read_encoder, sources_of
from raystore.errors import InvalidArguments, NotBetter, NotMeasured, listed
from raystore.fine_tune.proof.gate import Judgement, weigh
from raystore.fine_tune.proof.proof import Proof
from raystore.layout import FP12

MAX_REASON_CHARS = 2_000
_ADVICE = "The encoder is kept under its fingerprint and run. Train again, or give a reason that is kept: force='...'."


def make_live(
    catalog: Catalog,
    name: str,
    fingerprint: str,
    proof: Proof,
    *,
    standing: Proof | None = None,
    run: int | None = None,
    run_folder: Path | None = None,
    force: str | None = None,
    require: Sequence[str] = (),
    source: Record | None = None,
) -> Record:
    """The alias record: from now on `name` means the encoder of `fingerprint`. The same encoder again changes nothing.

    Args:
        standing: the same rows, from the encoder that the name means to this one: what fell there counts too.
        run: the number of the run that made it. run_folder: where the decision is kept beside the run, as live/<n>.json.
        force: a reason to let it through even if a metric fell; it is kept in both records.
        require: metrics that must not fall, and that must have been measured; none is what the proof states.
        source: where its weights come from; None is the newest source that a record names.

    Raises:
        NotBetter: a metric fell, or is required and was not measured (NotMeasured), and there is no reason given. Nothing has
            changed then.
        InvalidArguments: the proof is of another encoder, or the reason is empty or too long.
        InvalidName; EncoderNotFound: the store has no encoder of that fingerprint.
    """
    check_encoder_name(name)
    read_encoder(catalog.layout, fingerprint)
    problems = []
    source = source if source is not None else next(iter(sources_of(catalog, fingerprint, name)), None)
    if source is None:
        problems.append(f"no record says where the weights of {fingerprint[:FP12]} came from; name it with source=")
    if proof.after_fingerprint != fingerprint:
        measured = proof.after_fingerprint[:FP12] or "an encoder without a fingerprint"
        problems.append(f"the proof is of {measured}, not of {fingerprint[:FP12]}")
    if force is not None and not 0 < len(force.strip()) <= MAX_REASON_CHARS:
        problems.append(f"force= is the reason in words, 1 to {MAX_REASON_CHARS:,} characters, which are kept")
    if problems:
        raise InvalidArguments(call=f"make '{name}' live", problems=problems)
    before = catalog.alias(KIND, name)
    if before is not None and before.get("fingerprint") == fingerprint:
        return before
    against = weigh(proof, require, standing)
    if against and force is None:
        raise refusal(name, against)
    record: Record = {
        "fingerprint": fingerprint,
        "source": source,
        "run": run,
        "before": before.get("fingerprint") if before else None,
        "proof": {
            "against": proof.before,
            "verdict": proof.verdict,
            "headline": proof.headline,
            "require": list(require),
            "fell": list(against.said),
        },
        "forced": bool(against),
        "reason": force.strip() if force else None,
    }
    if run_folder is not None:
        catalog.put(run_folder / "live", {"name": name, **record})
    catalog.set_alias(KIND, name, record)
    return record


def refusal(name: str, against: Judgement) -> NotBetter:
    """The error for what stands against it, the largest fall first."""
    if not against.falls:
        metric, *also = against.unmeasured
        return NotMeasured(encoder=name, metric=metric, also=also, advice=_ADVICE)
    unsaid = f"Nor can these rows say {listed(against.unmeasured)}, which must not fall. " if against.unmeasured else ""
    worst, *others = sorted(against.falls, key=lambda fall: fall.change.value)
    c = worst.change
    beside = f" (against {worst.against}, which the name means)" if worst.against else ""
    return NotBetter(
        encoder=name,
        metric=f"{worst.name}{beside}",
        before=c.before,
        after=c.after,
        low=c.low if c.low is not None else c.value,
        high=c.high if c.high is not None else c.value,
        also=list(dict.fromkeys(fall.name for fall in others)),
        advice=unsaid + _ADVICE,
    )
