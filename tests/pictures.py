"""Tiny real models that take images, and pictures to send them."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image


def png(colour: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> bytes:
    """A picture of one colour with a dark corner."""
    image = Image.new("RGB", size, colour)
    image.paste((10, 10, 10), (0, 0, size[0] // 3 + 1, size[1] // 3 + 1))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


# Three rather red ones, then three rather blue ones.
PICTURES = [png(c) for c in ((220, 30, 30), (250, 0, 20), (180, 60, 40), (30, 30, 220), (0, 20, 250), (40, 60, 180))]


def gif(n_frames: int) -> bytes:
    frames = [Image.new("RGB", (8, 8), (40 * n, 0, 0)) for n in range(n_frames)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def data_url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def save_clip(folder: Path, tiny_model: Path) -> Path:
    """A CLIP with random weights of one seed, 16 wide, 32x32 pixels, and the tiny model's tokenizer."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_model)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    config = CLIPConfig(
        text_config={**small, **special, "vocab_size": len(tokenizer), "max_position_embeddings": 32},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=16,
        initializer_factor=5.0,  # so that different items get clearly different vectors
    )
    with torch.random.fork_rng():
        torch.manual_seed(20261120)
        CLIPModel(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)
    return folder


def save_vit(folder: Path) -> Path:
    """A ViT with random weights of one seed, 32 wide, 32x32 pixels."""
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    config = ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8,
        initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(20261120)
        ViTModel(config, add_pooling_layer=False).eval().save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
