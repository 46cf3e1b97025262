"""What a request costs above its encoding, and what shadows cost those who are answered."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Set
from typing import Any

import psutil
from serving.load import Answers, arrivals, closed, poisson
from serving.servers import Raystore, raystore
from serving.store import Kept, questions
from serving.turns import answered, middle, show, side_by_side

import raystore as library

GOAL_MS = 5.0
SLACK = 0.05  # of p50 and p99 under shadows, on top of what off-against-off shows
PEAK_CLIENTS = 32
COLUMNS = {"product": "card", "country": "de", "amount": 12}

# Ten before and ten after, none of which ends a request: all of them are looked at.
RULES: dict[str, Any] = {
    "before": [
        *(
            {"name": f"blocked-{i}", "when": f"country IN ('x{i}', 'y{i}') AND amount > {i}", "refuse": "Not answered"}
            for i in range(4)
        ),
        *({"name": f"spam-{i}", "when": f"text LIKE '%free crypto {i}%' OR chars > 20000", "refuse": "Spam"} for i in range(4)),
        {"name": "whole", "require": ["product"]},
        {"name": "calm", "quota": {"requests": 1_000_000, "window_s": 60, "per": "product"}},
    ],
    "after": [
        {"name": "sure-enough", "least": {"card_arrival": 0.01, "*": 0.005}},
        {"name": "actions", "allow": {"card_arrival": ["reply"], "lost_or_stolen_card": ["call", "block"]}},
        *(
            {"name": f"close-{i}", "when": f"margin < 0.0000{i} AND second = 'card_arrival'", "abstain": True}
            for i in range(1, 5)
        ),
        *(
            {"name": f"gold-{i}", "when": f"product = 'gold-{i}' AND NOT abstained", "label": "card_arrival"}
            for i in range(4)
        ),
    ],
}  # fmt: skip

OVERHEAD: dict[str, dict[str, Any]] = {
    "plain": {"head": "intent@1"},
    "rules": {"head": "intent@1", "rules": RULES},
    "rules-log": {"head": "intent@1", "rules": RULES, "log": {"collection": "asked", "required": False}},
    "rules-required-log": {"head": "intent@1", "rules": RULES, "log": {"collection": "asked", "required": True}},
}

SHADOW: dict[str, dict[str, Any]] = {
    "off": {"head": "intent@1"},
    "on": {"head": "intent@1", "shadow": ["intent@2", "intent@3"]},
    "candidate": {"head": "intent@1", "shadow": ["candidate@1"]},
}


def overhead(kept: Kept, *, rounds: int = 7, seconds: float = 4.0) -> dict[str, Any]:
    """p50 of one request at a time, less p50 of the bare encoder's call in this process on the same texts."""
    texts = questions()
    store = library.open(kept.root, create=False)
    store.create_collection(
        "asked", encoder="minilm", columns={"product": "string", "country": "string", "amount": "int64"}
    )
    encoder = store.encoders["minilm"].load()
    with raystore(kept, {"colocate": True, "deployments": OVERHEAD}) as server:
        ways = {name: server.requests(texts, f"/v1/predict/{name}", columns=COLUMNS) for name in OVERHEAD}

        def bare(start: int) -> Answers:
            found = Answers()
            begun = time.perf_counter()
            while time.perf_counter() - begun < seconds:
                start += 1
                before = time.perf_counter()
                encoder.encode([texts[start % len(texts)]])
                found.seconds.append(time.perf_counter() - before)
                found.statuses[200] += 1
            found.wall_s = time.perf_counter() - begun
            return found

        def ask(name: str, turn: int) -> Answers:
            if name == "encoder":
                return bare(turn * 997)
            return answered(name, closed(server.address, ways[name], connections=1, seconds=seconds, start=turn * 997))

        for name in ("encoder", *ways):
            ask(name, 0)  # rules compiled, log opened, code warm
        found = side_by_side(["encoder", *ways], ask, rounds)
    encoded = [each.ms(50) for each in found["encoder"]]
    over = {name: sorted(each.ms(50) - e for each, e in zip(found[name], encoded, strict=True)) for name in ways}
    kinds: dict[str, dict[str, Any]] = {
        name: {
            "ms": middle(each, 3),
            "spread": [round(each[len(each) // 4], 3), round(each[-1 - len(each) // 4], 3)],
            "goal": GOAL_MS,
            "reached": middle(each) <= GOAL_MS,
        }
        for name, each in over.items()
    }
    title = "ms at p50 above the bare encoder's call, one request at a time"
    show(
        title,
        [("", "ms", "spread"), *((name, k["ms"], f"{k['spread'][0]}..{k['spread'][1]}") for name, k in kinds.items())],
    )
    return {"what": title, **kinds, "encoder_p50_ms": middle(encoded, 3), "rounds": rounds, "seconds": seconds}


BAD = {"sleeps": "sleep", "raises": "fail", "fills memory": "fill_memory"}


def _misbehaving(hook: str) -> dict[str, Any]:
    rule = {"name": "bad", "shadow": True, "call": f"tests.serve.bad_hooks:{hook}"}
    return {"head": "intent@1", "shadow": ["intent@2"], "rules": {"after": [rule]}}


def shadow(kept: Kept, *, rounds: int = 6, seconds: float = 20.0) -> dict[str, Any]:
    """p50 and p99 with shadows over those without, at half the peak load, requests coming independently of each other."""
    found = _beside(kept, SHADOW, rounds, seconds, encode={"candidate"}, lag={"candidate"})
    for q in ("p50", "p99"):
        _judge(found["over"], "on", q)
    return found


def misbehave(kept: Kept, *, rounds: int = 4, seconds: float = 10.0) -> dict[str, Any]:
    """The same with shadows that sleep, raise and fill memory."""
    deployments = {
        "off": {"head": "intent@1"},
        **{name.replace(" ", "-"): _misbehaving(hook) for name, hook in BAD.items()},
    }
    bad = set(deployments) - {"off"}
    found = _beside(kept, deployments, rounds, seconds, lag=bad, recording={"memory_mb": 1_024})
    for name in bad:
        for q in ("p50", "p99"):
            _judge(found["over"], name, q)
    return found


def _beside(
    kept: Kept,
    deployments: dict[str, dict[str, Any]],
    rounds: int,
    seconds: float,
    encode: Set[str] = frozenset(),
    lag: Set[str] = frozenset(),
    **more: Any,
) -> dict[str, Any]:
    """Each deployment's latency over that of `off`, and `off` over itself.

    All in one service, so the recording process is there in each case; it works where a shadow is on. After those of `lag`, which are
    behind for long, it is made anew, or it would work on in the turns of others. Those of `encode` load an encoder first, and may fail.
    """
    texts = questions()
    with raystore(kept, {"colocate": True, "deployments": deployments, **more}) as server:
        ways = {name: server.requests(texts, f"/v1/predict/{name}") for name in deployments}
        for requests in ways.values():
            closed(server.address, requests, connections=8, seconds=2.0)
        _settle(server)
        peak = closed(server.address, ways["off"], connections=PEAK_CLIENTS, seconds=max(4.0, seconds / 2)).rate

        on = [name for name in deployments if name != "off"]
        seen, lost = Counter[str](), Counter[str]()

        def count() -> None:
            for name in on:
                seen[name] += _metric(server, "raystore_shadow_predictions_total", name)
                lost[name] += _metric(server, "raystore_shadow_dropped_total", name)

        def ask(name: str, turn: int) -> Answers:
            requests = ways["off" if name == "off again" else name]
            if name in encode:
                closed(server.address, requests, connections=1, seconds=0.5)
                _settle(server)
            due = poisson(peak / 2, seconds, seed=turn)
            found = arrivals(server.address, requests, due, start=turn * 997)
            if name in lag:
                count()  # what the next one counts begins at nothing
                _anew(server)
            _settle(server)
            return found if name in encode else answered(name, found)

        found = side_by_side(["off", "off again", *on], ask, rounds)
        count()
        for name in on:
            lost[name] += _metric(server, "raystore_recording_dropped_total", name)
    over: dict[str, dict[str, Any]] = {
        name: {f"p{q}": _over(found[name], found["off"], q) for q in (50, 99)} for name in ("off again", *on)
    }
    rows = [
        (name, q, r["ratio"], f"{r['spread'][0]}..{r['spread'][1]}") for name, each in over.items() for q, r in each.items()
    ]
    show("latency at half the peak, over that without shadows", [("", "", "ratio", "spread"), *rows])
    return {
        "what": "latency with shadows over latency without, at half the peak load",
        "over": over,
        "ms": {name: {f"p{q}": middle([a.ms(q) for a in each]) for q in (50, 99)} for name, each in found.items()},
        "peak_per_s": round(peak, 1),
        "failed": {name: sum(each.failed for each in found[name]) for name in on},
        "shadow_predictions": seen,
        "dropped": lost,
        "rounds": rounds,
        "seconds": seconds,
    }


def _judge(over: dict[str, dict[str, Any]], name: str, q: str) -> None:
    still, on = over["off again"][q], over[name][q]
    on["allowed"] = round(1 + SLACK + max(abs(still["ratio"] - 1), still["spread"][1] - still["spread"][0]), 3)
    on["reached"] = on["ratio"] <= on["allowed"]


def _over(these: list[Answers], those: list[Answers], percent: float) -> dict[str, Any]:
    ratios = sorted(a.ms(percent) / b.ms(percent) for a, b in zip(these, those, strict=True))
    n = len(ratios)
    return {"ratio": middle(ratios, 3), "spread": [round(ratios[n // 4], 3), round(ratios[-1 - n // 4], 3)]}


def _settle(server: Raystore, most_s: float = 60.0) -> None:
    """Wait until what a shadow was behind is done: the next in turn must not pay for it."""
    recording = server.replicas("recording")
    end = time.monotonic() + most_s
    while time.monotonic() < end:
        before = _seconds(recording)
        time.sleep(1.0)
        if _seconds(recording) - before < 0.1:
            return


def _anew(server: Raystore) -> None:
    """Another recording process: Serve starts it where one was killed."""
    before = server.replicas("recording")
    for each in before:
        each.kill()
    end = time.monotonic() + 120
    while not (now := set(server.replicas("recording", ready=True)) - set(before)) and time.monotonic() < end:
        time.sleep(0.2)
    if not now:
        raise RuntimeError("no recording process came after the one that was killed")


def _seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(each.cpu_times()[:2]) for each in processes)


def _metric(server: Raystore, name: str, deployment: str) -> int:
    lines = server.get("/metrics").splitlines()
    mine = [line for line in lines if line.startswith(f"{name}{{") and f'deployment="{deployment}"' in line]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in mine))
