"""Every way to run an encoder beside each other: what is measured, and what the last line recommends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raystore.encoders.bench import BenchReport, bench
from raystore.encoders.choice import NO_CHOICE, Choice, Chooser
from raystore.encoders.exports import export_precisions
from raystore.encoders.openvino_backend import OpenVinoBackend
from raystore.encoders.recommendation import BenchRow, recommend
from raystore.encoders.registry import Encoders
from raystore.encoders.sample import sample_texts
from raystore.errors import InvalidArguments
from tests.pictures import PICTURES

TEXTS = [f"{word} {text}" for word in ("card", "money") for text in sample_texts(30)]
LABELS = ["card"] * 30 + ["money"] * 30


SAME = {"torch": "RAYSTORE_BACKEND=torch", "openvino": "by default", "onnx": "RAYSTORE_BACKEND=onnx"}


def row(name: str, pace: float | None, **facts: object) -> BenchRow:
    """A way as it was measured on a machine where OpenVINO is the default."""
    same = bool(facts.get("same"))
    choice = Choice(SAME[name.split()[0]]) if same else NO_CHOICE
    given = {"device": "cpu", "encoder": None, "rows_per_s": pace, "worst_cosine": 0.98, "choice": choice, **facts}
    return BenchRow(name=name, **given)


REFERENCE = row("torch fp32", 100.0, same=True)
FAST = row("openvino auto", 300.0, same=True)


def test_the_fastest_way_that_is_the_same_encoder_is_recommended_with_how_to_have_it() -> None:
    slightly = row("openvino int8", 310.0, encoder="m-int8@2", choice=Choice("encoder m-int8"))
    assert recommend("m@1", [REFERENCE, FAST]) == recommend("m@1", [REFERENCE, FAST, slightly])
    assert recommend("m@1", [REFERENCE, FAST]) == (
        "Run m@1 with openvino auto (cpu), which is the default here: 300 rows/s, 3.0 times torch fp32; "
        "nothing here is clearly faster."
    )
    assert recommend("m@1", [REFERENCE, FAST, row("onnx auto", 400.0, same=True)]) == (
        "Run m@1 with onnx auto (cpu), by RAYSTORE_BACKEND=onnx: 400 rows/s, 4.0 times torch fp32; "
        "nothing here is clearly faster."
    )


def test_what_nobody_can_choose_stays_in_the_table_and_out_of_the_recommendation() -> None:
    strict = row("openvino fp32", 900.0, same=True, choice=NO_CHOICE)
    report = BenchReport("m@1", {"text": 10}, (REFERENCE, FAST, strict))
    assert report.recommendation == recommend("m@1", [REFERENCE, FAST])
    table = str(report).splitlines()[2:6]
    assert table[0].endswith("how to have it")
    assert [line.rsplit("  ", 1)[-1] for line in table[1:]] == ["RAYSTORE_BACKEND=torch", "by default", "cannot be chosen"]


def test_a_faster_other_encoder_is_named_with_what_it_loses_and_what_makes_it() -> None:
    int8 = row(
        "openvino int8", 450.0, encoder="m-int8@2", accuracy=0.92, accuracy_change=-0.004, choice=Choice("encoder m-int8")
    )
    assert recommend("m@1", [REFERENCE, FAST, int8]) == (
        "Run m@1 with openvino auto (cpu), which is the default here: 300 rows/s, 3.0 times torch fp32; "
        "m-int8@2 is another encoder, 1.5 times as fast (-0.4 points of head accuracy)."
    )
    command = "raystore encoder derive m-bf16 --base m --precision bf16"
    unknown = row("torch bf16", 450.0, choice=Choice("encoder derive --precision bf16", command))
    assert recommend("m@1", [REFERENCE, FAST, unknown]).endswith(
        "; torch bf16 is another encoder, 1.5 times as fast (worst cosine 0.9800, head not measured); "
        "'raystore encoder derive m-bf16 --base m --precision bf16' makes it."
    )


def test_where_no_int8_encoder_is_derived_it_is_said_what_would_tell() -> None:
    assert recommend("m@1", [REFERENCE], lacks_int8=True) == (
        "Run m@1 with torch fp32 (cpu), by RAYSTORE_BACKEND=torch: 100 rows/s, 1.0 times torch fp32; nothing here is "
        "clearly faster. No int8 encoder is derived from it yet; "
        "'raystore encoder derive m-int8 --base m --precision int8' would tell what that gains and costs."
    )


def test_the_cheapest_is_said_where_it_is_not_the_fastest() -> None:
    gpu = row("torch fp32", 1_000.0, same=True, device="gpu", cost_per_million=0.83, choice=Choice("by default"))
    cpu = row("openvino auto", 300.0, same=True, cost_per_million=0.19, choice=Choice("RAYSTORE_BACKEND=openvino"))
    assert recommend("m@1", [REFERENCE, cpu, gpu]) == (
        "Run m@1 with torch fp32 (gpu), which is the default here: 1,000 rows/s, 10.0 times torch fp32, 0.83 a million "
        "(cheapest: openvino auto on cpu, by RAYSTORE_BACKEND=openvino, 0.19 a million); nothing here is clearly faster."
    )


def test_each_kind_of_item_has_a_line_of_its_own() -> None:
    pictures = [row("torch fp32", 10.0, same=True, kind="image"), row("openvino auto", 5.0, same=True, kind="image")]
    assert recommend("m@1", [REFERENCE, FAST, *pictures]).splitlines() == [
        "Texts: Run m@1 with openvino auto (cpu), which is the default here: 300 rows/s, 3.0 times torch fp32; "
        "nothing here is clearly faster.",
        "Images: Run m@1 with torch fp32 (cpu), by RAYSTORE_BACKEND=torch: 10 rows/s, 1.0 times torch fp32; "
        "nothing here is clearly faster.",
    ]


def test_a_way_that_cannot_run_is_a_row_and_never_recommended() -> None:
    broken = row("onnx auto", None, problem="cannot run here (ExportFailed)", worst_cosine=None)
    assert "onnx" not in recommend("m@1", [REFERENCE, broken])
    said = str(BenchReport("m@1", {"text": 10}, (REFERENCE, broken), left_out=2)).splitlines()
    assert said[0] == "m@1, 10 texts; 2 of the sample cannot be encoded and were left out"
    assert said[2].split("  ")[0] == "run on"
    assert said[4].endswith("cannot run here (ExportFailed)")
    assert "a million" not in said[2]  # no price, no column


def test_nothing_to_recommend_is_said() -> None:
    assert recommend("m@1", []) == "No way to run m@1 here was measured."
    assert recommend("m@1", [row("openvino fp32", 9.0, same=True, choice=NO_CHOICE)]) == (
        "No way to run m@1 here was measured."
    )


ON_CPU = Chooser("m", {"openvino": "auto", "onnx": "auto"}, "openvino")
ON_GPU = Chooser("m", {"openvino": "fp32"}, "torch", has_gpu=True)
WAYS = [
    (ON_CPU, "torch fp32 cpu", "RAYSTORE_BACKEND=torch"),
    (ON_CPU, "openvino auto cpu", "by default"),
    (ON_CPU, "openvino fp32 cpu", "cannot be chosen"),
    (ON_CPU, "onnx auto cpu", "RAYSTORE_BACKEND=onnx"),
    (ON_CPU, "torch bf16 cpu", "cannot be chosen"),
    (ON_GPU, "torch fp32 cpu", "CUDA_VISIBLE_DEVICES= RAYSTORE_BACKEND=torch"),
    (ON_GPU, "torch fp32 gpu", "by default"),
    (ON_GPU, "torch bf16 gpu", "cannot be chosen"),
    (ON_GPU, "openvino auto cpu", "cannot be chosen"),
    (ON_GPU, "openvino fp32 cpu", "RAYSTORE_BACKEND=openvino"),
    (ON_GPU, "onnx auto cpu", "cannot be chosen"),
]


@pytest.mark.parametrize("chooser, way, said", WAYS, ids=[f"{c.default} {way}" for c, way, _ in WAYS])
def test_how_the_same_encoder_is_had_another_way(chooser: Chooser, way: str, said: str) -> None:
    assert chooser.choice(*way.split(), registered=None, same=True).said == said


def test_what_is_another_encoder_is_had_by_its_name_or_derived() -> None:
    assert ON_CPU.choice("openvino", "int8", "cpu", registered="m-int8@2", same=False) == Choice("encoder m-int8")
    assert (
        ON_GPU.choice("torch", "bf16", "cpu", registered="m-b@2", same=False).said
        == "CUDA_VISIBLE_DEVICES= and encoder m-b"
    )
    assert ON_GPU.choice("torch", "fp16", "gpu", registered=None, same=False) == Choice(
        "encoder derive --precision fp16", "raystore encoder derive m-fp16 --base m --precision fp16"
    )
    assert ON_GPU.choice("torch", "bf16", "cpu", registered=None, same=False) == NO_CHOICE


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
    assert (facts["encoder"], facts["items"], facts["lacks_int8"]) == (tiny["tiny"].label, {"text": 60}, False)
    how = {name: each.choice.said for name, each in by_name.items()}
    runs = export_precisions(layout, tiny["tiny"].passport, OpenVinoBackend)[0]
    assert how[f"openvino {runs}"] in ("by default", "RAYSTORE_BACKEND=openvino")
    assert {how[f"openvino {other}"] for other in {"auto", "fp32"} - {runs}} == {"cannot be chosen"}
    assert (how["onnx auto"], how["openvino int8"]) == ("RAYSTORE_BACKEND=onnx", "encoder tiny-int8")
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


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> Encoders:
    from raystore.catalog import Catalog, open_root

    layout, _ = open_root(tmp_path_factory.mktemp("store"), create=True)
    found = Encoders(Catalog(layout))
    found.register("clip", tiny_clip)
    return found


def test_texts_and_images_are_both_measured_where_there_is_no_sample(clip: Encoders) -> None:
    report = bench(clip._catalog, clip["clip"], seconds=0.01)
    assert report.items == {"text": 1_000, "image": 64}
    assert [r.kind for r in report.rows[:4]] == ["text", "image", "text", "image"]
    assert {r.kind for r in report.rows if r.rows_per_s} == {"text", "image"}
    assert [line.partition(":")[0] for line in report.recommendation.splitlines()] == ["Texts", "Images"]
    assert report.recommendation.endswith(
        "No int8 encoder is derived from it yet; 'raystore encoder derive clip-int8 --base clip --precision int8' would "
        "tell what that gains and costs."
    )
    assert str(report).splitlines()[0] == f"{clip['clip'].label}, 1,000 texts and 64 images"


def test_images_that_cannot_be_encoded_are_left_out_and_counted(clip: Encoders) -> None:
    sample = [PICTURES[0], b"no image", *PICTURES[1:], PICTURES[0][:60]]
    report = bench(clip._catalog, clip["clip"], sample=sample, labels=["a", "a", *"aabbb", "b"], seconds=0.01)
    assert (report.items, report.left_out) == ({"image": 6}, 2)
    assert all(r.accuracy is not None for r in report.rows if r.problem is None)


def test_a_sample_of_which_nothing_can_be_encoded_is_refused_with_the_reasons(tiny: Encoders) -> None:
    with pytest.raises(InvalidArguments) as caught:
        bench(tiny._catalog, tiny["tiny"], sample=PICTURES)
    assert str(caught.value) == (
        "bench: 0 of the sample's 6 items can be used (6 times: is an image, and this encoder takes texts), "
        "expected at least 2."
    )
