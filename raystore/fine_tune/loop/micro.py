"""How much goes through the model at once, and less of it where memory runs out."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raystore.errors import JobFailed
from raystore.fine_tune.recipe import Recipe

if TYPE_CHECKING:
    import torch

log = logging.getLogger("raystore")

# Where torch itself runs out of memory on a CPU it says so in a plain RuntimeError.
_OUT_OF_MEMORY = ("DefaultCPUAllocator", "not enough memory", "can't allocate memory", "Cannot allocate memory")


@dataclass
class Micro:
    """The limits of one forward pass: tokens (padding included) of texts, rows of images. They only ever shrink."""

    tokens: int
    images: int

    @classmethod
    def of(cls, recipe: Recipe) -> Micro:
        return cls(recipe.micro_tokens, recipe.micro_images)

    def halve(self, tokens: int, images: int) -> bool:
        """Whether there is less to be had, after a pass that held so many tokens and images at once and did not fit.

        Said in the log. A single row cannot be halved: of that, both are 0.
        """
        if tokens < 2 and images < 2:
            return False
        if tokens > 1:
            self.tokens = max(1, min(self.tokens, tokens) // 2)
        if images > 1:
            self.images = max(1, min(self.images, images) // 2)
        log.warning(
            "Memory ran out in a fine-tuning: from now on %s tokens or %s images go through the model at once. A step takes longer; "
            "its gradient is the same, but for what dropout leaves out and how pictures are cropped: each pass draws its own.",
            f"{self.tokens:,}",
            f"{self.images:,}",
        )
        return True

    def notes(self, recipe: Recipe) -> tuple[str, ...]:
        """What memory did not allow of the recipe's limits, as phrases; none where it sufficed."""
        asked = Micro.of(recipe)
        found = (("tokens", asked.tokens, self.tokens), ("images", asked.images, self.images))
        return tuple(
            f"memory did not suffice for micro_{name}={most:,}, so {now:,} {name} went through the model at once in the end"
            for name, most, now in found
            if now < most
        )


def too_little_memory() -> JobFailed:
    return JobFailed(
        job="fine-tuning",
        reason="a single row needs more memory than there is",
        advice="Set max_tokens= lower, mode='last-n', or gradient_checkpointing=True.",
    )


def too_little_for_adamw(n_weights: int) -> JobFailed:
    return JobFailed(
        job="fine-tuning",
        reason=f"AdamW keeps two numbers for each of the {n_weights:,} weights that learn, which is more memory than there is",
        advice="Let fewer learn: mode='last-n', 'lora' or 'adapter'; or take a smaller base.",
    )


def free_memory(device: torch.device) -> None:
    """What a failed pass held goes back to the device, where torch would keep it for itself."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory ran out, on a CPU or on a GPU."""
    if isinstance(error, MemoryError):
        return True
    if type(error).__name__ == "OutOfMemoryError":  # torch's, for every accelerator
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _OUT_OF_MEMORY)
