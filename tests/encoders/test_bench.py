"""Every way to run an encoder beside each other: what is measured, and what the last line recommends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raystore.encoders.bench import BenchReport, BenchRow, bench, recommend
from raystore.encoders.registry import Encoders
from raystore.encoders.sample import sample_texts
from raystore.errors import InvalidArguments

TEXTS = [f"{word} {text}" for word in ("card", "money") for text in sample_texts(30)]
LABELS = ["card"] * 30 + ["money"] * 30


def row(name: str, pace: float | None, **facts: object) -> BenchRow:
    return BenchRow(**{"name": name, "device": "cpu", "encoder": None, "rows_per_s": pace, "worst_cosine": 0.98, **facts})


REFERENCE = row("torch fp32", 100.0, same=True)
FAST = row("openvino auto", 300.0, same=True)


def test_the_fastest_way_that_is_the_same_encoder_is_recommended() -> None:
    slightly = row("openvino int8", 310.0)
    assert recommend("m@1", [REFERENCE, FAST]) == recommend("m@1", [REFERENCE, FAST, slightly])
    assert recommend("m@1", [REFERENCE, FAST]) == (
        "Run m@1 with openvino auto (cpu): 300 rows/s, 3.0 times torch fp32; nothing here is clearly faster."
    )


def test_a_faster_other_encoder_is_named_with_what_it_loses() -> None:
    int8 = row("openvino int8", 450.0, encoder="m-int8@2", accuracy=0.92, accuracy_change=-0.004)
    assert recommend("m@1", [REFERENCE, FAST, int8]) == (
        "Run m@1 with openvino auto (cpu): 300 rows/s, 3.0 times torch fp32; m-int8@2 is another encoder, 1.5 times as fast "
        "(-0.4 points of head accuracy)."
    )
    unknown = row("torch bf16", 450.0)
    assert recommend("m@1", [REFERENCE, FAST, unknown]).endswith(
        "; torch bf16 is another encoder, 1.5 times as fast (worst cosine 0.9800, head not measured)."
    )


def test_the_cheapest_is_said_where_it_is_not_the_fastest() -> None:
    gpu = row("torch fp32", 1_000.0, same=True, device="gpu", cost_per_million=0.83)
    cpu = row("openvino auto", 300.0, same=True, cost_per_million=0.19)
    assert recommend("m@1", [REFERENCE, cpu, gpu]) == (
        "Run m@1 with torch fp32 (gpu): 1,000 rows/s, 10.0 times torch fp32, 0.83 a million "
        "(cheapest: openvino auto on cpu, 0.19 a million); nothing here is clearly faster."
    )


def test_a_way_that_cannot_run_is_a_row_and_never_recommended() -> None:
    broken = row("onnx auto", None, problem="cannot run here (ExportFailed)", worst_cosine=None)
    assert "onnx" not in recommend("m@1", [REFERENCE, broken])
    said = str(BenchReport("m@1", 10, "text", (REFERENCE, broken))).splitlines()
    assert said[0] == "m@1, 10 texts"
    assert said[2].split("  ")[0] == "run on"
    assert said[4].endswith("cannot run here (ExportFailed)")
    assert "a million" not in said[2]  # no price, no column


def test_nothing_to_recommend_is_said() -> None:
    assert recommend("m@1", []) == "No way to run m@1 here was measured."


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Encoders:
    """A store with `tiny` and its int8."""
    from raystore.catalog import Catalog, open_root

    layout, _ = open_root(tmp_path_factory.mktemp("store"), create=True)
    found = Encoders(Catalog(layout))
    found.register("tiny", tiny_model)
    found.derive("tiny-int8", base="tiny", precision="int8", sample=TEXTS)
    return found


def test_a_tiny_model_every_way_it_can_be_run_here(tiny: Encoders) -> None:
    int8 = tiny["tiny-int8"]
    layout = tiny._catalog.layout
    before = sorted(p.relative_to(layout.root) for p in layout.root.rglob("*"))
    said: list[str] = []
    report = bench(
        tiny._catalog, tiny["tiny"], prices={"cpu": 0.2}, sample=TEXTS, labels=LABELS, seconds=0.01, said=said.append
    )
    names = [r.name for r in report.rows if r.device == "cpu"]
    assert names == ["torch fp32", "torch bf16", "openvino auto", "openvino fp32", "onnx auto", "openvino int8"]
    assert said[: len(names)] == [f"{name} on cpu" for name in names]
    by_name = {r.name: r for r in report.rows if r.device == "cpu"}
    assert all(r.problem is None for r in report.rows)
    assert all(by_name[name].same for name in ("torch fp32", "openvino fp32", "onnx auto"))
    assert (by_name["openvino int8"].same, by_name["openvino int8"].encoder) == (False, int8.label)
    reference = by_name["torch fp32"]
    assert reference.worst_cosine == pytest.approx(1.0)
    assert (reference.overlap_at_10, reference.accuracy_change) == (1.0, 0.0)
    for each in report.rows:
        assert each.rows_per_s is not None
        assert each.one_ms is not None
        assert each.cost_per_million == pytest.approx(0.2 / 3600 * 1e6 / each.rows_per_s)
        assert each.accuracy is not None
    facts = json.loads(json.dumps(report.facts))
    assert (facts["encoder"], facts["items"], facts["kind"]) == (tiny["tiny"].label, 60, "text")
    assert facts["recommendation"].startswith(f"Run {tiny['tiny'].label} with ")
    assert str(report).splitlines()[-1] == facts["recommendation"]
    assert sorted(p.relative_to(layout.root) for p in layout.root.rglob("*")) == before  # a bench writes nothing


def test_what_cannot_be_benched_is_said_together(tiny: Encoders) -> None:
    derived = tiny["tiny-int8"]
    with pytest.raises(InvalidArguments) as caught:
        bench(tiny._catalog, derived, prices={"tpu": 1.0, "cpu": -1.0})
    assert str(caught.value) == (
        f"bench: there is no price for 'tpu', expected cpu and gpu; the price of cpu is below zero; {derived.label} is derived "
        "(openvino-int8); bench its base, it is measured beside it."
    )
