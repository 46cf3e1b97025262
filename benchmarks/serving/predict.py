"""/predict with MiniLM and a head of 77 classes, and /v1/embeddings: raystore beside its peers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from serving.load import Answers, closed, post
from serving.servers import Server, fastapi, idle_cpu, infinity, raystore
from serving.store import Kept, questions
from serving.turns import Starts, against, faster, figures, middle, one_by_one, show

CONCURRENCY = (1, 8, 32)
# Ours over a peer's requests a second, at 1, 8 and 32 at once.
GOALS: dict[tuple[str, str], tuple[float | None, ...]] = {
    ("colocated", "fastapi-torch"): (1.2, 1.1, 1.2),
    ("own", "fastapi-torch"): (0.8, 0.65, 0.75),
    ("colocated", "fastapi-openvino"): (None, 0.75, 0.75),
}
WAITS_MS = (0, 3)  # of the peers' batcher; each peer gets the better one at each concurrency
WARM_S = 3.0
SHAPES = ((1, 1), (8, 1), (1, 32), (8, 32))  # clients, texts a request
EMBEDDINGS_GOAL = 1.0

DEPLOYMENTS = {"intent": {"head": "intent@1"}}
COLOCATED = {"colocate": True, "deployments": DEPLOYMENTS}


def own(replicas: int = 1) -> dict[str, Any]:
    """The encoder as a deployment of its own, with the machine's cores shared among its replicas."""
    cpus = max(1, (os.cpu_count() or 1) // replicas)
    return {"colocate": False, "encoders": {"minilm": {"replicas": replicas, "cpus": cpus}}, "deployments": DEPLOYMENTS}


def predict(kept: Kept, *, rounds: int = 5, seconds: float = 6.0) -> dict[str, Any]:
    """Requests a second of one text each, from 1, 8 and 32 clients."""
    texts = questions()
    waits: dict[tuple[str, int], int] = {}
    idle: dict[str, float] = {}

    def ask(name: str, server: Server) -> dict[str, Answers]:
        _warm(server, server.requests(texts))
        if name not in idle:
            idle[name] = idle_cpu(server)
        found = {}
        for clients in CONCURRENCY:
            if name.startswith("fastapi"):
                if (name, clients) not in waits:
                    waits[name, clients] = _better_wait(server, texts, clients)
                server.path = f"/predict/{waits[name, clients]}"
            found[_at_once(clients)] = closed(server.address, server.requests(texts), connections=clients, seconds=seconds)
        return found

    starts: Starts = {
        "colocated": partial(raystore, kept, COLOCATED),
        "own": partial(raystore, kept, own()),
        "fastapi-torch": partial(fastapi, kept, "torch"),
        "fastapi-openvino": partial(fastapi, kept, "openvino"),
    }
    found: dict[str, Any] = {}
    for what, answers in one_by_one(starts, ask, rounds).items():
        i = [_at_once(clients) for clients in CONCURRENCY].index(what)
        ratios = {
            f"{ours} over {peer}": against(goal, faster(answers[ours], answers[peer]))
            for (ours, peer), goals in GOALS.items()
            if (goal := goals[i]) is not None
        }
        found[what] = _found(f"/predict, {what}", ratios, answers)
        found[what]["peers_wait_ms"] = {name: wait for (name, clients), wait in waits.items() if _at_once(clients) == what}
    return {
        "what": "our requests a second over the peer's",
        **found,
        "idle_cpu": idle,
        "rounds": rounds,
        "seconds": seconds,
    }


def _at_once(clients: int) -> str:
    return f"{clients} at once"


def _warm(server: Server, requests: list[bytes]) -> None:
    for clients in (1, 8):
        closed(server.address, requests, connections=clients, seconds=WARM_S / 2)


def _better_wait(peer: Server, texts: list[str], clients: int) -> int:
    """How long this peer's batcher is best to wait under so many clients."""
    rates = {
        wait: closed(peer.address, peer.requests(texts, f"/predict/{wait}"), connections=clients, seconds=2.0).rate
        for wait in WAITS_MS
    }
    return max(rates, key=rates.__getitem__)


def hop(kept: Kept, *, rounds: int = 5, seconds: float = 6.0) -> dict[str, Any]:
    """p50 of one request at a time where the head, the encoder or both are deployments of their own, less p50 where all stands inside.

    Of "both" the encoder has a core less than the machine, and a thread less with it: the head's deployment needs a part of one.
    """
    texts = questions()
    cores = os.cpu_count() or 1
    apart = {"intent": {"head": {"name": "intent@1", "own": True, "cpus": 0.5}}}
    specs: dict[str, dict[str, Any]] = {
        "inside": COLOCATED,
        "head": {"colocate": True, "deployments": apart},
        "encoder": own(),
        "both": {"colocate": False, "encoders": {"minilm": {"cpus": max(0.5, cores - 1)}}, "deployments": apart},
    }

    def ask(_: str, server: Server) -> dict[str, Answers]:
        requests = server.requests(texts)
        _warm(server, requests)
        return {"one": closed(server.address, requests, connections=1, seconds=seconds)}

    starts: Starts = {name: partial(raystore, kept, spec) for name, spec in specs.items()}
    answers = one_by_one(starts, ask, rounds)["one"]
    inside = [each.ms(50) for each in answers["inside"]]
    found: dict[str, Any] = {}
    for name in list(specs)[1:]:
        more = sorted(each.ms(50) - base for each, base in zip(answers[name], inside, strict=True))
        found[name] = {"ms": middle(more), "spread": [round(more[len(more) // 4], 2), round(more[-1 - len(more) // 4], 2)]}
    title = "ms at p50 above a service whose parts all stand in one process, one request at a time"
    show(
        title, [("apart", "ms", "spread"), *((n, f["ms"], f"{f['spread'][0]}..{f['spread'][1]}") for n, f in found.items())]
    )
    return {"what": title, **found, "inside_p50_ms": middle(inside), "rounds": rounds, "seconds": seconds}


def embeddings(kept: Kept, *, rounds: int = 5, seconds: float = 6.0) -> dict[str, Any]:
    """Requests a second of 1 and of 32 texts, in OpenAI's shape."""
    texts = questions()
    bodies = {
        n: [
            json.dumps({"model": "minilm", "input": texts[start : start + n]}).encode()
            for start in range(0, len(texts) - n + 1, n)
        ]
        for _, n in SHAPES
    }

    def ask(_: str, server: Server) -> dict[str, Answers]:
        requests = {n: [post(server.address, server.path, body) for body in each] for n, each in bodies.items()}
        _warm(server, requests[1])
        return {
            f"{_at_once(clients)}, {n} text{'s' if n > 1 else ''} a request": closed(
                server.address, requests[n], connections=clients, seconds=seconds
            )
            for clients, n in SHAPES
        }

    starts: Starts = {"raystore": partial(raystore, kept, COLOCATED, "/v1/embeddings"), "infinity": partial(infinity, kept)}
    found: dict[str, Any] = {}
    for what, answers in one_by_one(starts, ask, rounds).items():
        ratios = {"raystore over infinity": against(EMBEDDINGS_GOAL, faster(answers["raystore"], answers["infinity"]))}
        found[what] = _found(f"/embeddings, {what}", ratios, answers)
    return {"what": "our requests a second over infinity's", **found, "rounds": rounds, "seconds": seconds}


def _found(title: str, ratios: dict[str, Any], answers: Mapping[str, list[Answers]]) -> dict[str, Any]:
    """The record of it, which is shown too."""
    ways = {name: figures(each) for name, each in answers.items()}
    show(title, [("", "requests/s", "p50 ms", "p99 ms"), *((name, *each.values()) for name, each in ways.items())])
    rows = [
        (name, r["ratio"], f"{r['spread'][0]:.3f}..{r['spread'][1]:.3f}", r["goal"], "" if r["reached"] else "not reached")
        for name, r in ratios.items()
    ]
    show(f"{title}: ratios", [("", "ratio", "spread", "goal", ""), *rows])
    return {"ratios": ratios, "ways": ways}
