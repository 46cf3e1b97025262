"""The CPU backend: the torch module converted to OpenVINO once, cached as files, run without torch.

With a valid export, loading imports `openvino` and `tokenizers` only: about a second and little memory, which is
what a Ray worker pays. The export is a cache: its digests are checked, and it is made again from the source when wrong.
OpenVINO computes in bfloat16 where the processor has it; the golden check holds what that may cost.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raystore.encoders.passport import Passport
from raystore.encoders.source import file_digest
from raystore.encoders.text import TextModel, quiet
from raystore.encoders.tokens import BatchSize, Integers
from raystore.encoders.torch_backend import unit_rows_module
from raystore.layout import Layout, disk_full_is_said, read_json, staging, write_json
from raystore.vectors import Matrix

BATCH = BatchSize(tokens=2048, rows=64)
_FILES = ("model.xml", "model.bin", "tokenizer.json")


def import_openvino() -> Any:
    """The openvino module, made to send nothing: it reports imports and conversions to its maker when it finds
    `openvino_telemetry`, and falls back to a stub when it does not. Nothing of a protected item was ever in those
    reports, but a store that promises to keep to itself opens no such connection.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # None makes its import fail
    import openvino

    return openvino


class OpenVinoBackend:
    """Runs an export. `threads` is what it may use; None is every core."""

    name = "openvino"
    device = "cpu"
    batch_size = BATCH

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        core = import_openvino().Core()
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads or os.cpu_count() or 1}
        compiled = core.compile_model(str(folder / "model.xml"), "CPU", config)
        self._request = compiled.create_infer_request()

    def run(self, inputs: Mapping[str, Integers]) -> Matrix:
        # The request owns its output and overwrites it at the next call: copy.
        result = self._request.infer(dict(inputs), share_inputs=True)
        return np.array(result[0], dtype=np.float32)


def export_folder(layout: Layout, passport: Passport) -> Path:
    return layout.encoder(passport.fingerprint) / "exports" / "openvino"


def export_problem(layout: Layout, passport: Passport) -> str | None:
    """Why the export cannot be used as it lies there, or None. Reads every byte of it: 0.1 s for 90 MB."""
    folder = export_folder(layout, passport)
    try:
        manifest = read_json(folder / "manifest.json")
    except FileNotFoundError:
        return "there is none"
    except (ValueError, OSError):
        return "its manifest cannot be read"
    if manifest.get("fingerprint") != passport.fingerprint:
        return "it was made of another encoder"
    digests = manifest.get("files")
    for name in _FILES:
        try:
            found = file_digest(folder / name)
        except OSError:
            return f"{name} is missing"
        if not isinstance(digests, dict) or digests.get(name) != found:
            return f"{name} is not what the manifest says"
    return None


def write_export(layout: Layout, model: TextModel) -> Path:
    """Convert, write, and put in place of whatever was there. Racing writers leave one whole export.

    Cost: some 3 s for all-MiniLM-L6-v2 and 90 MB of disk.
    """
    from raystore import __version__

    openvino = import_openvino()
    passport = model.passport
    folder = export_folder(layout, passport)
    # Two rows of different length, so that tracing sees a mask that masks something.
    mask = np.ones((2, 8), dtype=np.int64)
    mask[1, 5:] = 0
    example = {name: mask if name == "attention_mask" else np.zeros_like(mask) for name in passport.inputs}
    converted = _convert(unit_rows_module(model), example)
    with disk_full_is_said(folder.parent, "writing an OpenVINO export"), staging(layout.tmp) as stage:
        openvino.save_model(converted, str(stage / "model.xml"), compress_to_fp16=False)
        (stage / "tokenizer.json").write_text(model.tokenizer_json, encoding="utf-8")
        manifest = {
            "backend": "openvino",
            "fingerprint": passport.fingerprint,
            "files": {name: file_digest(stage / name) for name in _FILES},
            "openvino": openvino.__version__,
            "raystore": __version__,
        }
        write_json(stage / "manifest.json", manifest, layout.tmp)
        _replace(stage, folder, layout.tmp)
    return folder


def _convert(module: Any, example: Mapping[str, Integers]) -> Any:
    import warnings

    import torch

    with warnings.catch_warnings(), quiet(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of every shape it reads
        return import_openvino().convert_model(module, example_input={k: torch.from_numpy(v) for k, v in example.items()})


def _replace(stage: Path, folder: Path, tmp: Path) -> None:
    """Move `stage` to `folder`; an older one is moved out first, so no reader sees half of each."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(100):
        try:
            stage.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            old = tmp / uuid.uuid4().hex
            try:
                folder.rename(old)
            except FileNotFoundError:  # another writer moved it first
                continue
            shutil.rmtree(old, ignore_errors=True)
            continue
        return
    raise TimeoutError(f"other processes keep replacing '{folder}'")
