from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raystore.encoders.golden import PROBES
from raystore.encoders.registry import Encoder, Encoders, open_encoder
from raystore.errors import EncoderNotFound, GoldenMoved, InvalidArguments, InvalidName, ItemsUnusable, ModelUnusable
from raystore.layout import numbers
from raystore.vectors import Vectors

from .test_text import change_one_weight

Copy = Callable[[str], Path]
pytestmark = pytest.mark.usefixtures("on_torch")


def records(encoders: Encoders, name: str) -> list[int]:
    return numbers(encoders._catalog.layout.aliases("encoder", name))


def test_register_encode_and_find_again(encoders: Encoders, tiny_model: Path) -> None:
    tiny = encoders.register("tiny", tiny_model)
    vectors = tiny.encode(["hello world", "the card never arrived"])
    assert isinstance(vectors, Vectors)
    assert (vectors.shape, vectors.dtype, vectors.fingerprint) == ((2, 32), np.float32, tiny.fingerprint)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert encoders.names() == ["tiny"]
    assert "tiny" in encoders
    for asked in ("tiny", tiny.label, tiny.fingerprint, tiny.fingerprint[:12], tiny.fingerprint[:20]):
        found = encoders[asked]
        assert (found, found.name) == (tiny, "tiny")
        assert encoders.resolve(asked) == tiny.passport
    assert repr(tiny) == f"Encoder('{tiny.label}', dim=32, BertModel, max_length=64, pooling='mean', loaded)"
    assert repr(encoders) == "Encoders(tiny)"


def test_registering_again_changes_nothing(encoders: Encoders, tiny_model: Path, copy_of_tiny: Copy) -> None:
    first = encoders.register("tiny", tiny_model)
    folder = encoders._catalog.layout.encoder(first.fingerprint)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert encoders.register("tiny", tiny_model) == first
    assert encoders.register("tiny", copy_of_tiny("elsewhere")) == first
    assert records(encoders, "tiny") == [1]
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_a_source_that_moved_is_recorded_anew(encoders: Encoders, copy_of_tiny: Copy) -> None:
    first = encoders.register("tiny", copy_of_tiny("old"))
    (copy_of_tiny("new").parent / "old").rename(copy_of_tiny("third").parent / "gone")
    again = encoders.register("tiny", copy_of_tiny("fourth"))
    assert (again, records(encoders, "tiny")) == (first, [1, 2])
    assert again.encode(["hello"]).shape == (1, 32)


def test_another_model_under_a_name_is_a_new_record_and_the_old_encoder_stays(encoders: Encoders, tiny_model: Path) -> None:
    old = encoders.register("tiny", tiny_model)
    new = encoders.register("tiny", tiny_model, pooling="cls")
    assert new != old
    assert records(encoders, "tiny") == [1, 2]
    assert encoders["tiny"] == new
    assert encoders[old.fingerprint] == old
    assert encoders[old.label].name == old.fingerprint[:12]
    assert encoders[old.fingerprint].encode(["hello"]).fingerprint == old.fingerprint


def test_two_names_may_mean_one_encoder(encoders: Encoders, tiny_model: Path) -> None:
    one, other = encoders.register("tiny", tiny_model), encoders.register("tiny-two", tiny_model)
    assert one == other
    assert (one.name, other.name, encoders.names()) == ("tiny", "tiny-two", ["tiny", "tiny-two"])


def test_an_unknown_encoder_is_refused_with_the_names_there_are(encoders: Encoders, tiny_model: Path) -> None:
    root = encoders._catalog.layout.root
    with pytest.raises(EncoderNotFound) as caught:
        encoders["minilm"]
    assert str(caught.value) == f"no encoder 'minilm' in store '{root}'. It has no encoder."
    encoders.register("tiny", tiny_model)
    for asked in ("minilm", "0" * 64, "ab", "../tiny"):
        with pytest.raises(EncoderNotFound) as caught:
            encoders.get(asked)
        assert str(caught.value) == f"no encoder '{asked}' in store '{root}'. It has: 'tiny'."
    with pytest.raises(EncoderNotFound):
        open_encoder(encoders._catalog.layout, "f" * 64)


@pytest.mark.parametrize("name", ["", "Tiny", "a b", "../x", "x" * 64, 5])
def test_a_bad_name_is_refused_before_anything_is_loaded(encoders: Encoders, name: str) -> None:
    with pytest.raises(InvalidName):
        encoders.register(name, "nobody/nothing")
    assert encoders.names() == []


def test_a_name_that_reads_as_a_fingerprint_is_refused(encoders: Encoders, tiny_model: Path) -> None:
    with pytest.raises(InvalidArguments) as caught:
        encoders.register("abcdefabcdef", tiny_model)
    assert str(caught.value) == (
        "register: the name 'abcdefabcdef' is 12 hexadecimal digits, which would be read as a fingerprint: choose another."
    )


def test_changed_weights_are_refused_with_both_digests(encoders: Encoders, copy_of_tiny: Copy) -> None:
    folder = copy_of_tiny("model")
    tiny = encoders.register("tiny", folder)
    change_one_weight(folder)
    with pytest.raises(ModelUnusable) as caught:
        tiny.encode(["hello"])
    other = encoders.register("other", folder)
    assert str(caught.value) == (
        f"model '{folder}' cannot be used: its weights changed since {tiny.label} was registered: digest "
        f"{other.passport.weights}, expected {tiny.passport.weights}. Put the old weights back, or register what is "
        "there now under a name of its own."
    )
    with pytest.raises(ModelUnusable):
        tiny.verify()


def test_a_changed_tokenizer_is_refused_by_name(encoders: Encoders, copy_of_tiny: Copy) -> None:
    folder = copy_of_tiny("model")
    tiny = encoders.register("tiny", folder)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"hello"', '"hallo"'))
    (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text().replace("hello", "hallo"))
    with pytest.raises(ModelUnusable) as caught:
        tiny.encode(["hello"])
    assert f"it changed since {tiny.label} was registered (text.tokenizer): fingerprint" in str(caught.value)
    assert tiny.fingerprint in str(caught.value)


def test_a_model_folder_that_is_gone_is_said(encoders: Encoders, copy_of_tiny: Copy) -> None:
    folder = copy_of_tiny("model")
    tiny = encoders.register("tiny", folder)
    shutil.rmtree(folder)
    with pytest.raises(ModelUnusable) as caught:
        tiny.encode(["hello"])
    assert "there is no such folder" in str(caught.value)


def test_weights_that_are_missing_from_the_files_are_refused(encoders: Encoders, copy_of_tiny: Copy) -> None:
    from safetensors.numpy import load_file, save_file

    folder = copy_of_tiny("partial")
    tensors = load_file(folder / "model.safetensors")
    dropped = next(n for n in sorted(tensors) if n.endswith("attention.output.dense.weight"))
    del tensors[dropped]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnusable) as caught:
        encoders.register("tiny", folder)
    assert f"1 of its {len(tensors) + 1} tensors are missing from its files" in str(caught.value)
    assert encoders.names() == []


def test_golden_vectors_that_moved_stop_the_load(
    encoders: Encoders, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raystore.encoders.torch_backend import TorchBackend

    tiny = encoders.register("tiny", tiny_model)
    assert tiny.verify() >= 0.9999
    run = TorchBackend.run
    monkeypatch.setattr(TorchBackend, "run", lambda self, inputs: run(self, inputs)[:, ::-1])
    with pytest.raises(GoldenMoved) as caught:
        tiny.encode(["hello"])
    assert caught.value.encoder == tiny.label
    with pytest.raises(GoldenMoved):
        tiny.verify()


@pytest.mark.parametrize("file", ["passport.json", "golden.safetensors"])
def test_a_damaged_record_is_refused(encoders: Encoders, tiny_model: Path, file: str) -> None:
    tiny = encoders.register("tiny", tiny_model)
    path = encoders._catalog.layout.encoder(tiny.fingerprint) / file
    path.write_bytes(path.read_bytes().replace(b"mean", b"nope") + b"?")
    with pytest.raises(ModelUnusable, match=r"registered with|was registered"):
        encoders[tiny.fingerprint].encode(["hello"])


def test_bad_items_are_refused_without_being_quoted(encoders: Encoders, tiny_model: Path) -> None:
    tiny = encoders.register("tiny", tiny_model)
    list_of = "expected a list of texts (str) or image files (bytes)"
    for items, problem in (
        ("secret", "the items are one string, expected a list of them: encode([text])"),
        (b"secret", "the items are one image, expected a list of them: encode([image])"),
        (None, f"the items are a NoneType, {list_of}"),
        (["ok", None, 5], "item 1 is a NoneType, expected a string or bytes; item 2 is a int, expected a string or bytes"),
        ([None] * 7, "; ".join(f"item {i} is a NoneType, expected a string or bytes" for i in range(5)) + "; and 2 more"),
    ):
        with pytest.raises(InvalidArguments) as caught:
            tiny.encode(items)  # type: ignore[arg-type]
        assert str(caught.value) == f"encode: {problem}."


def test_an_image_is_refused_by_an_encoder_of_texts(encoders: Encoders, tiny_model: Path, tmp_path: Path) -> None:
    tiny = encoders.register("tiny", tiny_model)
    with pytest.raises(ItemsUnusable) as caught:
        tiny.encode(["hello", b"secret"])
    reason = "is an image, and this encoder takes texts"
    assert str(caught.value) == f"encode with {tiny.label}: 1 of 2 items are unusable: item 1 {reason}."
    with pytest.raises(ItemsUnusable) as caught:
        tiny.encode([tmp_path / "nothing.png"])
    said = f"encode with {tiny.label}: 1 of 1 items are unusable: item 0 cannot be read (FileNotFoundError)."
    assert str(caught.value) == said
    each = tiny.load().encode_each(["hello", b"secret", "world"])
    assert (each.places.tolist(), each.problems) == ([0, 2], {1: reason})
    np.testing.assert_allclose(each.vectors, tiny.encode(["hello", "world"]), atol=1e-5)


def test_no_texts_give_no_rows(encoders: Encoders, tiny_model: Path) -> None:
    tiny = encoders.register("tiny", tiny_model)
    assert tiny.encode([]).shape == (0, 32)
    assert tiny.encode([]).fingerprint == tiny.fingerprint


def test_a_lone_surrogate_reads_as_the_replacement_character(encoders: Encoders, tiny_model: Path) -> None:
    tiny = encoders.register("tiny", tiny_model)
    np.testing.assert_array_equal(tiny.encode(["a \ud83d b"]), tiny.encode(["a \ufffd b"]))


@pytest.fixture(scope="module")
def loaded(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory):
    from raystore.catalog import Catalog, open_root

    layout, _ = open_root(tmp_path_factory.mktemp("store"), create=True)
    return Encoders(Catalog(layout)).register("tiny", tiny_model).load(backend="torch")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(codec=None), max_size=80), max_size=12))
def test_any_text_has_a_unit_vector_whatever_it_is_batched_with(loaded, texts: list[str]) -> None:
    together = loaded.encode(texts)
    assert together.shape == (len(texts), 32)
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_allclose(loaded.encode([text])[0], vector, atol=1e-5)


def test_texts_beyond_one_window_come_back_in_their_order(loaded) -> None:
    texts = [f"card {i % 97} {'blue ' * (i % 13)}" for i in range(4_500)]
    found = loaded.encode(texts)
    np.testing.assert_allclose(found[4_080:4_110], loaded.encode(texts[4_080:4_110]), atol=1e-5)


def test_several_threads_may_encode_at_once(loaded) -> None:
    from concurrent.futures import ThreadPoolExecutor

    expected = loaded.encode(PROBES)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: loaded.encode(PROBES), range(12)):
            np.testing.assert_array_equal(found, expected)


def test_a_handle_pickles_without_its_model(encoders: Encoders, tiny_model: Path) -> None:
    tiny = encoders.register("tiny", tiny_model)
    tiny.encode(["hello"])
    data = pickle.dumps(tiny)
    assert len(data) < 4_000
    again = pickle.loads(data)
    assert isinstance(again, Encoder)
    assert (again, again.label) == (tiny, tiny.label)
    np.testing.assert_array_equal(again.encode(["hello"]), tiny.encode(["hello"]))
