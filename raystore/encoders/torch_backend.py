"""The reference backend: the model's own modules in torch, float32, on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raystore.encoders.text import TextModel
from raystore.encoders.tokens import BatchSize, Integers
from raystore.vectors import Matrix

CPU_BATCH = BatchSize(tokens=2048, rows=64)
GPU_BATCH = BatchSize(tokens=65_536, rows=1024)


class TorchBackend:
    """Source: sentence-transformers' encode, which runs these modules in this order."""

    name = "torch"

    def __init__(self, model: TextModel, threads: int | None = None) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)  # holds for the whole process; torch has no finer knob
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.batch_size = GPU_BATCH if self.device == "cuda" else CPU_BATCH
        self._model = unit_rows_module(model).to(self.device)

    def run(self, inputs: Mapping[str, Integers]) -> Matrix:
        import torch

        with torch.inference_mode():
            vectors = self._model(**{name: torch.from_numpy(a).to(self.device) for name, a in inputs.items()})
        matrix: Matrix = vectors.float().cpu().numpy()
        return matrix


def unit_rows_module(model: TextModel) -> Any:
    """A torch module from (input_ids, attention_mask[, token_type_ids]) to unit rows, pooling and all inside."""
    import torch

    class UnitRows(torch.nn.Module):
        def __init__(self, chain: torch.nn.Sequential) -> None:
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
            for module in self.chain:
                features = module(features)
            return torch.nn.functional.normalize(features["sentence_embedding"], p=2.0, dim=1)

    return UnitRows(model.chain).eval()
