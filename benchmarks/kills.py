"""An embedding job killed hundreds of times: rows doubled, rows lost, rows done again. Each should be nothing, or next to it.

    python benchmarks/kills.py [--kills 500]

Each kill is a SIGKILL of a raystore program that embeds a file, at a random moment: most within half a second of its first
batch, a fifth of them anywhere from its start. Then it is run again, and killed again, until it ends; then comes
the next store. Vectors are compared with those of a run that nobody killed. 500 kills take about 20 minutes.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from common import ROOT, seconds, write_result

sys.path.insert(0, str(ROOT))

from tests.promises.kills import Job, kill_until_done, new_store, outcome, vectors, write_source

ROWS = 1_500


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    totals = dict.fromkeys(
        ("kills", "rows", "duplicates", "losses", "strangers", "set_aside", "done_again", "done_again_after_commit"), 0
    )
    runs = stores = largest = 0
    worst = 1.0
    with tempfile.TemporaryDirectory(prefix="raystore-kills-") as folder:
        source = write_source(Path(folder) / "source.parquet", ROWS)
        whole = Job(_store(Path(folder) / "whole", asked.model), source, Path(folder) / "whole-job")
        whole_s = seconds(whole.run_to_the_end)
        expected = vectors(whole.root)
        while totals["kills"] < asked.kills:
            stores += 1
            here = Path(folder) / str(stores)
            job = Job(_store(here / "store", asked.model), source, here / "job")
            kill_until_done(job, asked.kills - totals["kills"], rng)
            found = asdict(outcome(job))
            largest = max(largest, found["largest_batch"])
            for name in totals:
                totals[name] += found[name]
            held = vectors(job.root)
            worst = min(worst, *(float(held[id_] @ expected[id_]) for id_ in expected))
            runs += job.runs
            print(f"{totals['kills']} kills, {totals['duplicates']} doubled, {totals['losses']} lost", file=sys.stderr)
    write_result(
        "kills",
        {
            "what": f"a job over {ROWS} rows of 26,000 characters, killed at random moments and run again until it ends",
            **totals,
            "stores": stores,
            "runs": runs,
            "expected_rows": stores * len(source.ids),
            "expected_set_aside": stores * source.bad,
            "largest_batch_rows": largest,
            "worst_cosine_to_unbroken": round(worst, 6),
            "unbroken_s": round(whole_s, 2),
            "seed": asked.seed,
        },
        ["pylance", "pyarrow", "ray"],
        f"python benchmarks/kills.py --kills {asked.kills}",
    )
    if totals["duplicates"] or totals["losses"] or totals["strangers"] or totals["done_again_after_commit"]:
        sys.exit("rows were doubled, lost or done again")


def _store(root: Path, model: str) -> Path:
    new_store(root, model)
    return root


if __name__ == "__main__":
    main()
