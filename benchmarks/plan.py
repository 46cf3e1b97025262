"""What `raystore plan embed` foretells of an image job against what the job then takes, at three sizes.

    RAYSTORE_DATASETS=... python benchmarks/plan.py

MobileNetV2 on tars of Caltech101's photographs (repeated under other names), on 2 Ray workers and in one process, by the
command line. The plan is made from a sample tar of 2,000; the job's time is the one its own report tells. Repeated
photographs cost what new ones cost: each is read, decoded and encoded.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from common import dataset, write_result

SIZES = (1_000, 10_000, 50_000)
SAMPLE = 2_000
WITHIN = 0.25


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 0])
    asked = parser.parse_args()
    photographs = pq.read_table(dataset("caltech101", "train.parquet"), columns=["image"]).column("image").to_pylist()
    model = dataset("encoders", "mobilenet_v2", "config.json").parent
    points = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = str(root / "store")
        raystore(store, "encoder", "register", "mobilenet", "--model", str(model))
        sample = write_tar(root / "sample.tar", photographs, SAMPLE)
        for workers in asked.workers:
            for size in asked.sizes:
                kind = ["--kind", "image", "--encoder", "mobilenet", "--sample", str(sample), "--workers", str(workers)]
                plan = raystore(store, "plan", "embed", "--items", str(size), *kind)
                tar = write_tar(root / f"{size}.tar", photographs, size)
                name = f"photos_{size}_{workers}"
                where = ["embed", name, str(tar), "--encoder", "mobilenet", "--workers", str(workers)]
                job = raystore(store, *where)
                tar.unlink()
                assert job["added"] == size, job
                took, said = job["seconds"], plan["seconds"]
                points.append(
                    {
                        "workers": workers,
                        "items": size,
                        "foretold_s": round(said, 1),
                        "took_s": round(took, 1),
                        "ratio": round(said / took, 3),
                        "foretold_rows_mb": round(plan["row_bytes"] / 1e6, 1),
                        "rows_mb": round(disk(Path(store) / "collections" / name) / 1e6, 1),
                    }
                )
                print(points[-1], flush=True)
    worst = max(points, key=lambda p: abs(p["ratio"] - 1))
    write_result(
        "plan",
        {
            "what": "seconds foretold over seconds taken, image jobs from tars",
            "ratio": worst["ratio"],
            "spread": [min(p["ratio"] for p in points), max(p["ratio"] for p in points)],
            "goal": [1 - WITHIN, 1 + WITHIN],
            "points": points,
        },
        ["ray", "openvino", "pillow", "pylance"],
        "python benchmarks/plan.py",
    )


def raystore(store: str, *arguments: str) -> Any:
    command = [str(Path(sys.executable).with_name("raystore")), "--store", store, "--json", *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def write_tar(path: Path, photographs: list[bytes], n: int) -> Path:
    with tarfile.open(path, "w") as tar:
        for i in range(n):
            data = photographs[(i * 7) % len(photographs)]
            member = tarfile.TarInfo(f"{i % 100:02}/{i:06}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
