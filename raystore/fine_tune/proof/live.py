"""A fine-tuned encoder goes live: its public name points at it, unless the proof says that a stated metric fell.

An alias record says by which run and on what proof a name came to mean its encoder, and why where the gate was overruled; the
same stands beside the run. Records are never edited, so both stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raystore.catalog import Catalog, Record
from raystore.encoders.records import KIND, check_encoder_name, read_encoder, sources_of
from raystore.errors import InvalidArguments, NotBetter
from raystore.fine_tune.proof.gate import Fall, judge
from raystore.fine_tune.proof.proof import Proof
from raystore.layout import FP12

MAX_REASON_CHARS = 2_000


def make_live(
    catalog: Catalog,
    name: str,
    fingerprint: str,
    proof: Proof,
    *,
    run: int | None = None,
    run_folder: Path | None = None,
    force: str | None = None,
    require: Sequence[str] | None = None,
    source: Record | None = None,
) -> Record:
    """The alias record: from now on `name` means the encoder of `fingerprint`. The same encoder again changes nothing.

    Args:
        run: the number of the run that made it. run_folder: where the decision is kept beside the run, as live/<n>.json.
        force: a reason to let it through even if a metric fell; it is kept in both records.
        require: metrics that must not fall; None is what the proof states.
        source: where its weights come from; None is the newest source that a record names.

    Raises:
        NotBetter: a stated metric fell and there is no reason given. Nothing has changed then.
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
    fell = judge(proof, require)
    if fell and force is None:
        raise refusal(name, fell)
    record: Record = {
        "fingerprint": fingerprint,
        "source": source,
        "run": run,
        "before": before.get("fingerprint") if before else None,
        "proof": {
            "against": proof.before,
            "verdict": proof.verdict,
            "headline": proof.headline,
            "fell": [str(fall) for fall in fell],
        },
        "forced": bool(fell),
        "reason": force.strip() if force else None,
    }
    if run_folder is not None:
        catalog.put(run_folder / "live", {"name": name, **record})
    catalog.set_alias(KIND, name, record)
    return record


def refusal(name: str, fell: Sequence[Fall]) -> NotBetter:
    """The error for what fell, the worst first."""
    worst, *others = fell
    c = worst.change
    return NotBetter(
        encoder=name,
        metric=worst.name,
        before=c.before,
        after=c.after,
        low=c.low if c.low is not None else c.value,
        high=c.high if c.high is not None else c.value,
        also=[fall.name for fall in others],
        advice="The encoder is kept under its fingerprint and run. Train again, or give a reason that is kept: force='...'.",
    )
