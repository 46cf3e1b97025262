"""What learns, how fast, in which arithmetic; what stands still; and what cannot be."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from raystore.errors import ExtraNotInstalled, InvalidArguments
from raystore.fine_tune.model.layers import below_last
from raystore.fine_tune.model.precision import autocast, choose_precision
from tests.fine_tune.models import disturb, inputs, opened, rows, save_mobilenet, worst_cosine

pytestmark = pytest.mark.model  # they load torch, also where no tiny model of everybody's is used


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_mobilenet(tmp_path_factory.mktemp("nets") / "mobilenet")


def gradients(trainable: Any) -> dict[str, torch.Tensor]:
    found: dict[str, nn.Parameter] = trainable.learning_parameters()
    a, b = trainable.embed("text", inputs(trainable.passport, "text"))
    trainable.module.zero_grad()
    (a @ b).backward()
    return {name: p.grad.clone() for name, p in found.items() if p.grad is not None}


def test_rows_are_float32_unit_rows_with_gradients(tiny_clip: Path) -> None:
    trainable = opened(tiny_clip)
    for modality in ("text", "image"):
        found = trainable.embed(modality, inputs(trainable.passport, modality))
        assert found.shape == (2, trainable.passport.dim)
        assert found.dtype == torch.float32
        assert found.requires_grad
        torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    assert trainable.passport.modalities == ("text", "image")
    assert trainable.tokenizer_json is not None


def test_half_precision_gives_float32_unit_rows_near_the_others_and_keeps_float32_weights(tiny_model: Path) -> None:
    whole, half = opened(tiny_model), opened(tiny_model, precision="bf16")
    found = half.embed("text", inputs(half.passport, "text"))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    assert 0.99 < worst_cosine(rows(whole, "text"), rows(half, "text")) < 0.9999999
    assert {p.dtype for p in half.module.parameters()} == {torch.float32}
    found.sum().backward()
    assert {p.grad.dtype for p in half.parameters_that_learn() if p.grad is not None} == {torch.float32}


def test_auto_is_bf16_where_the_processor_has_it_and_what_was_asked_for_otherwise() -> None:
    cpu = torch.device("cpu")
    has = torch.cpu.get_capabilities()
    fast = any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "amx_tile"))
    assert choose_precision("auto", cpu) == ("bf16" if fast else "fp32")
    assert choose_precision("bf16", cpu) == "bf16"
    with autocast("fp32", cpu):
        assert not torch.is_autocast_enabled("cpu")


def test_batch_norm_stands_still_while_the_rest_trains(mobilenet: Path) -> None:
    trainable = opened(mobilenet)
    norms = {n: m for n, m in trainable.module.named_modules() if isinstance(m, nn.BatchNorm2d)}
    before = {n: (m.running_mean.clone(), m.running_var.clone()) for n, m in norms.items()}
    trainable.module.train()
    trainable.embed("image", inputs(trainable.passport, "image")).sum().backward()
    assert trainable.module.training
    assert len(norms) == 52
    for name, norm in norms.items():
        assert not norm.training
        assert torch.equal(before[name][0], norm.running_mean)
        assert torch.equal(before[name][1], norm.running_var)
        assert norm.weight.grad is not None  # its scale learns all the same


@pytest.mark.parametrize("kind", ["tiny_model", "tiny_vit"])
def test_dropout_is_the_recipes_in_training_and_none_otherwise(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    for dropout, alike in ((0.5, False), (0.0, True)):
        trainable = opened(folder, dropout=dropout)
        (modality,) = trainable.passport.modalities
        still = rows(trainable, modality)
        trainable.module.train()
        assert np.allclose(rows(trainable, modality), rows(trainable, modality)) == alike
        trainable.module.eval()
        assert np.array_equal(rows(trainable, modality), still)


def test_recomputed_activations_give_the_same_gradients(tiny_model: Path) -> None:
    plain, thrifty = opened(tiny_model, dropout=0.0), opened(tiny_model, dropout=0.0, gradient_checkpointing=True)
    plain.module.train()
    thrifty.module.train()
    expected, found = gradients(plain), gradients(thrifty)
    assert expected.keys() == found.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name])
    assert any(getattr(m, "gradient_checkpointing", False) for m in thrifty.module.modules())


def test_only_the_last_layers_learn(tiny_model: Path, mobilenet: Path) -> None:
    names = opened(tiny_model, mode="last-n", last_n=1).learning_parameters()
    assert names
    assert all("encoder.layer.1." in name for name in names)
    names = opened(mobilenet, mode="last-n", last_n=2).learning_parameters()
    assert {name.split(".")[2] for name in names if ".layer." in name} == {"layer"}
    assert {name.split(".layer.")[1].split(".")[0] for name in names if ".layer." in name} == {"14", "15"}
    assert any("conv_1x1" in name for name in names)
    assert not any("conv_stem" in name for name in names)


def test_lora_learns_low_rank_additions_alone(tiny_model: Path) -> None:
    trainable = opened(tiny_model, mode="lora", lora_rank=3)
    shapes = {name: p.shape for name, p in trainable.learning_parameters().items()}
    assert len(shapes) == 2 * 2 * 6  # two matrices for each of six, in each of two layers
    assert all(3 in shape for shape in shapes.values())
    assert all(not p.requires_grad for name, p in trainable.module.named_parameters() if name not in shapes)


def test_what_reaches_no_output_never_learns(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, BertModel

    BertModel.from_pretrained(tiny_model, add_pooling_layer=True).save_pretrained(tmp_path / "pooler")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "pooler")
    trainable = opened(tmp_path / "pooler")
    assert any("pooler" in name for name, _ in trainable.module.named_parameters())
    assert not any("pooler" in name for name in trainable.learning_parameters())


@pytest.mark.parametrize("mode", ["lora", "adapter"])
def test_the_same_seed_draws_the_same_additions(tiny_model: Path, mode: str) -> None:
    one, same, other = (opened(tiny_model, mode=mode, seed=seed).state() for seed in (4, 4, 5))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_layers_further_down_learn_slower_and_vectors_do_not_decay(tiny_model: Path) -> None:
    trainable = opened(tiny_model, learning_rate=1.0, layer_decay=0.5, weight_decay=0.1)
    groups = trainable.groups()
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [
        (1.0, 0.0),
        (1.0, 0.1),
        (0.5, 0.0),
        (0.5, 0.1),
        (0.25, 0.0),
        (0.25, 0.1),
    ]
    assert groups[-1]["name"] == "2 below the last layer"
    assert {p.ndim for g in groups if g["weight_decay"] == 0 for p in g["params"]} == {1}
    assert sum(len(g["params"]) for g in groups) == len(trainable.learning_parameters())
    torch.optim.AdamW(groups)
    below = below_last(trainable.module.graph("text"))
    assert {n for name, n in below.items() if "embeddings" in name} == {2}
    assert {n for name, n in below.items() if "encoder.layer.0." in name} == {1}


def test_at_first_only_the_last_layer_learns_and_then_the_rest_joins(tiny_model: Path) -> None:
    trainable = opened(tiny_model, unfreeze_after=0.3)
    names = {n for n, p in trainable.module.named_parameters() if p.requires_grad}
    assert names
    assert all("encoder.layer.1." in name for name in names)
    assert gradients(trainable).keys() == names
    assert not trainable.stage(0.29)
    assert trainable.stage(0.3)
    assert not trainable.stage(0.9)
    assert len(trainable.parameters_that_learn()) == len(trainable.learning_parameters()) > len(names)
    assert len(gradients(trainable)) == len(trainable.learning_parameters())
    assert trainable.stage(0.0)  # a resumed run may begin anywhere
    assert all(p.grad is None for n, p in trainable.module.named_parameters() if n not in names)


@pytest.mark.parametrize("mode", ["full", "lora", "adapter"])
def test_state_goes_out_and_comes_back(tiny_model: Path, mode: str) -> None:
    trainable = disturb(opened(tiny_model, mode=mode))
    state, learned = trainable.state(), rows(trainable, "text")
    again = opened(tiny_model, mode=mode)
    assert not np.allclose(rows(again, "text"), learned)
    again.load_state(state)
    assert np.array_equal(rows(again, "text"), learned)
    disturb(trainable)
    assert torch.equal(state[next(iter(state))], again.state()[next(iter(state))])  # it was a copy


def test_the_state_of_another_recipe_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match=r"^the state is of another model, or of another recipe$"):
        opened(tiny_model).load_state(opened(tiny_model, mode="lora").state())


def test_the_whole_module_moves_to_another_device(tiny_model: Path) -> None:
    trainable = opened(tiny_model).to("meta")
    assert {p.device.type for p in trainable.module.parameters()} == {"meta"}
    assert trainable.device == torch.device("meta")


def test_everything_a_recipe_cannot_have_is_said_at_once(mobilenet: Path) -> None:
    with pytest.raises(InvalidArguments) as caught:
        opened(mobilenet, mode="last-n", last_n=17, layers=3, precision="fp16", gradient_checkpointing=True)
    assert str(pickle.loads(pickle.dumps(caught.value))) == (
        "fine_tune: last_n= is 1 to 3 for this model, not 17; precision='fp16' is for GPUs, and this trains on a CPU: take "
        "'auto', 'bf16' or 'fp32'; layers= is for transformers, whose layers are all alike, and this base has none that could "
        "be left out; gradient_checkpointing= is not there for MobileNetV2Model in transformers."
    )


def test_a_student_has_no_more_layers_than_its_base(tiny_clip: Path) -> None:
    with pytest.raises(InvalidArguments) as caught:
        opened(tiny_clip, layers=3)
    assert str(caught.value) == "fine_tune: layers= is 1 to 2 for this base, not 3."


def test_lora_without_peft_names_the_extra(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ExtraNotInstalled) as caught:
        opened(tiny_model, mode="lora")
    assert str(caught.value) == "low-rank additions (mode lora) need peft. Install it: pip install 'raystore[lora]'"
