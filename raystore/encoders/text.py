"""Loads a text model with sentence-transformers, in float32 on torch, and reads its passport off it.

The one file that knows what sentence-transformers and transformers call things. Importing it is cheap; loading
imports torch and transformers (3 to 5 s once a process). No pickle, no code from the model, no network: the
files are on the disk by now (`source.py`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from raystore.encoders.model import Model, Options, tensor_digests
from raystore.encoders.passport import Passport, Step, TextPart, digest_of
from raystore.encoders.source import Source, import_bars, modules
from raystore.encoders.tokenizer import canonical_tokenizer, check_files, check_tokenizer
from raystore.errors import InvalidArguments, ModelUnusable

log = logging.getLogger("raystore")

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

POOLINGS = ("mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
DEFAULT_MAX_LENGTH = 512  # for a model whose files name no limit
_UNLIMITED = 10**6  # transformers writes 1e30 where a tokenizer names no limit

# Configuration that changes no output: where it came from, training, bookkeeping of results.
_VOLATILE = frozenset(
    {
        *("_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"),
        *("output_hidden_states", "output_attentions", "return_dict", "use_cache", "gradient_checkpointing"),
        *("initializer_range", "initializer_factor", "id2label", "label2id", "num_labels", "problem_type"),
        *("chunk_size_feed_forward", "_attn_implementation", "tie_word_embeddings", "finetuning_task"),
        *("task_specific_params", "pruned_heads"),
    }
)


def load_text_model(source: Source, options: Options) -> Model:
    """The model in float32, in eval mode, on the CPU, and its passport.

    Raises:
        ModelUnusable: transformers cannot load it, or it is no model that turns a text into one vector.
        InvalidArguments: an option that this model cannot take.
    """
    _no_image_options(options)
    with quiet():
        chain, prompts, default_prompt, truncate_dim = _load(source)
    transformer: Any = chain[0]
    tokenizer = _tokenizer(source, transformer)
    tokenizer_json = canonical_tokenizer(tokenizer.backend_tokenizer.to_str())
    steps = _steps(source, chain, options)
    tensors = _tensor_digests(chain)
    part = TextPart(
        steps=tuple(steps),
        pooling=str(next(s.config["pooling_mode"] for s in steps if s.type == "Pooling")),
        prompts=prompts,
        prompt=default_prompt if options.prompt is None else options.prompt,
        tokenizer=hashlib.sha256(tokenizer_json.encode()).hexdigest(),
        inputs=_inputs(transformer, tokenizer),
        max_length=_max_length(transformer, options),
        truncation_side=tokenizer.truncation_side,
        padding_side=tokenizer.padding_side,
        pad_id=tokenizer.pad_token_id or 0,
        dimensions=_dimensions(options, truncate_dim, _dim(chain, transformer)),
    )
    passport = Passport(
        weights=digest_of(tensors),
        architecture=type(transformer.auto_model).__name__,
        config=config_digest(transformer.auto_model.config),
        text=part,
        dim=part.dimensions or _dim(chain, transformer),
    )
    return Model(
        passport=passport,
        graphs={"text": _unit_rows(chain, _left_out(transformer, part), part.dimensions)},
        tensors=tensors,
        tokenizer_json=tokenizer_json,
    )


def _no_image_options(options: Options) -> None:
    wrong = [f"{name}= is for image models" for name in ("resize", "kernel") if getattr(options, name) is not None]
    if wrong:
        raise InvalidArguments(call="register", problems=wrong)


def _left_out(transformer: Any, part: TextPart) -> int:
    """How many tokens of the prompt, which stand before every text, the pooling leaves out (Instructor models do)."""
    if not part.prompt or all(step.config.get("include_prompt", True) for step in part.steps):
        return 0
    return int(transformer._get_prompt_length(part.prompt) or 0)


def _unit_rows(chain: torch.nn.Sequential, left_out: int, dimensions: int | None) -> torch.nn.Module:
    """A module from (input_ids, attention_mask[, token_type_ids]) to unit rows, pooling and all inside.

    Source: sentence-transformers' encode, which runs these modules in this order.
    """
    import torch

    class UnitRows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.chain = chain

        def forward(
            self,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            token_type_ids: torch.Tensor | None = None,
        ) -> torch.Tensor:
            features: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
            if token_type_ids is not None:
                features["token_type_ids"] = token_type_ids
            if left_out:
                features["prompt_length"] = left_out
            for module in self.chain:
                features = module(features)
            return torch.nn.functional.normalize(features["sentence_embedding"][:, :dimensions], p=2.0, dim=1)

    return UnitRows().eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Loading without progress bars and load reports; the settings are put back."""
    import_bars()
    from transformers.utils import logging as hf_logging

    bars, level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    ours = logging.getLogger("sentence_transformers")
    before = ours.level
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    ours.setLevel(logging.ERROR)
    try:
        yield
    finally:
        ours.setLevel(before)
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def _load(source: Source) -> tuple[torch.nn.Sequential, dict[str, str], str, int | None]:
    import torch
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    kwargs: dict[str, Any] = {"use_safetensors": True, "dtype": torch.float32, "local_files_only": True}
    folder = str(source.folder)
    try:
        if modules(source):
            model = SentenceTransformer(
                folder, device="cpu", local_files_only=True, trust_remote_code=False, model_kwargs=kwargs
            )
        else:  # a plain transformers folder: mean pooling, as sentence-transformers itself would take
            transformer = Transformer(folder, model_kwargs=kwargs)
            pooling = Pooling(transformer.get_embedding_dimension(), "mean")
            model = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelUnusable(
            model=source.model,
            found=f"sentence-transformers could not load it ({type(error).__name__}: {' '.join(str(error).split())[:200]})",
            advice="Check that SentenceTransformer(path) loads it.",
        ) from error
    model.float().eval()
    names = [type(module).__name__ for module in model]
    if not names or names[0] != "Transformer" or "Pooling" not in names:
        raise ModelUnusable(
            model=source.model,
            found=f"it is a chain of {' -> '.join(names)}",
            advice="raystore runs a Transformer followed by a Pooling.",
        )
    prompts = {key: text for key, text in dict(model.prompts).items() if text}
    if model.similarity_fn_name in ("dot", "euclidean", "manhattan"):
        said = "model %s was trained to be compared by %s; raystore keeps unit rows and compares by cosine"
        log.warning(said, source.model, model.similarity_fn_name)
    return model, prompts, prompts.get(model.default_prompt_name or "", ""), model.truncate_dim


def _tokenizer(source: Source, transformer: Any) -> Any:
    from raystore.encoders.vision import KINDS

    how = transformer.modality_config.get("text", {})
    last = (how.get("method"), how.get("method_output_name")) == ("forward", "last_hidden_state")
    if not last or "message" in transformer.modality_config or transformer.module_output_name != "token_embeddings":
        raise ModelUnusable(
            model=source.model,
            found="it does not map plain text to one vector a token in its last layer",
            advice=f"Choose a sentence embedding model; of vision models, {', '.join(KINDS)} are run.",
        )
    check_files(source, [_transformer_folder(source), source.folder])
    tokenizer = transformer.tokenizer
    check_tokenizer(source, tokenizer, transformer.auto_model.get_input_embeddings().weight.shape[0])
    return tokenizer


def _transformer_folder(source: Source) -> Path:
    parts = modules(source)
    return parts[0][1] if parts else source.folder


def _steps(source: Source, chain: Any, options: Options) -> list[Step]:
    """The modules after the transformer; `options.pooling` is set on the chain here."""
    found: list[Step] = []
    if options.pooling is not None:
        if options.pooling not in POOLINGS:
            problem = f"pooling= is one of {', '.join(POOLINGS)}, not '{str(options.pooling)[:40]}'"
            raise InvalidArguments(call="register", problems=[problem])
        from sentence_transformers.sentence_transformer.modules import Pooling

        for i, module in enumerate(chain):
            if type(module).__name__ == "Pooling":
                chain[i] = Pooling(chain[0].get_embedding_dimension(), options.pooling)
    rest = list(chain)[1:]
    while rest and type(rest[-1]).__name__ == "Normalize":  # said by passport.normalize, and done by every backend
        rest.pop()
    for module in rest:
        config = dict(module.get_config_dict())
        found.append(Step(type=type(module).__name__, config=json.loads(json.dumps(config, sort_keys=True))))
    if sum(step.type == "Pooling" for step in found) != 1:
        raise ModelUnusable(model=source.model, found="it pools more than once", advice="Choose another model.")
    return found


def _inputs(transformer: Any, tokenizer: Any) -> tuple[str, ...]:
    accepted = transformer.model_forward_params
    takes_types = "token_type_ids" in tokenizer.model_input_names and (accepted is None or "token_type_ids" in accepted)
    return ("input_ids", "attention_mask", *(("token_type_ids",) if takes_types else ()))


def _max_length(transformer: Any, options: Options) -> int:
    positions = getattr(transformer.auto_model.config, "max_position_embeddings", None)
    # RoBERTa and its kin number positions from behind the padding token: 514 positions read 512 tokens.
    offset = getattr(getattr(transformer.auto_model, "embeddings", None), "padding_idx", None)
    if isinstance(positions, int) and isinstance(offset, int):
        positions -= offset + 1
    own = transformer.max_seq_length
    limits = [n for n in (own, positions) if isinstance(n, int) and 0 < n < _UNLIMITED]
    limit = min(limits) if limits else DEFAULT_MAX_LENGTH
    if options.max_length is None:
        return limit
    # A model may be read beyond the length its authors chose, never beyond its positions.
    most = positions if isinstance(positions, int) and positions > 0 else _UNLIMITED
    if not 3 <= options.max_length <= most:
        raise InvalidArguments(call="register", problems=[f"max_length= is 3 to {most} tokens for this model"])
    return options.max_length


def _dimensions(options: Options, saved: int | None, dim: int) -> int | None:
    """How many of the vector's numbers are kept, where it is not all of them."""
    kept = options.dimensions if options.dimensions is not None else saved
    if kept is not None and not 1 <= kept <= dim:
        raise InvalidArguments(call="register", problems=[f"dimensions= is 1 to {dim} for this model"])
    return kept if kept != dim else None


def missing_tensors(source: Source, model: Model) -> list[str]:
    """The weights of the transformer that its files do not hold, and that transformers made up. Loads them again."""
    auto: Any = model.graphs["text"].chain[0].auto_model  # type: ignore[index, union-attr]
    with quiet():
        _, info = type(auto).from_pretrained(
            _transformer_folder(source),
            config=auto.config,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    return sorted(f"0.{name}" for name in info["missing_keys"] if f"0.{name}" in model.tensors)


def _dim(chain: Any, transformer: Any) -> int:
    dims = [m.get_embedding_dimension() for m in chain if hasattr(m, "get_embedding_dimension")]
    return int(dims[-1] if dims else transformer.get_embedding_dimension())


def config_digest(config: Any) -> str:
    """Digest of what the configuration says beyond its class's defaults, without what changes no output.

    Leaving the defaults out makes a config.json as its authors wrote it equal to the same one saved again by
    a newer transformers, which writes every default down.
    """
    about: Mapping[str, Any] = config.to_dict()
    defaults: Mapping[str, Any] = type(config)().to_dict() if not getattr(config, "has_no_defaults_at_init", False) else {}
    kept = {
        key: value
        for key, value in about.items()
        if key not in _VOLATILE and "drop" not in key and not (key in defaults and defaults[key] == value)
    }
    return digest_of({"model_type": str(about.get("model_type", "")), **json.loads(json.dumps(kept, default=str))})


def _tensor_digests(chain: Any) -> dict[str, str]:
    """The digest of each tensor that reaches the output, by name.

    Named within its module, not within the files, so sharding and container do not show. A pooler is left
    out: nothing reads it, and a file without one gets a random one at load.
    """
    found: dict[str, str] = {}
    for i, module in enumerate(chain):
        state = module.auto_model.state_dict() if i == 0 else module.state_dict()
        read = {name: tensor for name, tensor in state.items() if i > 0 or not name.startswith("pooler.")}
        found |= tensor_digests(read, f"{i}.")
    return found
