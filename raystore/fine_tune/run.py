"""A fine-tuning from the call to the live name: train, publish the model, prove it, keep the record, decide.

Each step finds what it did before: checkpoints of the training, the published model, the run's record. So a call that was killed
anywhere is repeated, and goes on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from raystore.catalog import Catalog
from raystore.encoders.loaded import LoadedEncoder
from raystore.encoders.opening import open_encoder
from raystore.encoders.records import open_source
from raystore.encoders.registry import Encoder, Encoders
from raystore.errors import TrainingCollapsed, TrainingDiverged
from raystore.fine_tune.ask import Asked
from raystore.fine_tune.dry_run import DryRun, dry_run
from raystore.fine_tune.examples.read import read_sides
from raystore.fine_tune.examples.reader import ItemReader
from raystore.fine_tune.examples.types import Sides
from raystore.fine_tune.fit import Fitted, fit
from raystore.fine_tune.loop.checkpoints import OnDisk
from raystore.fine_tune.loop.held import forget, held
from raystore.fine_tune.loop.log import read_points
from raystore.fine_tune.loop.points import Point, Trained
from raystore.fine_tune.loop.work import Work, load_trained, open_work
from raystore.fine_tune.model.publish import publish_model
from raystore.fine_tune.proof.gate import weigh
from raystore.fine_tune.proof.proof import TrainingPoint
from raystore.fine_tune.prove import prove
from raystore.fine_tune.records import RunRecord, Runs, StoppedRun, publish_run
from raystore.fine_tune.result import FineTuned, point_words
from raystore.layout import read_json, write_json
from raystore.progress import Noted
from raystore.secret import load_store_key

if TYPE_CHECKING:
    from raystore.fine_tune.sweep import Sweep

_LIBRARIES = ("raystore", "torch", "transformers", "sentence-transformers", "tokenizers", "ray", "peft", "numpy")
_PUBLISHED = "published.json"  # in the work's folder, while the proof is still to come


def fine_tune(
    catalog: Catalog, asked: Asked, *, force: str | None = None, only_if_better: bool = False, progress: Noted
) -> FineTuned:
    """See `Store.fine_tune`. `only_if_better`: the name is not pointed at an encoder of which the proof cannot tell."""
    work, runs = work_of(catalog, asked), Runs(catalog)
    record = _record(catalog, asked, work, progress)
    forget(work.folder)
    made = FineTuned(_encoder(catalog, record.fingerprint, asked.name), record, catalog)
    allowed = not record.fell and (made.proof.better or not only_if_better) and _is_known(runs, record)
    # A name that was taken back from this encoder is not given to it again by repeating the call.
    if (force is not None or allowed) and not record.unchanged and not runs.was_live(record):
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
    return Work(str(catalog.layout.root), asked.name, source, options, asked.data, asked.recipe)


def _record(catalog: Catalog, asked: Asked, work: Work, progress: Noted) -> RunRecord:
    """The finished run's, found or made. Raises JobFailed where another process makes it at this moment."""
    runs = Runs(catalog)
    found = runs.with_key(asked.name, work.digest)
    if found is None:
        with held(work.folder):
            found = runs.with_key(asked.name, work.digest)  # another process may have published it since
            if found is None:
                return _train_and_prove(catalog, asked, work, progress)
    return _as_asked_now(catalog, asked, work, found, progress)


def _train_and_prove(catalog: Catalog, asked: Asked, work: Work, progress: Noted) -> RunRecord:
    started = _now()
    try:
        fitted = fit(work, workers=asked.workers, report=_reported(progress))
    except (TrainingCollapsed, TrainingDiverged) as error:
        stopped = StoppedRun(**_asked_for(asked, work, started), **_stopped_by(error, asked, work))
        publish_run(catalog.layout, stopped, work.folder)
        raise
    encoder, model, sides = _published(catalog, asked, work, fitted)
    total = fitted.trained.steps
    progress(total, total, "proving it")
    proof, standing = prove(
        asked,
        sides,
        _loaded(asked.base, catalog),
        _loaded(encoder, catalog),
        _standing(catalog, asked, encoder),
        curve=[TrainingPoint(step=p.step, loss=p.loss, val_accuracy=p.val_accuracy) for p in fitted.trained.points],
        advance=lambda done, rows: progress(total, total, f"proving it: {done:,} of {rows:,} rows encoded"),
    )
    record = RunRecord(
        **_asked_for(asked, work, started),
        encoder=encoder.label,
        fingerprint=encoder.fingerprint,
        model=model,
        data={**_files_of(asked), **fitted.trained.data},
        trained=fitted.trained.to_dict(),
        proof=proof.model_dump(mode="json"),
        standing=standing.model_dump(mode="json") if standing is not None else None,
        require=asked.require,
        show=asked.show,
        fell=weigh(proof, asked.require, standing).said,
    )
    return publish_run(catalog.layout, record, fitted.folder)


def _as_asked_now(catalog: Catalog, asked: Asked, work: Work, found: RunRecord, progress: Noted) -> RunRecord:
    """A finished run's record, judged by what is required now, with the rows that are to be shown now. It stays as it is on disk."""
    proof = found.judged
    if not set(asked.show) <= set(found.show):
        encoders = (_loaded(each, catalog) for each in (asked.base, _encoder(catalog, found.fingerprint, asked.name)))
        proven = prove(
            asked,
            open_work(work).sides,
            *encoders,
            advance=lambda done, rows: progress(done, rows, "finding the neighbours of rows to show"),
        )
        proof = proof.model_copy(update={"neighbours": proven.proof.neighbours})
        found = found.model_copy(update={"proof": proof.model_dump(mode="json"), "show": asked.show})
    fell = weigh(proof, asked.require, found.against_standing).said
    return found.model_copy(update={"require": asked.require, "fell": fell})


def _is_known(runs: Runs, record: RunRecord) -> bool:
    """Whether the name means nothing as yet, or an encoder that the run's was compared with."""
    standing = record.against_standing
    known = {None, record.base_fingerprint, standing.before_fingerprint if standing else None}
    return runs.means(record.name) in known


def _standing(catalog: Catalog, asked: Asked, encoder: Encoder) -> LoadedEncoder | None:
    """What the name means now, where it is another encoder than both and takes such items."""
    fingerprint = Runs(catalog).means(asked.name)
    if fingerprint in (None, asked.base.fingerprint, encoder.fingerprint):
        return None
    standing = _encoder(catalog, str(fingerprint), asked.name)
    taken = {modality for _, modality in asked.data.columns.views} <= {*standing.passport.modalities}
    return _loaded(standing, catalog) if taken else None


def _loaded(encoder: Encoder, catalog: Catalog) -> LoadedEncoder:
    return open_encoder(catalog.layout, encoder.fingerprint, name=encoder.name)


def _encoder(catalog: Catalog, fingerprint: str, name: str) -> Encoder:
    return Encoder(catalog, Encoders(catalog).resolve(fingerprint), name)


def _asked_for(asked: Asked, work: Work, started: str) -> dict[str, Any]:
    """What every record says, whatever came of it."""
    return {
        "name": asked.name,
        "key": work.digest,
        "started": started,
        "ended": _now(),
        "base": asked.base.label,
        "base_fingerprint": asked.base.fingerprint,
        "recipe_name": asked.recipe_name,
        "recipe": asked.recipe,
        "workers": asked.workers,
        "libraries": _versions(),
    }


def _stopped_by(error: TrainingCollapsed | TrainingDiverged, asked: Asked, work: Work) -> dict[str, Any]:
    """What an alarm left: its sentence, what was read, and the curve up to there."""
    points = tuple(read_points(work.folder / "points.csv"))
    last = points[-1] if points else None
    trained = Trained(
        steps=error.step,
        best_step=error.kept,
        seconds=last.seconds if last else 0.0,
        ended="an alarm stopped it",
        rows=last.rows if last else 0,
        points=points,
    )
    data = {**_files_of(asked), **OnDisk(work.folder).noted()}
    return {"reason": str(error), "data": data, "trained": trained.to_dict()}


def _published(catalog: Catalog, asked: Asked, work: Work, fitted: Fitted) -> tuple[Encoder, int, Sides]:
    """The encoder, its model's number, and the data read once more; a model that a killed call published is found again."""
    import torch

    place = fitted.folder / _PUBLISHED
    # What a base's files lack is drawn (a pooler): the same every time, so that a model of these weights is known again.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        trainable = load_trained(work, fitted.weights)
    reader = ItemReader(trainable.passport, trainable.tokenizer_json, work.recipe.max_tokens)
    layout = catalog.layout
    sides = read_sides(work.data, reader, key=load_store_key(layout, read_json(layout.store_file)["key_id"]))
    if place.is_file():
        about = read_json(place)
        return _encoder(catalog, about["fingerprint"], asked.name), int(about["model"]), sides
    training = {"data": sides.digest, "augmentations": list(work.recipe.augment), "steps": fitted.trained.best_step}
    encoder, number = publish_model(catalog, asked.name, trainable, base_name=asked.base.label, training=training)
    write_json(place, {"fingerprint": encoder.fingerprint, "model": number}, layout.tmp)
    return encoder, number, sides


def _files_of(asked: Asked) -> dict[str, Any]:
    """What was to be read: by names and sizes."""
    files = [
        {"path": s.path, "rows": s.n_rows, "size_bytes": s.size_bytes, "modified": s.modified} for s in asked.data.sources
    ]
    return {"files": files, "columns": asked.data.columns.named, "split": dict(asked.data.split)}


def _reported(progress: Noted) -> Any:
    """Points as a bar's words: the loss, the accuracy that was looked at last."""
    seen: dict[str, float] = {}

    def report(point: Point) -> None:
        if point.val_accuracy is not None:
            seen["val"] = point.val_accuracy
        progress(point.step, point.steps, point_words(replace(point, val_accuracy=seen.get("val"))))

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
