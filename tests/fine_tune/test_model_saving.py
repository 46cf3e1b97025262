"""What is saved encodes what the trainable computed: every kind of base, every mode."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from raystore.encoders.residual import FILE, residual
from raystore.encoders.source import find_source
from raystore.errors import ModelUnusable
from raystore.fine_tune.model.adapter import as_dense
from raystore.fine_tune.model.student import kept_layers
from tests.fine_tune.models import disturb, opened, rows, rows_of_folder, save_mobilenet, save_resnet, worst_cosine

pytestmark = pytest.mark.model  # they load torch, also where no tiny model of everybody's is used

MODES: dict[str, dict[str, Any]] = {
    "full": {"mode": "full"},
    "last layer": {"mode": "last-n", "last_n": 1},
    "lora": {"mode": "lora", "lora_rank": 2},
    "adapter": {"mode": "adapter", "adapter_width": 8},
}
BaseOf = Callable[[str], Path]


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("nets")
    return {"mobilenet": save_mobilenet(folder / "mobilenet"), "resnet": save_resnet(folder / "resnet")}


@pytest.fixture
def base_of(tiny_model: Path, tiny_vit: Path, tiny_clip: Path, nets: dict[str, Path]) -> BaseOf:
    return {"text": tiny_model, "vit": tiny_vit, "clip": tiny_clip, **nets}.__getitem__


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["text", "vit", "clip", "mobilenet", "resnet"])
def test_a_saved_model_encodes_what_the_trainable_computed(base_of: BaseOf, kind: str, mode: str, tmp_path: Path) -> None:
    trainable = disturb(opened(base_of(kind), **MODES[mode]))
    trainable.save(tmp_path / "saved")
    for modality in trainable.passport.modalities:
        learned = rows(trainable, modality)
        assert worst_cosine(learned, rows_of_folder(tmp_path / "saved", modality)) > 0.9999
        assert worst_cosine(learned, rows_of_folder(base_of(kind), modality)) < 0.9999  # it had learned something


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["text", "clip", "mobilenet"])
def test_before_the_first_step_it_computes_what_the_base_encodes(base_of: BaseOf, kind: str, mode: str) -> None:
    trainable = opened(base_of(kind), **MODES[mode])
    for modality in trainable.passport.modalities:
        assert worst_cosine(rows(trainable, modality), rows_of_folder(base_of(kind), modality)) > 0.999999


@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("kind", ["text", "vit", "clip"])
def test_a_student_of_fewer_layers_is_saved_with_fewer_layers(
    base_of: BaseOf, kind: str, mode: str, tmp_path: Path
) -> None:
    trainable = disturb(opened(base_of(kind), layers=1, **MODES[mode]))
    trainable.save(tmp_path / "student")
    for modality in trainable.passport.modalities:
        assert worst_cosine(rows(trainable, modality), rows_of_folder(tmp_path / "student", modality)) > 0.9999
    about = json.loads((tmp_path / "student" / "config.json").read_text())
    halves = [about["text_config"], about["vision_config"]] if kind == "clip" else [about]
    assert [half["num_hidden_layers"] for half in halves] == [1] * len(halves)


@settings(deadline=None)
@given(st.integers(1, 48), st.data())
def test_a_students_layers_are_spread_from_the_first_to_the_last(n_base: int, data: st.DataObject) -> None:
    n_student = data.draw(st.integers(1, n_base))
    kept = kept_layers(n_base, n_student)
    assert len(kept) == n_student
    assert kept == sorted(set(kept))
    assert kept[0] == 0
    assert n_student == 1 or kept[-1] == n_base - 1
    assert n_student == 1 or np.ptp(np.diff(kept)) <= 1


@pytest.mark.parametrize("mode", MODES)
def test_keeping_none_of_the_base_and_nearly_all_of_it(tiny_model: Path, mode: str, tmp_path: Path) -> None:
    trainable = disturb(opened(tiny_model, **MODES[mode]))
    trainable.save(tmp_path / "learned", keep_base=0.0)
    trainable.save(tmp_path / "between", keep_base=0.5)
    trainable.save(tmp_path / "base", keep_base=0.999)
    base = rows_of_folder(tiny_model, "text")
    cosines = [worst_cosine(base, rows_of_folder(tmp_path / each, "text")) for each in ("learned", "between", "base")]
    assert cosines == sorted(cosines)
    assert cosines[-1] > 0.999 > cosines[0]


def test_weights_are_interpolated_one_by_one(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    trainable = disturb(opened(tiny_model))
    trainable.save(tmp_path / "learned")
    trainable.save(tmp_path / "quarter", keep_base=0.25)
    base, learned, quarter = (
        load_file(f / "model.safetensors") for f in (tiny_model, tmp_path / "learned", tmp_path / "quarter")
    )
    assert set(base) <= set(learned) == set(quarter)
    for name, tensor in base.items():
        torch.testing.assert_close(quarter[name], 0.25 * tensor + 0.75 * learned[name])


def test_saving_twice_writes_the_same_bytes_and_leaves_chance_alone(tiny_model: Path, tmp_path: Path) -> None:
    trainable = disturb(opened(tiny_model, mode="lora"))
    chance = torch.get_rng_state()
    trainable.save(tmp_path / "one")
    trainable.save(tmp_path / "two")
    assert torch.equal(torch.get_rng_state(), chance)
    one, two = (find_source(tmp_path / name).content_digest() for name in ("one", "two"))
    assert one == two


def test_an_interpolated_adapter_does_so_much_less(tiny_vit: Path, tmp_path: Path) -> None:
    trainable = disturb(opened(tiny_vit, mode="adapter", adapter_width=8))
    trainable.save(tmp_path / "half", keep_base=0.5)
    net: Any = trainable.module.get_submodule("image.residual")
    with torch.no_grad():
        net.up.weight *= 0.5
        net.up.bias *= 0.5
    assert worst_cosine(rows(trainable, "image"), rows_of_folder(tmp_path / "half", "image")) > 0.9999


@pytest.mark.parametrize("mode", ["full", "adapter"])
def test_the_first_dimensions_of_a_saved_model_are_those_of_the_trainable(
    tiny_model: Path, mode: str, tmp_path: Path
) -> None:
    trainable = disturb(opened(tiny_model, **MODES[mode]))
    trainable.save(tmp_path / "saved")
    first = rows(trainable, "text")[:, :8]
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    assert worst_cosine(first, rows_of_folder(tmp_path / "saved", "text", dimensions=8)) > 0.9999


def test_a_base_that_was_cut_to_its_first_dimensions_learns_in_them(tiny_model: Path, tmp_path: Path) -> None:
    trainable = disturb(opened(tiny_model, {"dimensions": 8, "pooling": "cls"}, mode="adapter"))
    assert rows(trainable, "text").shape == (2, 8)
    trainable.save(tmp_path / "saved")
    assert worst_cosine(rows(trainable, "text"), rows_of_folder(tmp_path / "saved", "text", dimensions=8)) > 0.9999


@pytest.mark.parametrize("kind", ["text", "clip"])
def test_saving_changes_nothing_about_how_texts_are_read(base_of: BaseOf, kind: str, tmp_path: Path) -> None:
    from raystore.encoders.load import load_model
    from raystore.encoders.model import Options

    trainable = opened(base_of(kind))
    trainable.save(tmp_path / "saved")
    assert load_model(find_source(tmp_path / "saved"), Options()).passport == trainable.passport


def test_a_saved_folder_names_no_place_on_this_machine(base_of: BaseOf, tmp_path: Path) -> None:
    for kind in ("text", "clip"):
        opened(base_of(kind), mode="adapter").save(tmp_path / kind)
        for path in (tmp_path / kind).rglob("*"):
            if path.is_file() and path.suffix in (".json", ".md", ".txt"):
                content = path.read_text()
                assert str(base_of(kind).parent) not in content
                assert str(tmp_path) not in content


def test_sentence_transformers_itself_computes_the_same_for_an_adapter(tiny_model: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    trainable = disturb(opened(tiny_model, mode="adapter", adapter_width=8))
    trainable.save(tmp_path / "saved")
    model = SentenceTransformer(str(tmp_path / "saved"), device="cpu", local_files_only=True)
    theirs = model.encode(["hello world", "my card never arrived"], normalize_embeddings=True)
    batch = dict(model.tokenize(["hello world", "my card never arrived"]))
    arrays = {name: batch[name].numpy() for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        assert worst_cosine(trainable.embed("text", arrays).numpy(), np.asarray(theirs)) > 0.9999


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
def test_two_dense_modules_are_the_residual_net(dim: int, width: int, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = residual(dim, width)
        for parameter in net.parameters():
            nn.init.normal_(parameter)
        x = torch.randn(5, dim)
    first, second = as_dense(net.state_dict())
    with torch.no_grad():
        found = second(first({"sentence_embedding": x}))["sentence_embedding"]
        torch.testing.assert_close(found, net(x), atol=1e-4, rtol=1e-4)


def test_a_base_whose_files_changed_meanwhile_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "base"
    shutil.copytree(tiny_model, folder)
    trainable = opened(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {n: t + 1 if "LayerNorm" in n else t for n, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ModelUnusable) as caught:
        trainable.save(tmp_path / "saved")
    assert str(caught.value) == (
        f"model '{folder}' cannot be used: its files are not those that the fine-tuning began with. "
        "Put the old files back, and run it again: it goes on where it was."
    )
    assert not (tmp_path / "saved").exists()


def test_a_damaged_residual_file_is_named(tiny_vit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    opened(tiny_vit, mode="adapter").save(folder)
    (folder / FILE).write_bytes(b"not tensors")
    with pytest.raises(ModelUnusable) as caught:
        opened(folder)
    assert str(caught.value) == (
        f"model '{folder}' cannot be used: its residual.safetensors cannot be read (SafetensorError). Save the model again."
    )


@pytest.mark.parametrize("mode", ["full", "adapter"])
@pytest.mark.parametrize("kind", ["text", "vit"])
def test_a_tuned_model_can_be_tuned_again(base_of: BaseOf, kind: str, mode: str, tmp_path: Path) -> None:
    disturb(opened(base_of(kind), mode="adapter", adapter_width=8)).save(tmp_path / "first")
    again = disturb(opened(tmp_path / "first", **MODES[mode]))
    (modality,) = again.passport.modalities
    again.save(tmp_path / "second")
    assert worst_cosine(rows(again, modality), rows_of_folder(tmp_path / "second", modality)) > 0.9999
