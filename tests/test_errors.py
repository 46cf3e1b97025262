from __future__ import annotations

import inspect
import json
import pickle
import re
from dataclasses import fields

import cloudpickle
import pytest

from raystore import errors
from raystore.errors import InvalidArguments, Quoting, RaystoreError, listed

CLASSES = [
    c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, RaystoreError) and c is not RaystoreError
]
SAMPLES = {
    "str": "t 'ä'",
    "int": 7,
    "float": 0.5,
    "Sequence[str]": ["a'b", "ä"],
    "Mapping[str, Any]": {"existing": ["a'b"]},
    "Sequence[int]": [1, 3],
    "Sequence[tuple[int, str | None, str]]": [(0, None, "the id is null"), (2, "b", "the text is empty")],
    "Sequence[tuple[int, str]]": [(0, "is zero")],
}


def example(cls: type[RaystoreError]) -> RaystoreError:
    return cls(**{f.name: SAMPLES[str(f.type)] for f in fields(cls)})


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_an_error_arrives_whole_from_another_process(cls: type[RaystoreError], pickler: object) -> None:
    sent = example(cls)
    arrived = pickle.loads(pickler.dumps(sent))
    assert type(arrived) is cls
    assert arrived.facts == sent.facts
    assert set(sent.facts) == {f.name for f in fields(cls)}
    assert str(arrived) == str(sent)
    assert repr(arrived) == f"{cls.__name__}({str(sent)!r})"


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_a_problem_that_quotes_arrives_with_what_it_says_without(pickler: object) -> None:
    sent = InvalidArguments(call="gate", problems=[Quoting("'x' is no figure", unquoted="that is no figure")])
    (arrived,) = pickle.loads(pickler.dumps(sent)).problems
    assert (str(arrived), arrived.unquoted) == ("'x' is no figure", "that is no figure")


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_an_error_is_a_whole_sentence_with_its_facts(cls: type[RaystoreError]) -> None:
    sentence = str(example(cls))
    assert sentence == sentence.strip()
    assert "{" not in sentence
    assert "object at 0x" not in sentence
    assert sentence[-1] in ".'"  # an installation command ends as it is typed


def test_bad_arguments_end_with_one_mark_even_if_the_last_problem_asks() -> None:
    asks = "the file has the unknown key 'prot': did you mean 'port'?"
    assert str(InvalidArguments(call="serve", problems=["a is 0", asks])) == f"serve: a is 0; {asks}"
    assert str(InvalidArguments(call="serve", problems=[asks, "a is 0"])) == f"serve: {asks}; a is 0."


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_the_facts_of_an_error_go_into_json(cls: type[RaystoreError]) -> None:
    assert json.loads(json.dumps(example(cls).facts)).keys() == example(cls).facts.keys()


def drawn() -> dict[str, tuple[str, int]]:
    """Class -> (builtin, status) as the tree in the module's docstring draws them; children stand under their parent."""
    found: dict[str, tuple[str, int]] = {}
    parent = ("", 0)
    for line in (errors.__doc__ or "").splitlines():
        if match := re.search(r"[├└]── (\w+) \((\w+)\) +(\d{3})", line):
            parent = (match[2], int(match[3]))
            found[match[1]] = parent
        elif match := re.search(r"[├└]── ([\w, ]+)$", line):
            found |= dict.fromkeys(re.findall(r"\w+", match[1]), parent)
    return found


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    tree = drawn()
    assert sorted(tree) == sorted(c.__name__ for c in CLASSES)
    for cls in CLASSES:
        builtin, status = tree[cls.__name__]
        assert cls.status == status, cls
        assert builtin in {base.__name__ for base in cls.__mro__ if base.__module__ == "builtins"}, cls
        assert 400 <= cls.status < 600


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            errors.SnapshotNotFound(name="friday", where="store './store'", existing=["monday", "tuesday"]),
            "no snapshot 'friday' in store './store'. It has: 'monday', 'tuesday'.",
        ),
        (errors.TableNotFound(name="x", where="store 's'"), "no table 'x' in store 's'. It has no table."),
        (
            errors.IndexNotFound(name="i", where="collection 't'"),
            "no index over collection 't'. Build one: collection.build_index() or `raystore index build`.",
        ),
        (
            errors.StoreNotFound(name="/x", where="nothing is there"),
            "no store at '/x': nothing is there. Make one with raystore.open(root) on a folder that is empty or does not exist.",
        ),
        (
            errors.PassportMismatch(
                asker="head 'refunds@2'", expected="minilm@5f3c", found="mpnet@a81e", advice="Train a head on mpnet."
            ),
            "head 'refunds@2' expects minilm@5f3c, but was given mpnet@a81e. Train a head on mpnet.",
        ),
        (
            errors.NotBetter(
                encoder="minilm",
                metric="P@10",
                before=0.907,
                after=0.88,
                low=-0.035,
                high=-0.019,
                advice="Train again.",
                also=["linear head accuracy"],
            ),
            "encoder 'minilm' was not made live: its P@10 fell from 0.907 to 0.880 (difference -0.027, 95% interval -0.035 to "
            "-0.019), and so did 'linear head accuracy'. Train again.",
        ),
        (
            errors.ExtraNotInstalled(what="maps", package="umap-learn", extra="explore"),
            "maps need umap-learn. Install it: pip install 'raystore[explore]'",
        ),
        (
            errors.InvalidRows(collection="t", n_rows=9, problems=[(i // 2, None, f"p{i}") for i in range(7)]),
            "4 of 9 rows for collection 't' cannot be written: row 0: p0; row 0: p1; row 1: p2; row 1: p3; row 2: p4; and 2 more. "
            "Nothing was written.",
        ),
        (
            errors.BodyTooLarge(what="the text", found=11, limit=10, unit="characters"),
            "the text has 11 characters, over the limit of 10.",
        ),
        (
            errors.TrainingCollapsed(
                step=40, found="all rows have become nearly one point", variance=0.0012, rank=1.04, kept=30
            ),
            "fine-tuning stopped at step 40: all rows have become nearly one point (variance 0.0012, effective rank 1.0). Try a "
            "lower learning_rate, a higher temperature, or larger batches: that begins anew. The same call would go on from the "
            "weights of step 30 and most likely stop again; they stay for a week under the store's tmp/fine_tune, as "
            "last-30/weights.safetensors.",
        ),
        (
            errors.TrainingDiverged(step=3, found="its loss is not a number", learning_rate=0.05, kept=0),
            "fine-tuning stopped at step 3: its loss is not a number. Try learning_rate=0.01 (it was 0.05), or a longer "
            "warmup: that begins anew.",
        ),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, RaystoreError) else "",
)
def test_sentences(error: RaystoreError, sentence: str) -> None:
    assert str(error) == sentence


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], "none"),
        (["a"], "'a'"),
        (list("abcdefgh"), "'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'"),
        (list("abcdefghij"), "'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h' and 2 more"),
    ],
)
def test_names_are_listed_up_to_a_limit(names: list[str], text: str) -> None:
    assert listed(names) == text


def test_a_caller_catches_the_builtin_it_would_expect() -> None:
    with pytest.raises(LookupError):
        raise errors.CollectionNotFound(name="x", where="store")
    with pytest.raises(OSError):
        raise errors.DiskFull(folder="/x", doing="writing")
    assert errors.NotFound.status == 404
