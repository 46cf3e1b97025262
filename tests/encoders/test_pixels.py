from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raystore.encoders.image_probes import image_probes, sample_images
from raystore.encoders.images import BadImage, read_image
from raystore.encoders.model import Options
from raystore.encoders.passport import ImagePart
from raystore.encoders.pixels import KERNELS, image_part, normalised, pixels
from raystore.encoders.source import Source
from raystore.errors import InvalidArguments, ModelUnusable

SIZES = [(1, 1), (2, 3), (31, 33), (97, 40), (40, 97), (224, 224), (256, 256), (300, 200), (5, 400), (255, 383)]
# name of the processor in transformers -> what its JSON may hold
PROCESSORS: list[tuple[str, dict[str, Any]]] = [
    ("ViTImageProcessor", {}),
    ("ViTImageProcessor", {"size": 32}),
    ("ViTImageProcessor", {"size": {"height": 48, "width": 32}, "resample": 0, "do_normalize": False}),
    ("ViTImageProcessor", {"do_resize": False, "do_center_crop": True, "crop_size": 50}),
    ("CLIPImageProcessor", {}),
    ("CLIPImageProcessor", {"size": {"shortest_edge": 30}, "crop_size": {"height": 40, "width": 35}}),
    ("CLIPImageProcessor", {"size": 224, "crop_size": 224, "image_mean": 0.4, "image_std": 0.3}),
    ("BitImageProcessor", {"size": {"shortest_edge": 256}, "image_mean": [0.485, 0.456, 0.406]}),
    ("BitImageProcessor", {"do_rescale": False, "do_normalize": False}),
    ("ConvNextImageProcessor", {}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3}),
    ("ConvNextImageProcessor", {"size": 64, "crop_pct": 0.95}),
    ("MobileNetV1ImageProcessor", {}),
    ("MobileNetV2ImageProcessor", {}),
    ("MobileNetV2ImageProcessor", {"rescale_factor": 0.01, "do_convert_rgb": True}),
    ("DeiTImageProcessor", {}),
    ("SiglipImageProcessor", {}),
]


def folder_with(tmp_path: Path, about: dict[str, Any], name: str = "preprocessor_config.json") -> Source:
    (tmp_path / name).write_text(json.dumps(about))
    return Source(model="a model", folder=tmp_path)


def part_of(tmp_path: Path, about: dict[str, Any], **options: object) -> ImagePart:
    return image_part(folder_with(tmp_path, about), Options.model_validate(options), "cls", "ViTImageProcessor")


def picture(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.model
@pytest.mark.parametrize("name, about", PROCESSORS)
def test_pixels_are_those_of_transformers_own_processor(name: str, about: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    part = part_of(tmp_path, {"image_processor_type": name} | about)
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    for width, height in SIZES:
        image = picture(width, height)
        ours = normalised(pixels(image, part)[None], part)
        theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"], dtype=np.float32)
        assert (ours.shape, ours.dtype) == ((1, 3, *part.shape), np.float32)
        # Unscaled values go to 255: what counts there is the last bit of a float32.
        np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=1e-6, err_msg=f"{width} x {height}")


def test_a_saved_processor_means_the_same_as_its_defaults(tmp_path: Path) -> None:
    part = part_of(tmp_path, {"image_processor_type": "CLIPImageProcessor"})
    assert part.model_dump(exclude_defaults=True) == {
        "pooling": "cls",
        "resize": "shortest",
        "size": (224, 224),
        "kernel": "bicubic",
        "crop": (224, 224),
        "rescale": 1 / 255,
        "mean": (0.48145466, 0.4578275, 0.40821073),
        "std": (0.26862954, 0.26130258, 0.27577711),
    }
    assert part.shape == (224, 224)


@pytest.mark.parametrize(
    "about",
    [
        {"image_processor_type": "ConvNextImageProcessorFast"},
        {"image_processor_type": "ConvNextImageProcessorPil"},
        {"feature_extractor_type": "ConvNextFeatureExtractor"},
        {"image_processor_type": "ConvNextImageProcessor", "size": None, "resample": None},
    ],
)
def test_older_and_faster_names_mean_the_same_processor(about: dict[str, Any], tmp_path: Path) -> None:
    expected = part_of(tmp_path, {"image_processor_type": "ConvNextImageProcessor"})
    assert part_of(tmp_path, about) == expected


def test_a_file_that_names_no_processor_has_that_of_its_model(tmp_path: Path) -> None:
    part = part_of(tmp_path, {"size": 96, "resample": 2, "do_resize": True})
    assert (part.resize, part.size, part.kernel, part.crop) == ("exact", (96, 96), "bilinear", None)


def test_a_processor_saved_within_a_whole_one_is_found_and_goes_first(tmp_path: Path) -> None:
    inner = {"image_processor_type": "CLIPImageProcessor", "crop_size": 32, "size": {"shortest_edge": 32}}
    folder_with(tmp_path, {"image_processor": inner, "processor_class": "CLIPProcessor"}, "processor_config.json")
    assert part_of(tmp_path, {"image_processor_type": "ViTImageProcessor"}).shape == (32, 32)


def test_a_whole_processor_without_an_image_part_leaves_it_to_the_other_file(tmp_path: Path) -> None:
    folder_with(tmp_path, {"processor_class": "CLIPProcessor"}, "processor_config.json")
    assert part_of(tmp_path, {"image_processor_type": "ViTImageProcessor"}).resize == "exact"


@pytest.mark.parametrize(
    "about, edge, expected",
    [
        ({"image_processor_type": "ViTImageProcessor"}, 96, ("exact", (96, 96), None)),
        ({"image_processor_type": "MobileNetV2ImageProcessor"}, 160, ("shortest", (182, 182), (160, 160))),
        ({"image_processor_type": "DeiTImageProcessor"}, 112, ("exact", (128, 128), (112, 112))),
        ({"image_processor_type": "ConvNextImageProcessor"}, 224, ("shortest", (256, 256), (224, 224))),
        ({"image_processor_type": "ConvNextImageProcessor", "size": 224}, 384, ("exact", (384, 384), None)),
        (
            {"image_processor_type": "CLIPImageProcessor", "do_resize": False},
            64,
            ("none", (64, 64), (64, 64)),
        ),
    ],
)
def test_another_edge_cuts_off_as_much_around_it(
    about: dict[str, Any], edge: int, expected: tuple[object, ...], tmp_path: Path
) -> None:
    part = part_of(tmp_path, about, resize=edge)
    assert (part.resize, part.size, part.crop) == expected


def test_another_kernel_is_another_part_and_other_pixels(tmp_path: Path) -> None:
    parts = [part_of(tmp_path, {"size": 32}, kernel=kernel) for kernel in KERNELS]
    assert [part.kernel for part in parts] == ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
    assert len({pixels(picture(100, 80), part).tobytes() for part in parts}) == 6


@pytest.mark.parametrize(
    "options, problems",
    [
        ({"resize": 31}, "resize= is 32 to 2048 pixels"),
        ({"kernel": "cubic"}, "kernel= is one of nearest, box, bilinear, hamming, bicubic, lanczos, not 'cubic'"),
        (
            {"resize": 4000, "kernel": ""},
            "resize= is 32 to 2048 pixels; kernel= is one of nearest, box, bilinear, hamming, bicubic, lanczos, not ''",
        ),
    ],
)
def test_edges_and_kernels_that_cannot_be_are_refused(options: dict[str, object], problems: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArguments) as caught:
        part_of(tmp_path, {}, **options)
    assert str(caught.value) == f"register: {problems}."


@pytest.mark.parametrize(
    "about, found",
    [
        ({"do_pad": True}, "it pads pictures"),
        (
            {"size": {"shortest_edge": 224, "longest_edge": 400}},
            "its sizes are neither a height and a width nor the shorter edge",
        ),
        ({"size": {"shortest_edge": 224}}, "it leaves pictures of different shapes different"),
        ({"do_resize": False}, "it leaves pictures of different shapes different"),
        ({"resample": 9}, "its resample is no kernel of Pillow's"),
        ({"image_mean": [0.5, 0.5]}, "its mean and std are not those of three colours"),
        ({"image_std": ["a", "b", "c"]}, "could not convert string to float: 'a'"),
        ({"rescale_factor": [1]}, "its values make no sense"),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"height": 8, "width": 8}},
            "it gives more than the shorter edge",
        ),
    ],
)
def test_what_is_not_done_here_is_refused(about: dict[str, Any], found: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable) as caught:
        part_of(tmp_path, about)
    assert str(caught.value) == (
        f"model 'a model' cannot be used: its preprocessor_config.json asks for what raystore does not do: {found}. "
        "Choose a model whose processor resizes or crops to one size."
    )


def test_an_unknown_processor_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable) as caught:
        part_of(tmp_path, {"image_processor_type": "Mask2FormerImageProcessor"})
    assert str(caught.value) == (
        "model 'a model' cannot be used: its image processor is 'Mask2FormerImageProcessor'. raystore runs "
        "BitImageProcessor, CLIPImageProcessor, ConvNextImageProcessor, DeiTImageProcessor, MobileNetV1ImageProcessor, "
        "MobileNetV2ImageProcessor, SiglipImageProcessor, ViTImageProcessor."
    )


@pytest.mark.parametrize(
    "text, found",
    [
        (None, "it has no preprocessor_config.json, so nobody knows how its pictures are to be resized"),
        ("{", "its preprocessor_config.json cannot be read"),
        ("[]", "its preprocessor_config.json cannot be read"),
    ],
)
def test_a_folder_without_a_readable_processor_is_refused(text: str | None, found: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(ModelUnusable) as caught:
        image_part(Source(model="a model", folder=tmp_path), Options(), "cls", "ViTImageProcessor")
    assert caught.value.found == found
    assert pickle.loads(pickle.dumps(caught.value)).found == found


def test_a_picture_too_long_and_thin_to_be_resized_is_refused(tmp_path: Path) -> None:
    part = part_of(tmp_path, {"image_processor_type": "CLIPImageProcessor"})
    with pytest.raises(BadImage) as caught:
        pixels(Image.new("RGB", (1, 100_000)), part)
    assert caught.value.reason == "is 1 by 100,000 pixels, too long and thin to be resized"
    assert pixels(Image.new("RGB", (100, 10_000)), part).shape == (224, 224, 3)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 120), st.integers(1, 120), st.integers(8, 40), st.integers(8, 40), st.sampled_from(["exact", "shortest"])
)
def test_every_picture_comes_out_in_the_one_shape(width: int, height: int, edge: int, crop: int, resize: Any) -> None:
    part = ImagePart(pooling="cls", resize=resize, size=(edge, edge), kernel="bicubic", crop=(crop, crop), rescale=1 / 255)
    found = pixels(picture(width, height), part)
    assert (found.shape, found.dtype) == ((crop, crop, 3), np.uint8)


def test_the_probes_are_twelve_pictures_that_never_change() -> None:
    import hashlib

    pictures = [read_image(data) for data in image_probes()]
    total = hashlib.sha256()
    for data, image in zip(image_probes(), pictures, strict=True):
        if data.startswith(b"\x89PNG"):  # a JPEG decoder may differ in a last bit
            total.update(f"{image.size}".encode() + image.tobytes())
    assert [image.size for image in pictures] == [
        *((64, 48), (40, 160), (300, 20), (128, 128), (96, 96), (1, 1), (250, 250), (500, 375), (224, 224), (320, 240)),
        *((72, 56), (56, 72)),
    ]
    assert total.hexdigest() == "7994abf867e13123062e2bf633eb3fa5090c7157a953d98f9552d4b27efbd434"


def test_sampled_pictures_are_different_and_the_same_at_every_call() -> None:
    found = sample_images(40)
    assert len(set(found)) == 40
    assert found[:5] == sample_images(5)
    assert not set(found) & set(sample_images(40, seed=1))
    assert {read_image(data).mode for data in found} == {"RGB"}
