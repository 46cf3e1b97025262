"""A fine-tuning from the call to the live name: train, publish the model, prove it, keep the record, decide.

Each step finds what it did before: checkpoints of the training, the published model, the run's record. So a call that was killed
anywhere is repeated, and goes on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from raystore.catalog import Catalog
from raystore.encoders.opening import open_encoder
from raystore.encoders.records import open_source
from raystore.encoders.registry import Encoder, Encoders
from raystore.fine_tune.ask import Asked
from raystore.fine_tune.dry_run import DryRun, dry_run
from raystore.fine_tune.examples.read import read_sides
from raystore.fine_tune.examples.reader import ItemReader
from raystore.fine_tune.examples.types import Sides
from raystore.fine_tune.fit import Fitted, fit, forget
from raystore.fine_tune.loop.points import Point, Trained
from raystore.fine_tune.loop.work import Work, load_trained
from raystore.fine_tune.model.publish import publish_model
from raystore.fine_tune.proof.gate import judge
from raystore.fine_tune.proof.proof import Proof, TrainingPoint
from raystore.fine_tune.prove import prove
from raystore.fine_tune.records import RunRecord, Runs, publish_run
from raystore.fine_tune.result import FineTuned
from raystore.layout import read_json, write_json
from raystore.progress import Noted
from raystore.secret import load_store_key

if TYPE_CHECKING:
    from raystore.fine_tune.sweep import Sweep

_LIBRARIES = ("torch", "transformers", "sentence-transformers", "tokenizers", "ray", "peft", "numpy")
_PUBLISHED = "published.json"  # in the work's folder, while the proof is still to come


def fine_tune(
    catalog: Catalog, asked: Asked, *, force: str | None = None, only_if_better: bool = False, progress: Noted
) -> FineTuned:
    """See `Store.fine_tune`. `only_if_better`: the name is not pointed at an encoder of which the proof cannot tell."""
    work = work_of(catalog, asked)
    runs = Runs(catalog)
    record = runs.with_key(asked.name, work.digest)
    if record is None:
        record = _train_and_prove(catalog, asked, work, progress)
        forget(work)
    encoder = Encoder(catalog, Encoders(catalog).resolve(record.fingerprint), asked.name)
    made = FineTuned(encoder, record, catalog)
    allowed = made.proof.better if only_if_better else not record.fell
    if not made.live and (force is not None or allowed):
        made.make_live(force=force)
    return made


def try_run(catalog: Catalog, asked: Asked) -> DryRun:
    """Five steps of it, and what all would take."""
    return dry_run(work_of(catalog, asked))


def sweep_run(
    catalog: Catalog, asked: Asked, settings: Sequence[Mapping[str, Any]], *, minutes: float, workers: int, progress: Noted
) -> Sweep:
    """See `Store.sweep_fine_tune`."""
    from raystore.fine_tune.sweep import sweep

    return sweep(work_of(catalog, asked), settings, minutes=minutes, workers=workers, progress=progress)


def work_of(catalog: Catalog, asked: Asked) -> Work:
    """What the processes that train are handed. Raises ModelUnusable where the base's files are gone."""
    source, options = open_source(catalog, asked.base.fingerprint, asked.base.label, asked.base.name)
    return Work(str(catalog.layout.root), source, options, asked.data, asked.recipe)


def _train_and_prove(catalog: Catalog, asked: Asked, work: Work, progress: Noted) -> RunRecord:
    started = _now()
    fitted = fit(work, workers=asked.workers, report=_reported(progress))
    encoder, model, sides = _published(catalog, asked, work, fitted)
    total = fitted.trained.steps
    progress(total, total, "proving it")
    proof = prove(
        asked,
        sides,
        [open_encoder(catalog.layout, each.fingerprint, name=each.name) for each in (asked.base, encoder)],
        curve=[TrainingPoint(step=p.step, loss=p.loss, val_accuracy=p.val_accuracy) for p in fitted.trained.points],
        advance=lambda done, rows: progress(total, total, f"proving it: {done:,} of {rows:,} rows encoded"),
    )
    record = RunRecord(
        name=asked.name,
        key=work.digest,
        started=started,
        ended=_now(),
        base=asked.base.label,
        base_fingerprint=asked.base.fingerprint,
        encoder=encoder.label,
        fingerprint=encoder.fingerprint,
        model=model,
        recipe_name=asked.recipe_name,
        recipe=asked.recipe,
        workers=asked.workers,
        data=_about_data(asked, sides, fitted.trained),
        trained=fitted.trained.to_dict(),
        proof=proof.model_dump(mode="json"),
        require=asked.require,
        fell=_fallen(proof, asked.require),
        libraries=_versions(),
    )
    return publish_run(catalog.layout, record, fitted.folder / "points.csv")


def _published(catalog: Catalog, asked: Asked, work: Work, fitted: Fitted) -> tuple[Encoder, int, Sides]:
    """The encoder, its model's number, and the data read once more; a model that a killed call published is found again."""
    place = fitted.folder / _PUBLISHED
    trainable = load_trained(work, fitted.weights)
    reader = ItemReader(trainable.passport, trainable.tokenizer_json, work.recipe.max_tokens)
    layout = catalog.layout
    sides = read_sides(work.data, reader, key=load_store_key(layout, read_json(layout.store_file)["key_id"]))
    if place.is_file():
        about = read_json(place)
        return Encoder(catalog, Encoders(catalog).resolve(about["fingerprint"]), asked.name), int(about["model"]), sides
    training = {"data": sides.digest, "augmentations": list(work.recipe.augment), "steps": fitted.trained.best_step}
    encoder, number = publish_model(catalog, asked.name, trainable, base_name=asked.base.label, training=training)
    write_json(place, {"fingerprint": encoder.fingerprint, "model": number}, layout.tmp)
    return encoder, number, sides


def _about_data(asked: Asked, sides: Sides, trained: Trained) -> dict[str, Any]:
    """What was read, by names, sizes and counts."""
    leaks = sides.leaks
    removed = {
        f"{side}: {kind}": n
        for side, kinds in leaks.to_dict().items()
        if isinstance(kinds, dict)
        for kind, n in kinds.items()
    }
    said = ""
    if leaks.removed:
        kinds = ", ".join(f"{n:,} from {name.replace(': ', ' (')})" for name, n in removed.items() if n)
        said = f"{leaks.removed:,} rows were left out, since they stand on a later side too or nearly so: {kinds}."
    files = [
        {"path": s.path, "rows": s.n_rows, "size_bytes": s.size_bytes, "modified": s.modified} for s in asked.data.sources
    ]
    columns = asked.data.columns.named
    return {**trained.data, "leaks_said": said, "files": files, "columns": columns, "split": dict(asked.data.split)}


def _fallen(proof: Proof, required: Sequence[str]) -> tuple[str, ...]:
    """Sentences: what fell, and what was required and cannot be measured on this data."""
    measured = [name for name in required if name in proof.metrics]
    fell = [str(fall) for fall in judge(proof, measured if required else None)]
    return (*fell, *(f"{name} is required, and these rows cannot say it" for name in required if name not in proof.metrics))


def _reported(progress: Noted) -> Any:
    """Points as a bar's words: the loss, the accuracy that was looked at last."""
    seen: dict[str, float] = {}

    def report(point: Point) -> None:
        if point.val_accuracy is not None:
            seen["val"] = point.val_accuracy
        words = [] if point.loss is None else [f"loss {point.loss:.3f}"]
        words += [f"kNN of val {seen['val']:.1%}"] if "val" in seen else []
        words += ["pre-training"] if point.phase == "pretrain" else []
        progress(point.step, point.steps, ", ".join(words))

    return report


def _versions() -> dict[str, str]:
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
