"""Fine-tuning all-MiniLM-L6-v2 and MobileNetV2 with labels, against SetFit and against themselves frozen.

Each part is a run of `store.fine_tune` in a store that is kept, so an interrupted benchmark goes on: a finished run is found, one
that was begun goes on from its checkpoint. Figures are taken apart from raystore's own proof, by scikit-learn's logistic
regression (C=10) and exact neighbours over vectors that are kept by fingerprint and file. Figures of parts that were not run
stay as they are in the result.

    banking8   8 examples a class of Banking77, 3 draws: against SetFit on the same texts, given as many of them to see
    simcse     the same with the other texts, unlabelled, first
    banking    all of Banking77        clinc   CLINC150, its out-of-scope questions told apart
    nested     Banking77 with matryoshka=[128]: what the first 128 of 384 numbers lose
    caltech    MobileNetV2, 5 images a class
    titles     all arXiv titles        abstracts  all arXiv abstracts; at most 60 minutes of training each
    bridge     from MiniLM to its child by 500, 2,000 and 20,000 pairs, and to an unrelated space; heads through it
    workers    2 workers against 1 at equal batch       precision  a step in bf16 against one in float32

Run: python benchmarks/fine_tune.py [--only PART ...]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from common import CACHE, RESULTS, abstract_vectors, dataset, peer_python, write_result
from sklearn.linear_model import LogisticRegression

import raystore
from raystore.encoders import Encoder
from raystore.encoders.bridged import Direction
from raystore.encoders.source import find_source
from raystore.encoders.vector_map import VectorMap
from raystore.fine_tune.result import FineTuned
from raystore.migrate.bridge.fidelity import Fidelity, halved, look, summed
from raystore.migrate.bridge.fit import Pairs, check_kinds, choose, fit_map, microseconds
from raystore.store import Store
from raystore.train.classify.vote import class_votes, vote_shares

FEW, SEEDS = 8, (0, 1, 2)
BANKING = {"recipe": "many-classes", "epochs": 5, "split": {"train": 0.96, "val": 0.04}}
MOST = {"train": 0.96, "val": 0.02, "test": 0.02}
PEER = Path(__file__).parent / "peers" / "setfit_worker.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    chosen = parser.parse_args().only
    store = raystore.open(CACHE / "fine_tune_store")
    store.encoders.register("minilm", model="minilm")
    kept = RESULTS / "fine_tune.json"
    before = json.loads(kept.read_text(encoding="utf-8")).get("parts", {}) if kept.is_file() else {}
    for part in chosen:
        print(f"== {part}", file=sys.stderr, flush=True)
        before[part] = PARTS[part](store)
        write_result(
            "fine_tune",
            {"parts": before},
            ["torch", "transformers", "scikit-learn", "ray"],
            "python benchmarks/fine_tune.py",
        )


# --- few labels ----------------------------------------------------------------------------------------------------------


def banking8(store: Store) -> dict[str, Any]:
    """Ours and SetFit's on the same draws, one after the other."""
    test = dataset("banking77", "test.parquet")
    folder = find_source("minilm").folder
    rows = []
    for seed in SEEDS:
        few = draw("banking77", FEW, seed)
        ours = tune(store, f"banking8-{seed}", few, test, recipe="few-shot", seed=seed)
        trained = ours.record.training
        command = [peer_python("setfit"), str(PEER), str(folder), str(few), str(test), str(trained.rows), str(seed)]
        peer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        rows.append(
            {
                "seed": seed,
                "frozen": head_accuracy(store.encoders["minilm"], few, test),
                "ours": head_accuracy(ours.encoder, few, test),
                "setfit": peer["head"],
                "setfit_own_head": peer["own"],
                "texts": trained.rows,
                "ours_s": trained.seconds,
                "setfit_s": peer["seconds"],
            }
        )
    gain = [row["ours"] - max(row["setfit"], row["setfit_own_head"]) for row in rows]
    times = [row["setfit_s"] / row["ours_s"] for row in rows]
    return {"seeds": rows, "points_over_setfit": points(gain), "times_as_fast": [round(t, 2) for t in times]}


def simcse(store: Store) -> dict[str, Any]:
    """What the unlabelled rest adds, whichever way it goes; a t interval over the draws."""
    test = dataset("banking77", "test.parquet")
    rows = []
    for seed in SEEDS:
        few, rest = draw("banking77", FEW, seed), draw("banking77", FEW, seed, rest=True)
        without = tune(store, f"banking8-{seed}", few, test, recipe="few-shot", seed=seed)
        with_pool = tune(store, f"simcse-{seed}", few, test, pool=rest, recipe="few-shot", seed=seed, pretrain_steps=150)
        pair = [head_accuracy(each.encoder, few, test) for each in (without, with_pool)]
        rows.append({"seed": seed, "labels": pair[0], "pool_then_labels": pair[1]})
    return {"seeds": rows, "points": points([row["pool_then_labels"] - row["labels"] for row in rows])}


# --- many labels ---------------------------------------------------------------------------------------------------------


def banking(store: Store) -> dict[str, Any]:
    train, test = (dataset("banking77", f"{side}.parquet") for side in ("train", "test"))
    made = tune(store, "banking", train, test, **BANKING)
    return before_after(store.encoders["minilm"], made, train, test)


def clinc(store: Store) -> dict[str, Any]:
    train, test = (dataset("clinc150_oos", f"{side}.parquet") for side in ("train", "test"))
    made = tune(store, "clinc", train, test, **BANKING, out_of_scope="oos")
    found = before_after(store.encoders["minilm"], made, train, test, outside="oos")
    metrics = made.proof.metrics
    found["oos_auroc"] = {name: [metrics[name].before, metrics[name].after] for name in ("oos_head", "oos_neighbours")}
    return found


def nested(store: Store) -> dict[str, Any]:
    """Heads on all and on the first 128 numbers, of the base, of its child, and of the child trained with matryoshka=[128]."""
    train, test = (dataset("banking77", f"{side}.parquet") for side in ("train", "test"))
    encoders = {"base": store.encoders["minilm"]}
    for name, numbers in (("banking", {}), ("banking-nested", {"matryoshka": [128]})):
        encoders[name] = tune(store, name, train, test, **BANKING, **numbers).encoder
    return {name: [head_accuracy(each, train, test, dim=dim) for dim in (None, 128)] for name, each in encoders.items()}


def titles(store: Store) -> dict[str, Any]:
    """The vote of the 20 nearest among all training titles."""
    train, test = (dataset("arxiv100k", f"{side}.parquet") for side in ("train", "test"))
    base, made = store.encoders["minilm"], titles_child(store)
    return neighbours(made, *[[vectors(each, file, "title") for file in (train, test)] for each in (base, made.encoder)])


def abstracts(store: Store) -> dict[str, Any]:
    """The same on abstracts, of which training sees the first 128 tokens."""
    train, test = (dataset("arxiv100k", f"{side}.parquet") for side in ("train", "test"))
    made = tune(store, "abstracts", train, None, recipe="domain", epochs=1, max_tokens=128, split=MOST, budget_minutes=60)
    frozen = [abstract_vectors(side) for side in ("train", "test")]
    return neighbours(made, frozen, [vectors(made.encoder, file, "text") for file in (train, test)])


def neighbours(made: FineTuned, frozen: Sequence[np.ndarray], tuned: Sequence[np.ndarray]) -> dict[str, Any]:
    labels = [
        pq.read_table(dataset("arxiv100k", f"{side}.parquet"), columns=["label"]).column("label").to_pylist()
        for side in ("train", "test")
    ]
    trained = made.record.training
    both = [unit(np.hstack(pair)) for pair in zip(frozen, tuned, strict=True)]
    return {
        "frozen": vote(*frozen, *labels),
        "tuned": vote(*tuned, *labels),
        "side by side": vote(*both, *labels),
        "minutes": trained.seconds / 60,
        "steps": trained.steps,
    }


def caltech(store: Store) -> dict[str, Any]:
    base = store.encoders.register("mobilenet", model=dataset("encoders", "mobilenet_v2", "config.json").parent)
    few, test = draw("caltech101", 5, 0, content="image"), dataset("caltech101", "test.parquet")
    made = store.fine_tune(
        "caltech", base="mobilenet", data=few, test=test, image="image", label="label", id="id", recipe="image"
    )  # fmt: skip
    return before_after(base, made, few, test, column="image")


# --- moving --------------------------------------------------------------------------------------------------------------


def bridge(store: Store) -> dict[str, Any]:
    """Maps between the spaces of arXiv titles, fitted on so many rows, measured on 4,000 others; heads of 20,000 more."""
    train = dataset("arxiv100k", "train.parquet")
    codes = np.unique(pq.read_table(train, columns=["label"]).column("label").to_pylist(), return_inverse=True)[1]
    old = vectors(store.encoders["minilm"], train, "title")
    # Any child of it will do, so one that an earlier version trained is taken.
    child = store.encoders["titles"] if "titles" in store.encoders else titles_child(store).encoder
    spaces = {
        "fine-tuned child": vectors(child, train, "title"),
        "unrelated (TF-IDF, 256)": lexical(train),
    }
    order = np.random.default_rng(0).permutation(len(old))
    asked, known = order[-4_000:], order[-24_000:-4_000]
    found: dict[str, Any] = {}
    for name, new in spaces.items():
        heads = {"forward": LogisticRegression(C=10, max_iter=300).fit(new[known], codes[known]),
                 "back": LogisticRegression(C=10, max_iter=300).fit(old[known], codes[known])}  # fmt: skip
        for pairs in (500, 2_000, 20_000):
            for direction in ("forward", "back"):
                given, true = (old, new) if direction == "forward" else (new, old)
                map_, fidelity = bridged(direction, given, true, codes, order[:pairs], asked)
                head = [heads[direction].score(side[asked], codes[asked]) for side in (true, map_.apply(given))]
                found[f"{name}, {pairs:,} pairs, {direction}"] = asdict(fidelity) | {"head": head}
                print(name, pairs, direction, fidelity.recall, head, file=sys.stderr, flush=True)
    return found


def bridged(
    direction: Direction, given: np.ndarray, true: np.ndarray, codes: np.ndarray, known: np.ndarray, asked: np.ndarray
) -> tuple[VectorMap, Fidelity]:
    """The kind of map that raystore takes, fitted on the `known` pairs alone, and what it reaches on those `asked`."""
    pairs = Pairs(given[known], true[known]) if direction == "forward" else Pairs(true[known], given[known])
    # Forward the bridged rows are searched; backward, rows of the old space.
    rows = asked if direction == "forward" else np.concatenate([asked, known])
    tried = []
    for kind in check_kinds(None, len(known)):
        map_ = fit_map(direction, kind, pairs, 0)
        searched = direction, map_.apply(given[asked]), true[asked], true[rows], np.arange(len(asked))
        seen = look(*searched, codes[rows], codes[asked])
        fidelity = summed(direction, kind, len(known), len(rows), [seen])
        falls = halved(*searched) - fidelity.recall
        tried.append((map_, replace(fidelity, falls=falls, us=microseconds(direction, map_))))
    best = choose([fidelity for _, fidelity in tried])
    return next(each for each in tried if each[1] is best)


def workers(store: Store) -> dict[str, Any]:
    """The same batches on one process and on two workers, without dropout: the curves and the time of a step."""
    few, test = draw("banking77", FEW, 0), dataset("banking77", "test.parquet")
    same = {"recipe": "few-shot", "steps": 30, "dropout": 0.0, "precision": "fp32", "seed": 0}
    runs = [tune(store, f"workers-{n}", few, test, workers=n, **same).record.training for n in (1, 2)]
    losses = [{p.step: p.loss for p in run.points if p.loss is not None} for run in runs]
    apart = max(abs(losses[0][step] - losses[1][step]) for step in losses[0])
    step_s = [statistics.median(np.diff([point.seconds for point in run.points])) for run in runs]
    return {"largest_difference_of_loss": apart, "median_step_s": step_s, "overhead": step_s[1] / step_s[0]}


def precision(store: Store) -> dict[str, Any]:
    """How many times as fast a step is in bf16, five pairs of five steps; of texts cut at 32 tokens."""
    train = dataset("banking77", "train.parquet")
    asked = {
        "base": "minilm",
        "data": train,
        "text": "text",
        "label": "label",
        "id": "id",
        "recipe": "few-shot",
        "dry_run": True,
    }
    pace = [[store.fine_tune("pace", **asked, precision=each).step_s for each in ("fp32", "bf16")] for _ in range(5)]
    times = [round(slow / fast, 2) for slow, fast in pace]
    return {"times_as_fast": statistics.median(times), "from": min(times), "to": max(times)}


# --- what they share -----------------------------------------------------------------------------------------------------


def tune(store: Store, name: str, train: Path, test: Path | None, *, text: str = "text", **asked: Any) -> FineTuned:
    made = store.fine_tune(
        name, base="minilm", data=train, test=test, text=text, label="label", id="id", force="a benchmark", **asked
    )  # fmt: skip
    print(f"{made!r} {made.record.training.seconds:,.0f} s", file=sys.stderr, flush=True)
    return made


def draw(name: str, per_class: int, seed: int, *, content: str = "text", rest: bool = False) -> Path:
    """A file of so many rows a class of a train set, or of all others without their labels."""
    path = CACHE / f"{name}-{per_class}-{seed}{'-rest' if rest else ''}.parquet"
    if not path.is_file():
        table = pq.read_table(dataset(name, "train.parquet"), columns=["id", content, "label"])
        labels = np.asarray(table.column("label").to_pylist())
        rng = np.random.default_rng(seed)
        rows = np.concatenate([rng.permutation(np.flatnonzero(labels == label))[:per_class] for label in np.unique(labels)])
        chosen = table.take(np.setdiff1d(np.arange(len(labels)), rows) if rest else np.sort(rows))
        CACHE.mkdir(exist_ok=True)
        pq.write_table(chosen.drop_columns(["label"]) if rest else chosen, path)
    return path


def titles_child(store: Store) -> FineTuned:
    train = dataset("arxiv100k", "train.parquet")
    return tune(store, "titles", train, None, text="title", recipe="domain", max_tokens=32, split=MOST, budget_minutes=60)


def before_after(
    base: Encoder, made: FineTuned, train: Path, test: Path, *, column: str = "text", outside: str | None = None
) -> dict[str, Any]:
    metrics, trained = made.proof.metrics, made.record.training
    return {
        "head": [head_accuracy(each, train, test, column=column, outside=outside) for each in (base, made.encoder)],
        "precision_at_10": [metrics["precision"].before, metrics["precision"].after],
        "knn": [metrics["knn_accuracy"].before, metrics["knn_accuracy"].after],
        "steps": trained.steps,
        "seconds": trained.seconds,
    }


def head_accuracy(
    encoder: Encoder, train: Path, test: Path, *, column: str = "text", outside: str | None = None, dim: int | None = None
) -> float:
    """Accuracy of scikit-learn's logistic regression, on the first `dim` numbers where given."""
    sides = []
    for file in (train, test):
        labels = np.asarray(pq.read_table(file, columns=["label"]).column("label").to_pylist())
        inside = labels != outside
        sides.append((unit(vectors(encoder, file, column)[inside, :dim]), labels[inside]))
    head = LogisticRegression(C=10, max_iter=2_000).fit(*sides[0])
    return float(head.score(*sides[1]))


def vote(train: np.ndarray, test: np.ndarray, known: Sequence[str], asked: Sequence[str], k: int = 20) -> float:
    """Accuracy of the vote of the k nearest, exact."""
    import faiss

    names, codes = np.unique(np.asarray(known), return_inverse=True)
    index = faiss.IndexFlatIP(train.shape[1])
    index.add(train)
    cosines, near = index.search(test, k)
    said = class_votes(vote_shares(cosines), codes[near], len(names)).argmax(axis=1)
    return float(np.mean(names[said] == np.asarray(asked)))


def vectors(encoder: Encoder, file: Path, column: str) -> np.ndarray:
    """(n, dim) unit rows of a file's column, kept by fingerprint and the file's digest; an interrupted run goes on by chunks."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    items = pq.read_table(file, columns=[column]).column(column).to_pylist()
    parts = []
    for start in range(0, len(items), 10_250):
        kept = CACHE / "vectors" / f"{encoder.fingerprint[:12]}-{digest}-{column}-{start}.npy"
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            part = kept.with_suffix(".part.npy")
            np.save(part, np.asarray(encoder.encode(items[start : start + 10_250]), dtype=np.float32))
            part.rename(kept)
        parts.append(np.load(kept))
    return np.concatenate(parts)


def lexical(file: Path) -> np.ndarray:
    """(n, 256) unit rows of titles by their words alone: a space that no transformer made."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    titles = pq.read_table(file, columns=["title"]).column("title").to_pylist()
    found = TruncatedSVD(256, random_state=0).fit_transform(
        TfidfVectorizer(min_df=2, sublinear_tf=True).fit_transform(titles)
    )
    return unit(found)


def unit(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def points(gains: Sequence[float]) -> dict[str, float]:
    """The mean in points and, over the draws, the half width of its 95% t interval."""
    from scipy import stats

    spread = statistics.stdev(gains) / len(gains) ** 0.5 * float(stats.t.ppf(0.975, len(gains) - 1))
    return {"mean": round(100 * statistics.mean(gains), 2), "plus_minus": round(100 * spread, 2)}


PARTS: dict[str, Callable[[Store], dict[str, Any]]] = {
    "banking8": banking8, "simcse": simcse, "banking": banking, "clinc": clinc, "nested": nested, "caltech": caltech, "titles": titles,
    "abstracts": abstracts, "bridge": bridge, "workers": workers, "precision": precision,
}  # fmt: skip

if __name__ == "__main__":
    main()
