"""A snapshot of 1,000,000 rows with one join against pandas and scikit-learn on the same tables.

    python benchmarks/snapshot.py [--rows N] [--repeats N]

raystore: `freeze` joins a collection with a source table, splits by entity, counts by class, sorts, hashes and writes Parquet.
The peer: two Parquet files, `merge`, `GroupShuffleSplit` twice (train; val and test), `to_parquet`; it counts, sorts and hashes
nothing. Both in processes of their own, in turns; peak is the kernel's high-water mark of the process, less what the imports took.
Goal: under 10 s, memory bounded.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import ratio_of, write_result

GOAL_S = 10.0
FINGERPRINT = "0123456789abcdef" * 4
DIM = 8  # a snapshot reads no vector
CHUNK = 100_000
SQL = "SELECT t.id, o.outcome AS label FROM tickets t JOIN outcomes o ON o.ticket = t.id"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--run", nargs=2, metavar=("WHO", "FOLDER"), help="one measured process (used inside)")
    options = parser.parse_args()
    if options.run:
        print(json.dumps(measured(*options.run)))
        return
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), options.rows)
        pairs, peaks = [], []
        for turn in range(options.repeats):
            order = ("ours", "peer") if turn % 2 == 0 else ("peer", "ours")
            found = {who: process(who, folder) for who in order}
            pairs.append((found["ours"]["seconds"], found["peer"]["seconds"]))
            peaks.append((found["ours"]["peak_mb"], found["peer"]["peak_mb"]))
        small = Path(folder) / "small"
        small.mkdir()
        fill(small, options.rows // 10)
        tenth = process("ours", str(small))
    ratio = ratio_of(pairs)
    figures = {
        "what": "seconds of pandas + scikit-learn over those of freeze, both whole processes' work without imports",
        "rows": options.rows,
        **ratio.record(),
        "goal_s": GOAL_S,
        "met": ratio.ours_s <= GOAL_S,
        "peak_mb": {"ours": statistics.median(a for a, _ in peaks), "peer": statistics.median(b for _, b in peaks)},
        "peak_mb_of_a_tenth": tenth["peak_mb"],
    }
    write_result(
        "snapshot", figures, ["duckdb", "pylance", "pyarrow", "pandas", "scikit-learn"], "python benchmarks/snapshot.py"
    )


def process(who: str, folder: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--run", who, folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(who: str, folder: str) -> dict[str, float]:
    call = {"ours": ours, "peer": peer}[who]
    if who == "peer":
        import pandas  # noqa: F401
        from sklearn.model_selection import GroupShuffleSplit  # noqa: F401
    else:
        from raystore.data.snapshots.snapshot import freeze  # noqa: F401
    before = high_water_mb()
    start = time.perf_counter()
    call(Path(folder))
    return {"seconds": time.perf_counter() - start, "peak_mb": round(high_water_mb() - before)}


def high_water_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def ours(folder: Path) -> None:
    from raystore.catalog import Catalog
    from raystore.data.query.engine import SqlEngine
    from raystore.data.snapshots.snapshot import freeze
    from raystore.layout import Layout

    catalog = Catalog(Layout(folder / "store"))
    freeze(catalog, SqlEngine(catalog, {}.__getitem__), f"bench_{os.getpid()}", SQL)


def peer(folder: Path) -> None:
    import pandas as pd
    from sklearn.model_selection import GroupShuffleSplit

    tickets, outcomes = (pd.read_parquet(folder / f"{name}.parquet") for name in ("tickets", "outcomes"))
    rows = tickets.merge(outcomes, left_on="id", right_on="ticket")[["id", "subject", "outcome"]]
    rows["split"] = "train"
    for share, side in ((0.2, "val"), (0.5, "test")):
        rest = rows.index if side == "val" else rows.index[rows["split"] == "val"]
        _, chosen = next(
            GroupShuffleSplit(1, test_size=share, random_state=0).split(rest, groups=rows["subject"].loc[rest])
        )
        rows.loc[rest[chosen], "split"] = side
    rows["weight"] = 1.0
    rows.to_parquet(folder / "peer.parquet", compression="zstd")


def fill(folder: Path, n: int) -> None:
    """The same tables in a store and as Parquet: n tickets of n / 3 customers, and an outcome for each in another order."""
    from raystore.catalog import Catalog
    from raystore.data.collection import CollectionTable
    from raystore.data.columns import vector_array
    from raystore.data.tables.table import register_table
    from raystore.layout import Layout, vector_column

    rng = np.random.default_rng(0)
    layout = Layout(folder / "store")
    table = CollectionTable.create(layout, "tickets", {FINGERPRINT: DIM})
    parts = []
    for start in range(0, n, CHUNK):
        numbers = np.arange(start, min(start + CHUNK, n))
        part = pa.table(
            {"id": [f"t-{i:08}" for i in numbers], "subject": [f"c-{i:08}" for i in rng.integers(0, n // 3, len(numbers))]}
        )
        digests = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(32), len(numbers), [None, pa.py_buffer(rng.bytes(32 * len(numbers)))]
        )
        vectors = vector_array(rng.standard_normal((len(numbers), DIM), dtype=np.float32))
        table.rows.commit(
            [part.append_column("_payload", digests).append_column(vector_column(FINGERPRINT), vectors)],
            refuse_differing=False,
        )
        parts.append(part)
    tickets = pa.concat_tables(parts)
    outcomes = pa.table({"ticket": tickets["id"], "outcome": [f"class {k}" for k in rng.integers(0, 40, n)]})
    outcomes = outcomes.take(pa.array(rng.permutation(n)))
    register_table(Catalog(layout), "outcomes", outcomes, id="ticket")
    pq.write_table(tickets, folder / "tickets.parquet")
    pq.write_table(outcomes, folder / "outcomes.parquet")


if __name__ == "__main__":
    main()
