"""Serving, over loopback on one machine: raystore's orchestrator beside what a user would write, and under what goes wrong.

    make bench-peers; RAYSTORE_DATASETS=... python benchmarks/serve.py [--only PART ...] [--rounds N] [--seconds S]
    RAYSTORE_DATASETS=... python benchmarks/serve.py --quick        (seconds of each part; nothing is written then)

predict      requests a second from 1, 8 and 32 clients, all-MiniLM-L6-v2 and a head of Banking77's 77 classes: with the encoder
             in the ingress replica and as a deployment of its own, beside FastAPI + uvicorn + scikit-learn with a simple batcher in
             one process, over sentence-transformers (torch) and over the same OpenVINO encoder
embeddings   /v1/embeddings beside infinity's /embeddings, 1 and 32 texts a request
overhead     p50 above the bare encoder's call: the orchestrator, with 20 rules, with the log behind and before the answer
shadow       p50 and p99 with two shadow heads over those without, at half the peak; and with a candidate encoder in shadow
misbehave    the same with shadows that sleep, raise and fill memory
hop          ms at p50 that a head, an encoder, and both cost as deployments of their own
overload     ten times the peak: statuses, good answers, memory
rolling      failed requests while a head is promoted and encoder replicas are replaced;  kill: while they are killed

Servers are processes of their own. Those that are compared are started, warmed, asked and ended in turns, so that nothing runs beside
the one that is asked; the ratio of a round's pair counts, with the quartiles over the rounds. The client
is `serving/load.py`, asyncio over plain sockets with prepared requests, some 0.1 ms of CPU a request: it shares the cores with what it
asks. The peers' batcher waits as long as suits it best at each concurrency.
Results of a part replace that part's in benchmarks/results/serve.json.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from common import RESULTS, write_result
from serving import cost, faults, predict
from serving.store import fresh_store

PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "predict": predict.predict,
    "embeddings": predict.embeddings,
    "overhead": cost.overhead,
    "shadow": cost.shadow,
    "misbehave": cost.misbehave,
    "hop": predict.hop,
    "overload": faults.overload,
    "rolling": faults.rolling,
    "kill": faults.kill,
}
QUICK = {"rounds": 1, "seconds": 2.0}
LIBRARIES = ["fastapi", "numpy", "openvino", "ray", "scikit-learn", "uvicorn"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    lengths = {**(QUICK if asked.quick else {}), **{k: v for k in QUICK if (v := getattr(asked, k)) is not None}}
    for name in asked.only:
        part = PARTS[name]
        begun = time.perf_counter()
        with fresh_store() as kept:
            found = part(kept, **{k: v for k, v in lengths.items() if k in inspect.signature(part).parameters})
        found |= {"took_s": round(time.perf_counter() - begun), "date": time.strftime("%Y-%m-%d", time.gmtime())}
        if asked.quick:
            print(json.dumps(found, indent=1))
        else:
            keep(name, found, f"python benchmarks/serve.py {' '.join(sys.argv[1:])}".strip())


def keep(name: str, found: dict[str, Any], command: str) -> None:
    """Put the part among those that were measured before."""
    path = RESULTS / "serve.json"
    parts = json.loads(path.read_text(encoding="utf-8"))["parts"] if path.is_file() else {}
    parts = {**parts, name: {**found, "command": command}}
    what = "raystore's service beside its peers, and under overload, changes and kills"
    write_result("serve", {"what": what, "parts": parts}, LIBRARIES, "python benchmarks/serve.py")


if __name__ == "__main__":
    main()
