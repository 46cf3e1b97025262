"""Another precision of an encoder: an encoder of its own, or refused because it is the same one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from raystore.encoders.derive import Derived, calibration_inputs, derive, derived_passport
from raystore.encoders.load import load_model
from raystore.encoders.model import Options
from raystore.encoders.registry import Encoders
from raystore.encoders.sample import sample_texts
from raystore.encoders.source import find_source
from raystore.errors import GoldenMoved, InvalidArguments, InvalidName, ModelUnusable, PassportMismatch
from raystore.vectors import check_fingerprint
from tests.pictures import PICTURES

TEXTS = [f"{word} {text}" for word in ("card", "money") for text in sample_texts(40)]
LABELS = ["card"] * 40 + ["money"] * 40


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Encoders:
    """A store with `tiny` and its int8; tests add names of their own."""
    from raystore.catalog import Catalog, open_root

    layout, _ = open_root(tmp_path_factory.mktemp("store"), create=True)
    found = Encoders(Catalog(layout))
    found.register("tiny", tiny_model)
    return found


@pytest.fixture(scope="module")
def made(encoders: Encoders) -> Derived:
    return encoders.derive("tiny-int8", base="tiny", precision="int8", sample=TEXTS, labels=LABELS)


def test_int8_is_an_encoder_of_its_own_with_a_report(encoders: Encoders, made: Derived) -> None:
    base, int8, report = encoders["tiny"], made.encoder, made.report
    assert int8.fingerprint != base.fingerprint
    assert encoders["tiny-int8"] == int8
    passport = int8.passport
    assert (passport.equivalence, passport.tolerance, passport.dim) == ("openvino-int8", 0.99, 32)
    assert base.passport.differences(passport) == ["weights", "equivalence", "tolerance"]
    assert (int8.card.derived_from, base.card.derived_from) == (base.fingerprint, None)
    assert (report.encoder, report.base, report.rows) == (int8.label, base.label, 80)
    assert 0.9 < report.worst_cosine <= report.mean_cosine < 1.0
    assert 0.5 < report.overlap_at_10 <= 1.0
    assert report.accuracy is not None
    assert report.base_accuracy is not None
    assert report.accuracy_change == report.accuracy - report.base_accuracy
    assert report.ratio == report.rows_per_s / report.base_rows_per_s > 0
    assert f"int8 of {base.label}, on 80 items" in report._repr_html_()
    said = str(report).splitlines()
    assert said[0] == f"{int8.label} is int8 of {base.label}, measured on 80 items"
    assert [line.split()[0] for line in said[1:]] == ["speed", "vectors", "neighbours", "head"]
    assert json.loads(json.dumps(report.facts))["precision"] == "int8"


def test_its_vectors_are_refused_where_the_bases_are_expected(encoders: Encoders, made: Derived) -> None:
    vectors = made.encoder.encode(["hello card"])
    with pytest.raises(PassportMismatch):
        check_fingerprint(vectors, encoders["tiny"].fingerprint, "a head", "Train another.")
    assert made.encoder.verify() >= 0.99


def test_it_loads_from_the_store_alone(made: Derived) -> None:
    loaded = made.encoder.load()
    assert (loaded.backend, loaded.device) == ("openvino", "cpu")
    np.testing.assert_allclose(np.linalg.norm(loaded.encode(TEXTS), axis=1), 1, atol=1e-5)


def test_deriving_the_same_again_changes_nothing(encoders: Encoders, made: Derived) -> None:
    layout = encoders._catalog.layout
    before = {p: p.stat().st_mtime_ns for p in layout.encoder(made.encoder.fingerprint).rglob("*")}
    again = encoders.derive("tiny-int8", base="tiny", precision="int8", sample=TEXTS)
    assert again.encoder == made.encoder
    assert again.report.accuracy is None
    assert str(again.report).endswith("head        not measured (no labels were given)")
    assert {p: p.stat().st_mtime_ns for p in layout.encoder(made.encoder.fingerprint).rglob("*")} == before
    assert len(list(layout.aliases("encoder", "tiny-int8").iterdir())) == 1
    assert not any(layout.tmp.iterdir())


def test_a_damaged_graph_is_refused(encoders: Encoders, made: Derived) -> None:
    folder = encoders._catalog.layout.encoder(made.encoder.fingerprint) / "graph"
    path = folder / "text.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + b"\0" * 8 + b"?")
    try:
        with pytest.raises(ModelUnusable, match="is not the one that was registered"):
            made.encoder.load()
    finally:
        path.write_bytes(whole)


def test_what_comes_out_the_same_is_refused_with_the_measurement(encoders: Encoders) -> None:
    """Half precision moves this small model's vectors by less than another backend may."""
    before = encoders.names()
    base = encoders["tiny"]
    with pytest.raises(InvalidArguments) as caught:
        encoders.derive("tiny-half", base="tiny", precision="fp16", sample=TEXTS)
    said = str(caught.value)
    assert said.startswith(
        f"derive 'tiny-half': tiny-half would be the same encoder as {base.label}: over 80 rows the worst "
    )
    assert said.endswith(f". Use {base.label}, its vectors may be compared with these.")
    assert encoders.names() == before


def test_what_cannot_be_derived_is_said_at_once(encoders: Encoders, made: Derived) -> None:
    catalog, base = encoders._catalog, encoders["tiny"]
    with pytest.raises(InvalidArguments) as caught:
        derive(catalog, "tiny", base, "int4")  # type: ignore[arg-type]
    assert str(caught.value) == (
        "derive 'tiny': precision is 'int4', expected int8, bf16, fp16; that is the base's own name; another precision is "
        "another encoder and needs another name."
    )
    with pytest.raises(InvalidArguments) as caught:
        derive(catalog, "again", made.encoder, "int8")
    assert str(caught.value) == (
        f"derive 'again': {made.encoder.label} is itself of the class openvino-int8; derive from its base."
    )
    with pytest.raises(InvalidName):
        derive(catalog, "No Name", base, "int8")
    with pytest.raises(InvalidArguments, match="labels= has 1 labels for 2 items"):
        derive(catalog, "again", base, "int8", sample=["a", "b"], labels=["x"])
    assert "again" not in encoders


def test_a_derived_passport_has_a_fingerprint_of_its_own(encoders: Encoders) -> None:
    base = encoders["tiny"].passport
    kinds = {p: derived_passport(base, p, None).fingerprint for p in ("int8", "bf16", "fp16")}
    assert len({base.fingerprint, *kinds.values()}) == 4
    assert derived_passport(base, "bf16", None).tolerance == 0.999
    assert derived_passport(base, "int8", "1" * 64).weights == "1" * 64


def test_calibration_is_one_text_a_batch_without_padding(tiny_model: Path) -> None:
    model = load_model(find_source(tiny_model), Options())
    found = calibration_inputs(model, "text", ["hello", "hello world the card never arrived"])
    assert len(found) == 2
    assert all(inputs["attention_mask"].all() and len(inputs["attention_mask"]) == 1 for inputs in found)


def test_bf16_is_opened_with_the_bases_weights(encoders: Encoders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the result is another encoder; here the tolerance is put so high that it is."""
    monkeypatch.setattr("raystore.encoders.derive.TOLERANCE", 1.0)
    made = encoders.derive("tiny-bf16", base="tiny", precision="bf16", sample=TEXTS)
    base = encoders["tiny"]
    assert made.encoder.passport.weights == base.passport.weights
    assert base.passport.differences(made.encoder.passport) == ["equivalence", "tolerance"]
    loaded = made.encoder.load()
    assert (loaded.backend, loaded.fingerprint) == ("torch", made.encoder.fingerprint)
    with pytest.raises(InvalidArguments, match="runs on torch, not on 'openvino'"):
        made.encoder.load(backend="openvino")
    assert not isinstance(made.encoder.verify(), GoldenMoved)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> Encoders:
    from raystore.catalog import Catalog, open_root

    layout, _ = open_root(tmp_path_factory.mktemp("store"), create=True)
    found = Encoders(Catalog(layout))
    found.register("clip", tiny_clip)
    return found


def test_texts_and_images_both_decide_whether_it_is_the_same_encoder(
    clip: Encoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever kind the sample is of: of the other kind there are generated items."""
    monkeypatch.setattr("raystore.encoders.derive.TOLERANCE", 0.5)
    monkeypatch.setattr("raystore.encoders.exports.OVERLAP", 0.5)
    with pytest.raises(InvalidArguments) as caught:
        clip.derive("clip-half", base="clip", precision="fp16", sample=TEXTS)
    said = str(caught.value)
    assert f"would be the same encoder as {clip['clip'].label}: over 80 rows the worst " in said
    assert "; over 64 rows the worst " in said
    monkeypatch.setattr("raystore.encoders.derive.TOLERANCE", 1.0)
    report = clip.derive("clip-bf16", base="clip", precision="bf16", sample=TEXTS).report
    assert (report.rows, report.generated) == (144, 64)
    assert str(report).splitlines()[0].endswith(", measured on 144 items, 64 of them generated")


def test_images_that_cannot_be_encoded_are_left_out_of_the_sample(clip: Encoders) -> None:
    sample = [*PICTURES[:3], b"no image", *PICTURES[3:], b""]
    report = clip.derive("clip-int8", base="clip", precision="int8", sample=sample, labels=["a"] * 4 + ["b"] * 4).report
    assert (report.rows, report.generated, report.left_out) == (1_006, 1_000, 2)
    assert report.accuracy is not None
    assert (
        str(report)
        .splitlines()[0]
        .endswith(", measured on 1,006 items, 1,000 of them generated; 2 of the sample cannot be encoded and were left out")
    )
