from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from raystore.catalog import Catalog, open_root
from raystore.errors import (
    DimensionMismatch,
    HeadCorrupt,
    HeadNotFound,
    InvalidName,
    InvalidVectors,
    PassportMismatch,
)
from raystore.train.fit import train_head
from raystore.train.heads import Head
from raystore.train.registry import Heads
from raystore.vectors import mark

from .examples import CLASSES, clusters, source

FINGERPRINT = "5f3c1a2b9d0e" + "0" * 52
STRANGER = "a81e00000000" + "0" * 52
ENCODER = "minilm@5f3c1a2b9d0e"
SNAPSHOT = {"name": "monday", "number": 3, "hash": "ab" * 32}


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    layout, _ = open_root(tmp_path / "a store's 'folder' ü", create=True)
    return Catalog(layout)


def trained(catalog: Catalog, name: str = "refunds", kind: str = "linear") -> Head:
    options = {"hidden": 16, "max_epochs": 3} if kind == "mlp" else {}
    return train_head(
        catalog.layout,
        name=name,
        kind=kind,  # type: ignore[arg-type]
        classes=CLASSES,
        source=source(200),
        fingerprint=FINGERPRINT,
        encoder_label=ENCODER,
        snapshot=SNAPSHOT,
        options=options,
    )


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_head_read_back_is_the_head_that_was_saved(catalog: Catalog, kind: str) -> None:
    head = trained(catalog, kind=kind)
    again = Heads(catalog).get("refunds")
    rows = clusters(50, seed=4).vectors
    for a, b in zip(head.predict(rows), again.predict(rows), strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.record == head.record
    assert again.report == head.report
    assert (again.label, again.kind, again.classes, again.dim) == ("refunds@1", kind, CLASSES, 16)
    assert (again.fingerprint, again.encoder, again.snapshot) == (FINGERPRINT, ENCODER, SNAPSHOT)
    assert repr(again) == f"Head(refunds@1, {kind}, 3 classes, on {ENCODER})"


def test_predictions_are_calibrated_rows_that_sum_to_one(catalog: Catalog) -> None:
    head = trained(catalog)
    labels, probabilities, confidence, abstained, classes = head.predict(clusters(50, seed=4).vectors)
    assert probabilities.shape == (50, 3)
    assert probabilities.dtype == confidence.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(confidence, probabilities.max(axis=1))
    assert labels == [CLASSES[i] for i in probabilities.argmax(axis=1)]
    assert abstained.dtype == np.bool_
    assert not abstained.any()
    assert list(classes) == CLASSES


def test_one_vector_is_one_row_and_its_length_does_not_matter(catalog: Catalog) -> None:
    head = trained(catalog)
    row = clusters(1).vectors[0]
    np.testing.assert_allclose(head.predict(7 * row).probabilities, head.predict([row]).probabilities, atol=1e-6)


def test_no_rows_give_no_predictions(catalog: Catalog) -> None:
    assert trained(catalog).predict(np.empty((0, 16), np.float32)).labels == []


def test_vectors_of_another_encoder_are_refused_with_both_named(catalog: Catalog) -> None:
    head = trained(catalog)
    with pytest.raises(PassportMismatch) as refused:
        head.predict(mark(clusters(2).vectors, STRANGER))
    assert str(refused.value) == (
        f"head 'refunds@1' expects {FINGERPRINT[:12]}, but was given {STRANGER[:12]}. "
        f"Encode with {ENCODER}, or train a head on the encoder that made these."
    )
    assert head.predict(mark(clusters(2).vectors, FINGERPRINT)).labels


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_no_vectors_are_refused(catalog: Catalog, value: float) -> None:
    head = trained(catalog)
    with pytest.raises(InvalidVectors, match=r"head 'refunds@1': 1 of 1 vectors are unusable"):
        head.predict([value] * 16)
    with pytest.raises(DimensionMismatch, match="expected vectors of 16 numbers, found 3"):
        head.predict([[1, 2, 3]])


def test_heads_are_numbered_and_found_by_name_and_number(catalog: Catalog) -> None:
    for name in ("refunds", "refunds", "triage-2"):
        trained(catalog, name)
    heads = Heads(catalog)
    assert heads.names() == ["refunds", "triage-2"]
    assert heads.numbers("refunds") == [1, 2]
    assert heads.get("refunds").label == heads.latest("refunds").label == "refunds@2"
    assert heads["refunds@1"].label == "refunds@1"
    assert [head.label for head in heads] == ["refunds@2", "triage-2@1"]
    assert len(heads) == 2
    assert "refunds" in heads
    assert "friday" not in heads


def test_a_head_that_is_not_there_is_answered_with_those_that_are(catalog: Catalog) -> None:
    trained(catalog)
    heads, where = Heads(catalog), f"store '{catalog.layout.root}'"
    with pytest.raises(HeadNotFound) as missing:
        heads.get("friday")
    assert str(missing.value) == f"no head 'friday' in {where}. It has: 'refunds'."
    for wrong in ("refunds@2", "refunds@0", "refunds@x", "refunds@"):
        with pytest.raises(HeadNotFound) as missing:
            heads.get(wrong)
        assert str(missing.value) == f"no head '{wrong}' in {where}. It has: 'refunds@1'."


@pytest.mark.parametrize("name", ["../../etc", "", "a/b", "Refunds"])
def test_a_name_that_is_no_name_never_becomes_a_path(catalog: Catalog, name: str) -> None:
    with pytest.raises(InvalidName):
        Heads(catalog).get(name)


def flip(folder: Path) -> None:
    data = bytearray((folder / "head.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "head.safetensors").write_bytes(data)


def cut_json(folder: Path) -> None:
    (folder / "head.json").write_text((folder / "head.json").read_text()[:40])


def garbage(folder: Path) -> None:
    import hashlib

    (folder / "head.safetensors").write_bytes(b"garbage")
    record = json.loads((folder / "head.json").read_text())
    record["sha256"] = hashlib.sha256(b"garbage").hexdigest()
    (folder / "head.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (flip, "head.safetensors has SHA-256"),
        (cut_json, "HeadRecord does not parse"),
        (garbage, "head.safetensors does not parse"),
        (lambda folder: (folder / "head.safetensors").unlink(), "head.safetensors is missing"),
        (lambda folder: (folder / "report.json").unlink(), "report.json is missing"),
    ],
)
def test_a_damaged_head_is_refused_and_says_where(catalog: Catalog, damage: Callable[[Path], None], sentence: str) -> None:
    trained(catalog)
    folder = catalog.layout.heads("refunds") / "1"
    damage(folder)
    with pytest.raises(HeadCorrupt) as refused:
        Heads(catalog).get("refunds")
    assert str(refused.value).startswith(f"head '{folder}' is unusable: {sentence}")
    assert str(refused.value).endswith("It was not loaded. Restore the folder, or train the head again.")


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_head_predicts_without_torch_ray_scipy_or_faiss(catalog: Catalog, tmp_path: Path, kind: str) -> None:
    head = trained(catalog, kind=kind)
    rows = clusters(5, seed=4).vectors
    np.save(tmp_path / "rows.npy", rows)
    program = """
import sys, json, numpy as np
from pathlib import Path
from raystore.train.heads import Head
head = Head.load(Path(sys.argv[1]))
labels = head.predict(np.load(sys.argv[2])).labels
heavy = sorted({"torch", "ray", "scipy", "faiss", "sklearn", "rich"} & set(sys.modules))
print(json.dumps([labels, heavy]))
"""
    folder = catalog.layout.heads("refunds") / "1"
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), str(tmp_path / "rows.npy")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [head.predict(rows).labels, []]


def test_nothing_a_head_writes_is_a_pickle(catalog: Catalog) -> None:
    trained(catalog)
    folder = catalog.layout.heads("refunds") / "1"
    assert sorted(p.name for p in folder.iterdir()) == ["head.json", "head.safetensors", "report.json"]
    assert not list(catalog.layout.tmp.iterdir())


def test_predictions_show_the_first_twenty_in_a_notebook(catalog: Catalog) -> None:
    made = trained(catalog).predict(clusters(23, seed=4).vectors)
    page = made._repr_html_()
    assert page.count("<tr>") == 21
    assert "23 predictions" in page
    assert "<p>3 more.</p>" in page
    assert f"{made.confidence[0]:.1%}" in page
