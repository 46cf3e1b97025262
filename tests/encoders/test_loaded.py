from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raystore.encoders.ahead import ahead
from raystore.encoders.registry import Encoder, Encoders
from raystore.errors import InvalidVectors, ItemsUnusable
from tests.pictures import PICTURES


@pytest.fixture
def clip(encoders: Encoders, tiny_clip: Path) -> Encoder:
    return encoders.register("clip", tiny_clip)


def test_texts_and_images_of_one_list_come_back_in_their_places(clip: Encoder) -> None:
    assert clip.passport.modalities == ("text", "image")
    items = ["hello world", PICTURES[0], "the card", PICTURES[3], PICTURES[4]]
    together = clip.encode(items)
    assert (together.shape, together.dtype, together.fingerprint) == ((5, 16), np.float32, clip.fingerprint)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(together[[0, 2]], clip.encode(["hello world", "the card"]), atol=1e-4)
    np.testing.assert_allclose(together[[1, 3, 4]], clip.encode([PICTURES[0], PICTURES[3], PICTURES[4]]), atol=1e-4)
    assert together[3] @ together[4] > together[1] @ together[4]  # blue is nearer to blue than red is


def test_a_path_a_pillow_image_and_bytes_are_the_same_item(clip: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(PICTURES[1])
    rows = clip.encode([PICTURES[1], path, Image.open(io.BytesIO(PICTURES[1]))])
    np.testing.assert_allclose(rows[1:], rows[[0, 0]], atol=1e-5)


def test_images_that_cannot_be_read_are_named_and_the_others_have_vectors(clip: Encoder) -> None:
    items = [PICTURES[0], b"", "hello", PICTURES[1][:60], b"<html>no</html>", PICTURES[2]]
    reasons = {1: "is empty", 3: "is cut off", 4: "is no image file"}
    found = clip.load().encode_each(items)
    assert found.problems == reasons
    assert found.places.tolist() == [0, 2, 5]
    np.testing.assert_allclose(found.vectors, clip.encode([PICTURES[0], "hello", PICTURES[2]]), atol=1e-4)
    with pytest.raises(ItemsUnusable) as caught:
        clip.encode(items)
    assert str(caught.value) == (
        f"encode with {clip.label}: 3 of 6 items are unusable: item 1 is empty; item 3 is cut off; item 4 is no image file."
    )
    assert caught.value.problems == sorted(reasons.items())


def test_a_text_is_refused_by_an_encoder_of_images(encoders: Encoders, tiny_vit: Path) -> None:
    vit = encoders.register("vit", tiny_vit)
    assert vit.encode(PICTURES[:2]).shape == (2, 32)
    found = vit.load().encode_each([PICTURES[0], "secret"])
    assert found.problems == {1: "is a text, and this encoder takes images"}
    assert vit.load().count_tokens(["hello"]) == 0


def test_more_images_than_a_batch_keep_their_order(encoders: Encoders, tiny_vit: Path) -> None:
    loaded = encoders.register("vit", tiny_vit).load()
    items = [PICTURES[i % 6] if i % 7 else b"" for i in range(100)]
    found = loaded.encode_each(items)
    assert sorted(found.problems) == list(range(0, 100, 7))
    single = loaded.encode(PICTURES)
    np.testing.assert_allclose(found.vectors, single[[i % 6 for i in found.places]], atol=1e-4)


def test_a_vector_without_direction_is_refused_by_its_place(
    encoders: Encoders, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSTORE_BACKEND", "torch")
    loaded = encoders.register("tiny", tiny_model).load()
    backend = loaded._backends["text"]
    run = backend.run

    def spoiled(inputs: object) -> np.ndarray:
        rows = run(inputs)  # type: ignore[arg-type]
        rows[0] = np.nan
        return rows

    monkeypatch.setattr(backend, "run", spoiled)
    with pytest.raises(InvalidVectors, match="vector 1 holds NaN or infinity"):
        loaded.encode(["a", "the longest comes first", "b"])
    found = loaded.encode_each(["a", "the longest comes first", "b"])
    assert (found.places.tolist(), found.problems) == ([0, 2], {1: "its vector holds NaN or infinity"})


def test_rows_that_a_graph_puts_out_too_long_come_out_unit(
    encoders: Encoders, tiny_vit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = encoders.register("vit", tiny_vit).load()
    expected = loaded.encode(PICTURES)
    backend = loaded._backends["image"]
    run = backend.run
    monkeypatch.setattr(backend, "run", lambda inputs: run(inputs) * np.float32(1.126))
    found = loaded.encode(PICTURES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_generator_run_ahead_gives_the_same_and_raises_in_its_place() -> None:
    def three() -> object:
        yield 1
        yield 2
        raise ValueError("third")

    assert list(ahead(iter(range(50)))) == list(range(50))
    running = ahead(three())  # type: ignore[arg-type]
    assert [next(running), next(running)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(running)
    for item in ahead(iter(range(1_000_000))):
        if item == 3:
            break  # ends the thread
