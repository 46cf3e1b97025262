"""Fixtures that several rooms use."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from raystore.encoders.backends import ExportedBackend
    from raystore.encoders.exports import Equivalence
    from raystore.encoders.model import Model
    from raystore.layout import Layout

DATASETS = "RAYSTORE_DATASETS"
_STATUS = pytest.StashKey[int]()
Check = Callable[[Path], "Equivalence"] | None


def pytest_configure() -> None:
    # Nothing here may ask a model hub: a test that needed one would pass on one machine and hang on another.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # The models are tiny and several processes share two cores: OpenMP's threads would spend them waiting for each other,
    # spinning. Registering a tiny encoder beside one busy process takes 3 s so, and 20 s with a thread a core.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End here when all is told. Threads of Ray, gRPC and Ray Data do not end with the tests, and where Python 3.11 ends under one
    that is inside C++ it may abort ("FATAL: exception not rethrown"), as it did once after 4,093 tests had passed."""
    if (status := config.stash.get(_STATUS, None)) is not None and threading.active_count() > 1:
        config.get_terminal_writer().flush()
        os._exit(status)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever uses a model pays seconds for torch: out of `make test-fast`, in `make test`."""
    for item in items:
        if {"tiny_model", "tiny_vit", "tiny_clip"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.model)


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exports of this session, a folder each."""
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module", autouse=True)
def exports_are_made_once(exports: Path) -> Iterator[None]:
    """A store that registers a model another test registered gets a copy of the export that was made and checked then, which
    takes 1.5 s for the smallest. tests/encoders makes each anew."""
    from raystore.encoders import exports as made
    from raystore.encoders import opening
    from raystore.layout import staging

    real = made.write_export

    def write_export(layout: Layout, model: Model, backend: type[ExportedBackend], check: Check = None) -> Path:
        kept = exports / f"{model.passport.fingerprint}-{backend.name}"
        if not kept.is_dir():
            folder = real(layout, model, backend, check)
            shutil.copytree(folder, kept)
            return folder
        folder = made.export_folder(layout, model.passport.fingerprint, backend.name)
        with staging(layout.tmp) as stage:
            shutil.copytree(kept, stage, dirs_exist_ok=True)
            made.replace_folder(stage, folder, layout.tmp)
        return folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "write_export", write_export)
        yield


@pytest.fixture(scope="session")
def ray_session() -> Iterator[object]:
    """One local Ray for the whole run, with more logical CPUs than cores and a GPU that is one by name; started by
    raystore's own door."""
    from raystore.session import shutdown_ray, start_ray

    yield start_ray(num_cpus=8, num_gpus=1)
    shutdown_ray()


@pytest.fixture(scope="session")
def datasets() -> Path:
    """The folder of real data sets. Without it such tests skip; under CI they fail."""
    folder = os.environ.get(DATASETS)
    if folder:
        return Path(folder)
    if os.environ.get("CI") == "true":
        pytest.fail(f"{DATASETS} is not set")
    pytest.skip(f"{DATASETS} is not set")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a real BERT (2 layers, 32 wide, random weights of one seed) and a WordPiece tokenizer of its own."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny"
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ("card", "never", "arrived", "hello", "world", "text", "sentence", "limit", "money", "blue", "the", "of", "is")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = [*special, *letters, *(f"##{letter}" for letter in letters), *words, *".,!?"]
    with torch.random.fork_rng():
        torch.manual_seed(20261120)
        config = BertConfig(
            vocab_size=len(vocab),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
            initializer_range=0.2,  # so that different texts get clearly different vectors
        )
        BertModel(config, add_pooling_layer=False).eval().save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocab), encoding="utf-8")
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a real ViT (32 wide, 32x32 pixels, random weights of one seed)."""
    from tests.pictures import save_vit

    return save_vit(tmp_path_factory.mktemp("models") / "vit")


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with a real CLIP (16 wide, texts and 32x32 pixels, random weights of one seed)."""
    from tests.pictures import save_clip

    return save_clip(tmp_path_factory.mktemp("models") / "clip", tiny_model)
