"""How much goes through the model at once, and less of it where memory runs out."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from raystore.errors import JobFailed

log = logging.getLogger("raystore")

# Where torch itself runs out of memory on a CPU it says so in a plain RuntimeError.
_OUT_OF_MEMORY = ("DefaultCPUAllocator", "not enough memory", "can't allocate memory", "Cannot allocate memory")


@dataclass
class Micro:
    """The limits of one forward pass: tokens (padding included) of texts, rows of images. They only ever shrink."""

    tokens: int
    images: int

    def halve(self, tokens: int, images: int) -> bool:
        """Whether there is less to be had, after a step that held so many tokens and images at once and did not fit.

        Said in the log. A single row cannot be halved: of that, both are 0.
        """
        if tokens < 2 and images < 2:
            return False
        if tokens > 1:
            self.tokens = max(1, min(self.tokens, tokens) // 2)
        if images > 1:
            self.images = max(1, min(self.images, images) // 2)
        log.warning(
            "Memory ran out in a training step: from now on %s tokens or %s images go through the model at once. The gradients "
            "are the same, a step takes longer.",
            f"{self.tokens:,}",
            f"{self.images:,}",
        )
        return True


def too_little_memory() -> JobFailed:
    return JobFailed(
        job="fine-tuning",
        reason="a single row needs more memory than there is",
        advice="Set max_tokens= lower, mode='last-n', or gradient_checkpointing=True.",
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory ran out, on a CPU or on a GPU."""
    if isinstance(error, MemoryError):
        return True
    if type(error).__name__ == "OutOfMemoryError":  # torch's, for every accelerator
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _OUT_OF_MEMORY)
