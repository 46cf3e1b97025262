from __future__ import annotations

import io
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

import raystore.fine_tune.examples.marks.shingles as shingles
from raystore.encoders.images import read_image
from raystore.encoders.pixels import pixels
from raystore.fine_tune.examples.leaks import OUT, TEST, TRAIN, VAL, Leaks, guard
from raystore.fine_tune.examples.marks.perceptual import ImageMarker, ImageMarks, look_of
from raystore.fine_tune.examples.marks.shingles import SKETCH, THRESHOLD, WIDTH, TextMarker, TextMarks, normalised
from raystore.fine_tune.examples.plan import plan_data
from raystore.fine_tune.examples.read import read_sides
from tests.fine_tune.example_files import IMAGE, text_reader, write
from tests.pictures import png


def marks(texts: list[str]) -> TextMarks:
    marker = TextMarker()
    marker.add(texts)
    return marker.finish()


def near(one: str, other: str) -> bool:
    return bool(marks([one, other]).near(np.array([0]), np.array([1]))[0])


def jaccard(one: str, other: str) -> float:
    """By the definition, over the normalised texts' shingles."""
    sets = []
    for text in (one, other):
        padded = f" {normalised(text)} ".ljust(WIDTH, "\0")
        sets.append({padded[i : i + WIDTH] for i in range(len(padded) - WIDTH + 1)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_case_signs_and_spaces_make_no_other_text() -> None:
    texts = ["My card hasn't arrived!", " my  card hasn t arrived", "MY CARD HASN'T ARRIVED", "ｍｙ card hasn't arrived?"]
    keys = marks([*texts, "my card has arrived", "!?", "?!", "机器"]).keys
    assert len(set(keys[:4].tolist())) == 1
    assert len(set(keys.tolist())) == 5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How long does a transfer to my account take?", "How long does a transfr to my account take"),
        ("Where is my card, it never arrived here", "it never arrived here. Where is my card?"),
        ("word salad is what this is " * 90, "word salad is what this is " * 60),
    ],
)
def test_a_typo_a_turned_sentence_and_a_repetition_are_near(one: str, other: str) -> None:
    assert near(one, other)
    assert near(other, one)


def test_another_word_in_a_short_text_is_another_text() -> None:
    assert not near("what is my card limit", "what is my data limit")
    assert not near("yes", "no")


words = st.lists(st.sampled_from(["a", "card", "never", "arrived", "the", "limit", "of", "ünï", "7"]), max_size=14).map(
    " ".join
)


@given(st.lists(words, min_size=1, max_size=14), st.lists(words, min_size=1, max_size=14))
@settings(max_examples=80, deadline=None)
def test_near_is_the_jaccard_of_the_shingles_for_short_texts(rows: list[str], others: list[str]) -> None:
    assert all(len(text) + 2 < SKETCH for text in rows + others)
    found = marks(rows + others).near(np.arange(len(rows)), len(rows) + np.arange(len(others)))
    assert found.tolist() == [any(jaccard(row, other) >= THRESHOLD for other in others) for row in rows]


def test_long_texts_are_told_by_an_estimate_that_is_close() -> None:
    rng = np.random.default_rng(5)
    vocabulary = ["".join(rng.choice(list("abcdefghijklmnop"), 7)) for _ in range(2_000)]
    for changed, expected in ((0.01, True), (0.02, True), (0.2, False), (0.6, False)):
        pairs = []
        for _ in range(20):
            one = rng.choice(vocabulary, 400)
            other = np.where(rng.random(400) < changed, rng.choice(vocabulary, 400), one)
            pairs.append((" ".join(one), " ".join(other)))
        assert {jaccard(*pair) >= THRESHOLD for pair in pairs} == {expected}
        texts = marks([one for one, _ in pairs] + [other for _, other in pairs])
        assert set(texts.near(np.arange(20), np.arange(20, 40)).tolist()) == {expected}


def test_many_texts_of_one_template_are_compared_in_bounded_memory() -> None:
    texts = [f"order number {i} has not been delivered to the address that was given for it" for i in range(400)]
    assert marks(texts).near(np.arange(300), np.arange(300, 400)).all()


def test_how_many_pairs_are_looked_at_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    texts = [" ".join(rng.choice(["card", "never", "arrived", "limit", "blue", "tax"], 9)) for _ in range(300)]
    expected = marks(texts).near(np.arange(200), np.arange(200, 300))
    assert 0 < expected.sum() < 200
    for name in ("_PAIRS", "_VERIFIED"):
        monkeypatch.setattr(shingles, name, 7)
    assert np.array_equal(marks(texts).near(np.arange(200), np.arange(200, 300)), expected)


def look(picture: Image.Image, **options: object) -> tuple[bytes, npt.NDArray[np.uint8]]:
    buffer = io.BytesIO()
    picture.save(buffer, **({"format": "PNG"} | options))  # type: ignore[arg-type]
    return buffer.getvalue(), pixels(
        read_image(buffer.getvalue()), IMAGE.model_copy(update={"size": (64, 64), "crop": (64, 64)})
    )


def image_marks(files: list[tuple[bytes, npt.NDArray[np.uint8]]]) -> ImageMarks:
    marker = ImageMarker()
    marker.add([data for data, _ in files], [look_of(seen) for _, seen in files])
    return marker.finish()


def scene(seed: int) -> Image.Image:
    """Soft blobs of colour, as a photograph far away."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (7, 7, 3)).astype(np.uint8))
    return small.resize((160, 160), Image.Resampling.BICUBIC)


def test_a_picture_saved_again_smaller_or_lighter_is_near_and_another_is_not() -> None:
    original = scene(1)
    twins = [
        look(original, format="JPEG", quality=60),
        look(original.resize((90, 90))),
        look(ImageEnhance.Brightness(original).enhance(1.04)),
    ]
    others = [look(scene(seed)) for seed in range(2, 40)]
    found = image_marks([look(original), *twins, *others])
    assert found.near(np.arange(1, 4), np.array([0])).tolist() == [True] * 3
    assert not found.near(np.arange(4, 42), np.array([0])).any()
    assert len(set(found.keys.tolist())) == 42


def test_a_picture_of_another_colour_is_not_near_though_it_is_alike_in_grey() -> None:
    shown = [
        (data, pixels(read_image(data), IMAGE)) for data in (png((220, 30, 30)), png((30, 30, 220)), png((222, 31, 30)))
    ]
    found = image_marks(shown)
    assert found.near(np.array([1, 2]), np.array([0])).tolist() == [False, True]


def test_rows_leave_by_the_first_reason_that_holds_and_test_stays_whole() -> None:
    texts = ["alpha beta gamma delta", "zeta eta theta iota", "Zeta eta theta iota!", "one two three four five six seven"]
    texts += ["one two three four five six sevens", "kappa lambda my nu", "xi omikron pi rho", "kappa lambda my nu"]
    sides = np.array([TRAIN, TRAIN, TEST, VAL, TEST, TRAIN, TEST, VAL])
    entities = np.array([6, 1, 2, 3, 4, 5, 6, 7])
    found = guard(sides, [marks(texts)], np.zeros(8, np.int64), entities)
    assert found.sides.tolist() == [OUT, OUT, TEST, OUT, TEST, TRAIN, TEST, OUT]
    assert found.reasons == {
        0: "its entity stands in test",
        1: "its content stands in test",
        3: "a near-duplicate of it stands in test",
        7: "its content stands in train",
    }
    assert found.counts == {TRAIN: {"entity": 1, "same": 1, "near": 0}, VAL: {"entity": 0, "same": 1, "near": 1}}


def test_a_pair_leaks_with_either_half_and_a_text_is_sought_among_both() -> None:
    questions = ["alpha beta gamma delta", "zeta eta theta iota", "kappa lambda my nu", "xi omikron pi rho"]
    answers = ["sigma tau ypsilon", "phi chi psi omega", "Sigma tau ypsilon!", "zeta eta theta iota"]
    pictures = image_marks([look(scene(seed)) for seed in (1, 2, 3, 2)])
    sides, labels = np.array([TRAIN, VAL, TEST, TEST]), np.full(4, -1)
    of_texts = guard(sides, [marks(questions).joined([marks(answers)])], labels)
    assert of_texts.reasons == {0: "its content stands in test", 1: "its content stands in test"}
    of_both = guard(sides, [pictures, marks(answers)], labels)
    assert of_both.reasons == {0: "its content stands in test", 1: "its content stands in test"}
    of_pictures = guard(sides, [pictures, marks(questions)], labels)
    assert of_pictures.sides.tolist() == [TRAIN, OUT, TEST, TEST]


def test_joined_marks_are_those_of_all_contents_in_order() -> None:
    texts = ["alpha beta gamma", "", "zeta eta theta iota", "alpha beta gamma!"]
    one, other = marks(texts[:2]).joined([marks(texts[2:3]), marks(texts[3:])]), marks(texts)
    assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("keys", "sketches", "offsets"))
    shown = [look(scene(seed)) for seed in range(3)]
    joined, whole = image_marks(shown[:1]).joined([image_marks(shown[1:])]), image_marks(shown)
    assert all(np.array_equal(getattr(joined, name), getattr(whole, name)) for name in ("keys", "hashes", "colours"))


@given(st.lists(st.tuples(words, st.integers(0, 2), st.integers(-1, 2)), max_size=16))
@settings(max_examples=50, deadline=None)
def test_after_the_guard_no_side_holds_a_twin_of_another(rows: list[tuple[str, int, int]]) -> None:
    texts, sides = [text for text, *_ in rows], np.array([side for _, side, _ in rows], np.int64)
    found = guard(sides, [marks(texts)], np.array([label for *_, label in rows], np.int64))
    assert np.array_equal(found.sides == TEST, sides == TEST)
    of = {side: [texts[row] for row in np.flatnonzero(found.sides == side)] for side in (TRAIN, VAL, TEST)}
    for one, other in ((TRAIN, TEST), (VAL, TEST), (TRAIN, VAL)):
        assert all(jaccard(a, b) < THRESHOLD for a, b in product(of[one], of[other]))
    assert len(found.reasons) == sum(n for counts in found.counts.values() for n in counts.values())


def test_equal_contents_with_two_labels_are_counted_and_stay() -> None:
    texts = marks(["a card", "A card", "a card.", "a limit", "a limit"])
    found = guard(np.zeros(5, np.int64), [texts], np.array([0, 1, -1, 2, 2]))
    assert (found.two_labels.tolist(), found.sides.tolist()) == ([0, 1], [TRAIN] * 5)


def test_what_was_removed_is_said_in_a_sentence_a_side() -> None:
    leaks = Leaks({"entity": 1, "same": 25, "near": 1_111}, {"entity": 0, "same": 1, "near": 0}, two_labels=1)
    assert str(leaks) == (
        "1,137 rows of train were removed (1 by entity, 25 by content, 1,111 as near-duplicates). "
        "1 row of val was removed (1 by content). 1 row of train stands there with another label too."
    )
    assert str(Leaks()) == "No row of train or val stands in the evaluation."
    assert (leaks.removed, leaks.to_dict()) == (1_138, {"train": leaks.train, "val": leaks.val, "two_labels": 1})


def test_an_entity_of_the_test_files_leaves_the_data_and_ids_alone_do_not(tmp_path: Path) -> None:
    def row(i: int, who: str, text: str) -> dict[str, str]:
        return {"id": str(i), "text": text, "label": "ab"[i % 2], "who": who}

    texts = ["zebra crossing", "quiet harbour", "velvet monkey", "tax window", "jazz pillow", "fog needle"]
    data = write(tmp_path / "data.parquet", [row(i, f"p-{i}", text) for i, text in enumerate(texts[:4])])
    test = write(tmp_path / "test.parquet", [row(0, "p-3", texts[4]), row(1, "p-9", texts[5])])
    by_id = read_sides(plan_data(data, text="text", label="label", id="id", test=test), text_reader())
    assert by_id.leaks == Leaks()
    by_person = read_sides(plan_data(data, text="text", label="label", id="id", subject="who", test=test), text_reader())
    assert by_person.leaks.rows == ((str(data), 3, "3", "its entity stands in test"),)
    assert by_person.leaks.removed == 1


def test_the_twins_of_real_questions_are_found(datasets: Path) -> None:
    found = [pq.read_table(datasets / "banking77" / f"{name}.parquet", columns=["text"]) for name in ("train", "test")]
    n_train, texts = len(found[0]), [text for table in found for text in table.column("text").to_pylist()]
    sides = np.where(np.arange(len(texts)) < n_train, TRAIN, TEST)
    guarded = guard(sides, [marks(texts)], np.zeros(len(texts), np.int64))
    # As published, 25 test texts stand in train too.
    assert guarded.counts[TRAIN]["same"] == 25
    assert 0 < guarded.counts[TRAIN]["near"] < 250
