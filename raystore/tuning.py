"""Better encoders, as a store offers them: fine-tuning, its runs, and one call for all of it. The work stands in `fine_tune`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, overload

from raystore.encoders.registry import Encoder
from raystore.progress import Progress, noted

if TYPE_CHECKING:
    from raystore.catalog import Catalog
    from raystore.encoders.registry import Encoders
    from raystore.fine_tune.dry_run import DryRun
    from raystore.fine_tune.records import Runs
    from raystore.fine_tune.result import FineTuned
    from raystore.fine_tune.sweep import Sweep
    from raystore.improve import Improved
    from raystore.layout import Layout
    from raystore.store import Store

Files: TypeAlias = str | Path | Sequence[str | Path]


class Tuning:
    """What a store does to its encoders."""

    layout: Layout
    catalog: Catalog
    encoders: Encoders

    @property
    def runs(self) -> Runs:
        """The records of this store's fine-tunings: `runs.names()`, `runs.of(name)`, `runs.get("minilm-tickets@2")`; those that an
        alarm stopped are among them."""
        from raystore.fine_tune.records import Runs

        return Runs(self.catalog)

    def run(self, reference: str) -> FineTuned:
        """The run "name@n" ("name": its newest that was finished) as `fine_tune` handed it back.

        Raises:
            RunNotFound, with the runs there are; InvalidArguments: an alarm stopped it, so it has no encoder, only a record in `runs`.
        """
        from raystore.fine_tune.result import FineTuned

        record = self.runs.finished(reference)
        return FineTuned(
            Encoder(self.catalog, self.encoders.resolve(record.fingerprint), record.name), record, self.catalog
        )

    @overload
    def fine_tune(self, name: str, *, base: str | Encoder, data: Files, dry_run: Literal[True], **asked: Any) -> DryRun: ...

    @overload
    def fine_tune(
        self, name: str, *, base: str | Encoder, data: Files, dry_run: Literal[False] = False, **asked: Any
    ) -> FineTuned: ...

    def fine_tune(
        self,
        name: str,
        *,
        base: str | Encoder,
        data: Files,
        text: str | None = None,
        image: str | None = None,
        pair: str | None = None,
        label: str | None = None,
        parent: str | None = None,
        id: str | None = None,
        subject: str | None = None,
        test: Files | None = None,
        pool: Files | None = None,
        split: Mapping[str, float] | None = None,
        out_of_scope: str | None = None,
        recipe: str | None = None,
        budget_minutes: float | None = None,
        workers: int = 0,
        require: Sequence[str] | None = None,
        force: str | None = None,
        only_if_better: bool = False,
        show: Sequence[str] | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
        **settings: Any,
    ) -> FineTuned | DryRun:
        """The fine-tuned encoder, its proof on rows that training did not see, and whether `name` means it now.

        The name is pointed at it unless a required figure fell, against the base or against what the name means by then, or no
        step was better than the base itself: then there is nothing to point it at, and force= changes nothing. The same
        call again finds the finished run, which is judged by what is required now; if the name was given to another encoder since,
        it stays with that one. After a kill the call goes on from the last checkpoint.

        Args:
            name: what the encoder is called once it is live; its runs are `name@1`, `name@2` ...
            base: the encoder to start from; it stays as it is.
            data: labelled files (as for `embed`). They are read where they are trained on and kept nowhere.
            text, image: the column to encode. pair: a second text that belongs to the first; text= and image= together are pairs of a
                text and a picture. label: the column of classes. parent: a column of coarser classes.
            id, subject: key columns; a subject (entity) stands on one side alone.
            test: files whose rows are the test side; without them a share of the data, by entity.
            pool: files with unlabelled items like these, on which `pretrain_steps=` are taken first; without such steps it is refused.
            split: fractions of train, val and test.
            out_of_scope: a label that is no class: its rows are not trained on, and how well they are told apart is measured.
            recipe: "few-shot", "many-classes", "domain" or "image"; see docs/fine-tuning.md. `settings` change single numbers of it.
            budget_minutes: of training; the schedule is fitted into it.
            workers: 0 trains in this process, more on so many Ray Train workers, with a GPU each where there are.
            require: figures that must not fall: "knn_accuracy", "precision", "head_accuracy" ...; None is those the proof states.
                One that cannot be measured on the data counts as fallen.
            force: a reason to make it live even so; it is kept.
            only_if_better: do not make it live either where the proof cannot tell.
            show: ids of test rows whose neighbours the report shows.
            dry_run: take 5 steps, write nothing, and return memory, steps and time.

        Raises:
            InvalidArguments: everything that is wrong with the call and the data; nothing was run. EncoderNotFound.
            TrainingCollapsed, TrainingDiverged: kept as a run too. JobFailed, DiskFull: what was saved is gone on from.
        """
        from raystore.fine_tune.ask import make_asked
        from raystore.fine_tune.run import fine_tune, try_run

        chosen = self.encoders.get(base if isinstance(base, str) else base.fingerprint)
        asked = make_asked(
            name, chosen, data,
            text=text, image=image, pair=pair, label=label, parent=parent, id=id, subject=subject, test=test, pool=pool, split=split,
            out_of_scope=out_of_scope, recipe=recipe, budget_minutes=budget_minutes, workers=workers, require=require,
            show=show, **settings,
        )  # fmt: skip
        if dry_run:
            return try_run(self.catalog, asked)
        with noted(progress, f"fine-tuning {name}", "steps") as advance:
            return fine_tune(self.catalog, asked, force=force, only_if_better=only_if_better, progress=advance)

    def sweep_fine_tune(
        self,
        name: str,
        *,
        base: str | Encoder,
        data: Files,
        settings: Sequence[Mapping[str, Any]],
        minutes: float = 2.0,
        recipe: str | None = None,
        workers: int = 0,
        progress: Progress | None = None,
        **asked: Any,
    ) -> Sweep:
        """Settings tried in short runs, by the kNN accuracy of val; `.best` are those of the best. Nothing is registered.

        Args:
            settings: each a few numbers of a recipe: [{"learning_rate": 2e-5}, {"losses": "proxy-anchor"}].
            minutes: of each run.
            workers: 0 tries one after the other in this process, else so many side by side through Ray Tune.
            asked: text, image, label and so on, as of `fine_tune`.

        Raises:
            As `fine_tune`.
        """
        from raystore.fine_tune.ask import make_asked
        from raystore.fine_tune.run import sweep_run

        chosen = self.encoders.get(base if isinstance(base, str) else base.fingerprint)
        first = make_asked(name, chosen, data, recipe=recipe, **asked)
        with noted(progress, f"trying settings for {name}", "settings") as advance:
            return sweep_run(self.catalog, first, settings, minutes=minutes, workers=workers, progress=advance)

    def improve(
        self,
        labelled: Files,
        *,
        name: str = "improved",
        base: str | Encoder | None = None,
        pool: Files | None = None,
        collection: str | None = None,
        budget_minutes: float = 30.0,
        progress: Progress | None = None,
        **asked: Any,
    ) -> Improved:
        """A better encoder from labelled files, proven; the labelled rows and the pool embedded and indexed by the better of the two.

        Checks the data, fine-tunes within the budget, proves it, embeds, builds an index, and then asks the collection by the new
        encoder. Where that is not better, or rows of the collection have no vector of it and their content is gone, the collection
        stays with the one it is asked by (a new collection gets what `name` means, or else the base), and that is said. The same
        call after a kill goes on where it stopped.

        Args:
            labelled: files with items and labels; `asked` names their columns (text=, label=, id=, subject= ..., as of `fine_tune`),
                and whatever else `fine_tune` takes: recipe=, require=, force=, show=, workers=, settings; not dry_run= and
                only_if_better=. Without a recipe the data choose one; pairs without labels are trained with the softmax.
            name: of the encoder. collection: where the rows go; None is the encoder's name with '_' for '-'.
            base: None is "minilm", registered where the store has none (for images there is no default).
            pool: files with unlabelled items, in the same column; embedded too, and trained on first with `pretrain_steps=`, which
                is 0 where it is not said.

        Raises:
            As `fine_tune`, `Collection.add_encoder`, `Collection.embed`, `Collection.build_index`.
        """
        from raystore.improve import improve

        return improve(
            cast("Store", self), labelled, name=name, base=base, pool=pool, collection=collection, budget_minutes=budget_minutes,
            progress=progress, asked=asked,
        )  # fmt: skip
