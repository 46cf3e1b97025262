"""A small net after a vision model's pooling, kept in a file of its own beside the weights: how an adapter-tuned model is saved.

Vectors become x + up(relu(down(x))) before they get length 1. A text model needs no such file: sentence-transformers has
modules for it. Source: the bottleneck of Houlsby 2019 (arXiv 1902.00751), section 2.1, once instead of in every layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raystore.encoders.source import Source
from raystore.errors import ModelUnusable

if TYPE_CHECKING:
    import torch

    from raystore.encoders.passport import Modality

FILE = "residual.safetensors"


def residual(dim: int, width: int) -> torch.nn.Module:
    """A module from (n, dim) to (n, dim) with parameters `down.*` and `up.*`; before training it changes nothing."""
    import torch

    class Residual(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = torch.nn.Linear(dim, width)
            self.up = torch.nn.Linear(width, dim)
            torch.nn.init.zeros_(self.up.weight)
            torch.nn.init.zeros_(self.up.bias)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            changed: torch.Tensor = rows + self.up(torch.relu(self.down(rows)))
            return changed

    return Residual().eval()


def read_residuals(source: Source, modalities: Sequence[Modality]) -> dict[Modality, torch.nn.Module]:
    """The nets of a model's folder by what they come after; none where it has no such file. Raises ModelUnusable."""
    path = source.folder / FILE
    if not path.is_file():
        return {}
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found: dict[Modality, torch.nn.Module] = {}
    try:
        tensors = load_file(path)
        for modality in modalities:
            state = {n.partition(".")[2]: t.float() for n, t in tensors.items() if n.startswith(f"{modality}.")}
            if state:
                width, dim = state["down.weight"].shape
                found[modality] = residual(dim, width)
                found[modality].load_state_dict(state)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise ModelUnusable(
            model=source.model,
            found=f"its {FILE} cannot be read ({type(error).__name__})",
            advice="Save the model again.",
        ) from None
    return found


def write_residuals(folder: Path, nets: Mapping[Modality, Mapping[str, torch.Tensor]]) -> None:
    """Put the tensors of nets (`down.weight`, `down.bias`, `up.weight`, `up.bias`) into a model's folder."""
    from safetensors.torch import save_file

    save_file({f"{m}.{name}": t.contiguous() for m, net in nets.items() for name, t in net.items()}, folder / FILE)
