"""`raystore demo`: raw text to a served prediction, every step by the public API, every step resumable.

A second run finds what the first one made and does only what is missing.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from raystore.cli.output import Output
from raystore.collection import Collection
from raystore.demo.corpus import Corpus, docstrings, own_files
from raystore.serve.run.proxy import check_port_free
from raystore.session import shutdown_ray
from raystore.store import Store, open

if TYPE_CHECKING:
    from raystore.data.snapshots.snapshot import SnapshotRecord
    from raystore.serve.run.deploy import Running
    from raystore.train.heads import Head

COLLECTION, HEAD, DEPLOYMENT, ENCODER = "items", "labels", "demo", "minilm"


@dataclass
class _Steps:
    """Headings with the seconds each step took."""

    out: Output
    facts: dict[str, Any]

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        self.out.heading(f"{len(self.facts['seconds']) + 1}. {title}")
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        self.facts["seconds"][title.partition(": ")[0]] = round(took, 1)
        self.out.say(f"({took:.1f} s)")


def run_demo(
    out: Output,
    *,
    folder: str,
    data: str | None,
    test: str | None,
    text: str | None,
    label: str | None,
    id: str | None,
    port: int,
    workers: int,
    keep: bool,
) -> None:
    """Run every step and print what it did and where to look. Ctrl-C at any point leaves a store that the next run continues."""
    began = time.monotonic()
    steps = _Steps(out, {"folder": str(Path(folder).absolute()), "seconds": {}})
    running: Running | None = None
    served = ExitStack()
    check_port_free("127.0.0.1", port)  # now rather than at the last step, minutes from here
    try:
        corpus = _collect(steps, folder, data, test, text, label, id)
        store = open(Path(folder) / "store")
        items = _embed(steps, store, corpus, workers)
        if corpus.label is not None:
            store.register_table("labels", corpus.labels(), id="item")
            _query(steps, store, corpus)
            snapshot = _freeze(steps, store, corpus)
            head = _train(steps, store, snapshot, workers)
        _search(steps, items, corpus, workers)
        if corpus.label is not None:
            with steps.step(f"Deploy and ask over HTTP: Ray Serve at 127.0.0.1:{port}"):
                from raystore.serve.run.foreground import interrupted_by_sigterm

                running = store.deploy(DEPLOYMENT, head=head, port=port)
                served.enter_context(interrupted_by_sigterm())
                _ask(steps, store, running, corpus.question)
        steps.facts["total_s"] = round(time.monotonic() - began, 1)
        _summary(steps, folder, corpus, running, keep)
        if keep and running is not None:
            running.wait()
    finally:
        if running is not None:
            running.stop()
        shutdown_ray()
        served.close()


def _collect(
    steps: _Steps, folder: str, data: str | None, test: str | None, text: str | None, label: str | None, id: str | None
) -> Corpus:
    if data is None:
        with steps.step("Collect real text: the docstrings of the installed Python packages"):
            with steps.out.progress("reading packages", "packages") as progress:
                corpus = docstrings(Path(folder), progress)
            steps.out.say(corpus.about)
    else:
        with steps.step(f"Look at {data}"):
            corpus = own_files(data, test, text, label, id)
            steps.out.say(corpus.about)
    steps.facts["corpus"] = corpus.about
    return corpus


def _embed(steps: _Steps, store: Store, corpus: Corpus, workers: int) -> Collection:
    with steps.step("Register the encoder: all-MiniLM-L6-v2"):
        encoder = store.encoders.register(ENCODER, model="minilm")
        steps.out.say(repr(encoder))
    items = store.create_collection(COLLECTION, encoder=ENCODER, exist_ok=True)
    steps.facts["embedded"] = 0
    with steps.step("Embed: references go out over Ray Data, vectors come to rest in Lance, no text is kept"):
        for files, prefix in corpus.files:
            with steps.out.progress("embedding") as progress:
                report = items.embed(
                    files, text=corpus.text, id=corpus.id, subject=corpus.subject, id_prefix=prefix,
                    workers=workers, progress=progress,
                )  # fmt: skip
            steps.facts["embedded"] += report.added
            steps.out.say(str(report))
    return items


def _query(steps: _Steps, store: Store, corpus: Corpus) -> None:
    with steps.step("Ask in SQL: collections and label tables side by side, similarity() as a function"):
        for query in corpus.queries:
            steps.out.say(f"\n{query}")
            result = store.sql(query)
            steps.out.table(result.to_arrow().slice(0, 8).to_pylist(), result.columns)


def _freeze(steps: _Steps, store: Store, corpus: Corpus) -> SnapshotRecord:
    with steps.step("Freeze a training set: SQL, pinned versions, a split that keeps an entity on one side"):
        snapshot = store.snapshot(HEAD, corpus.training_sql, split=corpus.split)
        steps.out.say(repr(snapshot))
    return snapshot


def _train(steps: _Steps, store: Store, snapshot: SnapshotRecord, workers: int) -> Head:
    with steps.step("Train a linear head" + (": on Ray Train" if workers else "")):
        head = _trained(store, snapshot)
        if head is None:
            head = store.train_head(HEAD, snapshot=snapshot, workers=workers)
        else:
            steps.out.say(f"{head.label} was trained on this very snapshot before")
        steps.out.say(str(head.report))
    report = head.report
    steps.facts |= {
        "accuracy": report.accuracy,
        "macro_f1": report.macro_f1,
        "majority": report.baselines.majority,
        "knn10": report.baselines.knn10,
    }
    return head


def _trained(store: Store, snapshot: SnapshotRecord) -> Head | None:
    """The newest head, if it stands on these very rows and this encoder."""
    if HEAD not in store.heads.names():
        return None
    head = store.heads.get(HEAD)
    same = head.snapshot["hash"] == snapshot.hash and head.fingerprint == store.encoders.resolve(ENCODER).fingerprint
    return head if same else None


def _search(steps: _Steps, items: Collection, corpus: Corpus, workers: int) -> None:
    with steps.step("Index and search: two FAISS shards, the answers of one exact search"):
        found = items.index()
        if found is None or found.version != items.version:
            found = items.build_index(shards=2, workers=workers)
        where = "by Ray actors, one a shard" if found.served == "actors" else "in this process"
        steps.out.say(f"{found.rows:,} vectors in {len(found.shards)} shards, searched {where}")
        for query in corpus.searches:
            result = items.search(query, k=5)
            hits = [{"id": id_, "score": float(score)} for id_, score in zip(result.ids[0], result.scores[0], strict=True)]
            steps.out.table(hits, ["score", "id"], title=f"search: {query}")


def _ask(steps: _Steps, store: Store, running: Running, question: str) -> None:
    url = f"{running.url}/v1/predict/{DEPLOYMENT}"
    body = json.dumps({"text": question})
    steps.out.say(f"curl {url} -H 'content-type: application/json' -d {shlex.quote(body)}")
    answer = httpx.post(url, content=body, headers={"content-type": "application/json"}, timeout=30, trust_env=False)
    answer.raise_for_status()
    found = answer.json()
    steps.facts["answer"] = found
    steps.out.say(json.dumps(found, indent=1))
    steps.out.say("\nWhere that prediction comes from:")
    steps.out.say(str(store.lineage(found)))


def _summary(steps: _Steps, folder: str, corpus: Corpus, running: Running | None, keep: bool) -> None:
    steps.facts["keep"] = keep

    def draw() -> None:
        say = steps.out.say
        steps.out.heading(f"Done in {steps.facts['total_s']} s")
        rows = [{"step": name, "seconds": f"{s:.1f}"} for name, s in steps.facts["seconds"].items()]
        steps.out.table(rows, ["step", "seconds"])
        root = f"--store {shlex.quote(str(Path(folder) / 'store'))}"
        say("\nWhere to look:")
        hints: Sequence[tuple[str, str]] = (
            (f"raystore {root} doctor", "what the store holds, every digest checked"),
            (f"raystore {root} sql 'SELECT count(*) FROM {COLLECTION}'", "SQL"),  # noqa: S608
            (f"raystore {root} search {COLLECTION} {shlex.quote(corpus.searches[0])}", "search"),
        )
        if corpus.label is not None:
            hints = (
                *hints,
                (f"raystore {root} lineage {DEPLOYMENT}", "from the deployment back to the SQL and the encoder"),
                (f"raystore {root} serve", "serve it again; the API page is at /docs"),
            )
        for command, what in hints:
            say(f"  {command}    # {what}")
        if keep and running is not None:
            say(f"\nServing at {running.url} until Ctrl-C; the API page is at {running.url}/docs")

    steps.out.emit(steps.facts, draw)
