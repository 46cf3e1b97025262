"""Text models of many architectures, tiny and real: raystore's vectors are sentence-transformers' own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raystore.encoders.golden import PROBES
from raystore.encoders.model import Model, Options
from raystore.encoders.opening import from_model
from raystore.encoders.source import find_source
from raystore.encoders.text import load_text_model
from raystore.errors import InvalidArguments

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta": ("Roberta", {**SMALL, "max_position_embeddings": 66, "pad_token_id": 0}),
    "xlm-roberta": ("XLMRoberta", {**SMALL, "max_position_embeddings": 66, "pad_token_id": 0}),
    "mpnet": ("MPNet", {**SMALL, "max_position_embeddings": 66, "pad_token_id": 0}),
    "electra": ("Electra", {**SMALL, "embedding_size": 16, "max_position_embeddings": 64}),
    "albert": ("Albert", {**SMALL, "embedding_size": 16, "max_position_embeddings": 64}),
    "distilbert": (
        "DistilBert",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64},
    ),
    "modernbert": (
        "ModernBert",
        {**SMALL, "max_position_embeddings": 64, "local_attention": 16, "pad_token_id": 0, "cls_token_id": 2},
    ),
    "t5": ("T5Encoder", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "pad_token_id": 0}),
    "qwen2": ("Qwen2", {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 64}),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 2, "eos_token_id": 3}),
}


@pytest.fixture
def folder_of(tiny_model: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A tiny model of a family with the tiny BERT's tokenizer."""

    def make(family: str, padding_side: str = "right") -> Path:
        import torch
        import transformers

        name, settings = FAMILIES[family]
        folder = tmp_path / family
        shutil.copytree(tiny_model, folder)
        (folder / "model.safetensors").unlink()
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model, padding_side=padding_side)
        tokenizer.save_pretrained(folder)
        config_name = f"{name.removesuffix('Encoder')}Config"
        # Room for the special tokens that some families add to their tokenizer when it is loaded.
        config = getattr(transformers, config_name)(vocab_size=len(tokenizer) + 8, **settings)
        with torch.random.fork_rng():
            torch.manual_seed(7)
            getattr(transformers, f"{name}Model")(config).eval().save_pretrained(folder)
        return folder

    return make


def load(folder: Path, **options: object) -> Model:
    return load_text_model(find_source(folder), Options.model_validate(options))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_each_family_puts_out_sentence_transformers_own_vectors(
    folder_of: Callable[[str], Path], family: str
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = folder_of(family)
    reference = SentenceTransformer(
        modules=[Transformer(str(folder), max_seq_length=64), Pooling(32, "mean")], device="cpu"
    )
    found = from_model(load(folder, max_length=64), family).encode(PROBES)
    np.testing.assert_allclose(found, reference.encode(list(PROBES), normalize_embeddings=True), atol=1e-5)


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "mpnet"])
def test_positions_that_start_behind_the_padding_token_are_not_counted_as_tokens(
    folder_of: Callable[[str], Path], family: str
) -> None:
    folder = folder_of(family)
    for name, change in (("config.json", {"pad_token_id": 1}), ("tokenizer_config.json", {"model_max_length": 10**30})):
        about = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(about | change))
    model = load(folder)
    assert model.passport.text is not None
    assert model.passport.text.max_length == 64  # of 66 positions
    assert from_model(model, family).encode(["hello world " * 100]).shape == (1, 32)
    with pytest.raises(InvalidArguments, match="max_length= is 3 to 64 tokens for this model"):
        load(folder, max_length=65)


def test_vectors_may_be_cut_to_their_first_numbers(tiny_model: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    chain = [Transformer(str(tiny_model)), Pooling(32, "mean")]
    reference = SentenceTransformer(modules=chain, device="cpu", truncate_dim=8)
    cut = load(tiny_model, dimensions=8)
    assert (cut.passport.dim, cut.passport.differences(load(tiny_model).passport)) == (8, ["text.dimensions", "dim"])
    found = from_model(cut, "cut").encode(PROBES)
    np.testing.assert_allclose(found, reference.encode(list(PROBES), normalize_embeddings=True), atol=1e-5)
    assert load(tiny_model, dimensions=32).passport == load(tiny_model).passport
    with pytest.raises(InvalidArguments, match="dimensions= is 1 to 32 for this model"):
        load(tiny_model, dimensions=33)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_decoder_that_reads_the_last_token_may_be_padded_on_either_side(
    folder_of: Callable[..., Path], side: str
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    folder = folder_of("qwen2", padding_side=side)
    reference = SentenceTransformer(
        modules=[Transformer(str(folder), max_seq_length=64), Pooling(32, "lasttoken"), Normalize()],
        device="cpu",
        prompts={"query": "hello world: ", "document": ""},
        default_prompt_name="query",
    )
    saved = folder.with_name("saved")
    reference.save(str(saved))
    model = load(saved)
    assert model.passport.text is not None
    assert (model.passport.text.padding_side, model.passport.text.prompt) == (side, "hello world: ")
    found = from_model(model, "decoder").encode(PROBES)
    np.testing.assert_allclose(found, reference.encode(list(PROBES)), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_a_prompt_is_left_out_of_the_pooling_where_the_model_says_so(
    tiny_model: Path, tmp_path: Path, pooling: str
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    reference = SentenceTransformer(
        modules=[Transformer(str(tiny_model)), Pooling(32, pooling, include_prompt=False)],
        device="cpu",
        prompts={"query": "hello world "},
        default_prompt_name="query",
    )
    reference.save(str(tmp_path / "instructed"))
    found = from_model(load(tmp_path / "instructed"), "instructed").encode(PROBES)
    np.testing.assert_allclose(found, reference.encode(list(PROBES), normalize_embeddings=True), atol=1e-5)
