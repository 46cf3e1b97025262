"""The gate: what fell is refused, unless a reason is given, which is kept."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from raystore.catalog import Catalog, open_root
from raystore.encoders.records import KIND
from raystore.encoders.registry import Encoders
from raystore.errors import EncoderNotFound, InvalidArguments, InvalidName, NotBetter, NotMeasured
from raystore.fine_tune.proof.changes import Change
from raystore.fine_tune.proof.gate import judge, weigh
from raystore.fine_tune.proof.live import make_live, refusal
from raystore.fine_tune.proof.proof import Proof


def change(value: float, half: float | None = 0.01) -> Change:
    bounds: dict[str, float] = {} if half is None else {"low": value - half, "high": value + half, "p": 0.002}
    return Change(before=0.9, after=0.9 + value, value=value, rows=100, entities=100, **bounds)


def proof(fingerprint: str = "f" * 64, stated: tuple[str, ...] | None = None, **metrics: Change) -> Proof:
    return Proof(
        before="base@b", after="tuned@a", after_fingerprint=fingerprint, rows=100, entities=100, n_classes=2, reference_rows=50,
        k=10, classes=("a", "b"), stated=tuple(metrics) if stated is None else stated, metrics=metrics,
    )  # fmt: skip


def test_what_fell_is_named_the_largest_fall_first_and_what_may_be_chance_is_not() -> None:
    found = judge(
        proof(
            knn_accuracy=change(-0.02), precision=change(0.05), head_accuracy=change(-0.005), oos_neighbours=change(-0.04)
        )
    )
    assert [str(fall) for fall in found] == [
        "out-of-scope AUROC, by neighbours fell from 90.0% to 86.0% (-4.0 points, 95% interval -5.0 to -3.0 points)",
        "kNN accuracy fell from 90.0% to 88.0% (-2.0 points, 95% interval -3.0 to -1.0 points)",
    ]
    assert judge(proof(precision=change(0.0))) == []


def test_without_an_interval_a_point_falls_where_it_is_below_the_tolerance() -> None:
    assert judge(proof(precision=change(-0.009, None))) == []
    assert [str(fall) for fall in judge(proof(precision=change(-0.03, None)))] == [
        "P@10 fell from 90.0% to 87.0% (-3.0 points, from too few rows for an interval)"
    ]
    assert judge(proof(precision=change(-0.03, None)), tolerance=0.05) == []


def test_only_stated_metrics_are_judged_or_those_that_are_required() -> None:
    found = proof(stated=("precision",), precision=change(0.1), silhouette=change(-0.3))
    assert judge(found) == []
    assert [fall.metric for fall in judge(found, ["silhouette"])] == ["silhouette"]
    with pytest.raises(InvalidArguments) as error:
        judge(found, ["f1", "head_accuracy"])
    assert str(error.value) == (
        "judge a proof: there is no figure 'f1'; there are: knn_accuracy, precision, precision_unseen, head_accuracy, silhouette, "
        "oos_neighbours, oos_head; 'head_accuracy' was not measured; the proof has: precision, silhouette."
    )


def test_what_fell_against_the_name_and_what_was_not_measured_stand_against_it_too() -> None:
    better = proof(knn_accuracy=change(0.2), precision=change(0.1))
    standing = proof(knn_accuracy=change(-0.03), precision=change(0.1)).model_copy(update={"before": "topic@f"})
    assert not weigh(better)
    found = weigh(better, ["knn_accuracy", "head_accuracy"], standing)
    assert found.said == (
        "kNN accuracy fell from 90.0% to 87.0% (-3.0 points, 95% interval -4.0 to -2.0 points) against topic@f, which the name means",
        "head_accuracy is required, and these rows cannot say it",
    )
    assert not weigh(better, ["precision"], standing)
    assert str(refusal("topic", found)) == (
        "encoder 'topic' was not made live: its kNN accuracy (against topic@f, which the name means) fell from 0.900 to 0.870 "
        "(difference -0.030, 95% interval -0.040 to -0.020). Nor can these rows say 'head_accuracy', which must not fall. The "
        "encoder is kept under its fingerprint and run. Train again, or give a reason that is kept: force='...'."
    )
    with pytest.raises(InvalidArguments, match="there is no figure 'f1'"):
        weigh(better, ["f1"])


def test_an_error_of_what_was_not_measured_holds_no_numbers_and_arrives_whole() -> None:
    sent = refusal("topic", weigh(proof(precision=change(0.1)), ["head_accuracy", "oos_head"]))
    assert isinstance(sent, NotMeasured)
    assert set(sent.facts) == {"encoder", "metric", "also", "advice"}
    arrived = pickle.loads(pickle.dumps(sent))
    assert (type(arrived), str(arrived)) == (NotMeasured, str(sent))
    assert str(sent).startswith(
        "encoder 'topic' was not made live: these rows cannot say 'head_accuracy', 'oos_head', which must not fall. The encoder "
    )


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Catalog]:
    """A store with an encoder 'base' and another one, 'tuned'; on torch, since an export is made for nothing here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYSTORE_BACKEND", "torch")
        made = Catalog(open_root(tmp_path_factory.mktemp("gate") / "store", create=True)[0])
        Encoders(made).register("base", tiny_model)
        Encoders(made).register("tuned", tiny_model, pooling="cls")
        yield made


def test_an_encoder_whose_figures_fell_is_refused_and_the_name_means_what_it_meant(catalog: Catalog) -> None:
    base, tuned = Encoders(catalog).get("base"), Encoders(catalog).get("tuned")
    catalog.set_alias(KIND, "refused", catalog.alias(KIND, "base"))  # type: ignore[arg-type]
    with pytest.raises(NotBetter) as error:
        make_live(
            catalog, "refused", tuned.fingerprint, proof(tuned.fingerprint, precision=change(-0.03), knn_accuracy=change(-0.02))
        )  # fmt: skip
    assert str(error.value) == (
        "encoder 'refused' was not made live: its P@10 fell from 0.900 to 0.870 (difference -0.030, 95% interval -0.040 to -0.020), "
        "and so did 'kNN accuracy'. The encoder is kept under its fingerprint and run. Train again, or give a reason that is kept: "
        "force='...'."
    )
    assert Encoders(catalog).get("refused").fingerprint == base.fingerprint


def test_a_reason_lets_it_through_and_is_kept_in_the_alias_and_beside_the_run(catalog: Catalog, tmp_path: Path) -> None:
    tuned = Encoders(catalog).get("tuned")
    fell = proof(tuned.fingerprint, precision=change(-0.03))
    record = make_live(
        catalog, "forced", tuned.fingerprint, fell, run=3, run_folder=tmp_path, force=" only titles matter here "
    )
    kept = catalog.alias(KIND, "forced")
    assert kept is not None
    assert {name: kept[name] for name in record} == record
    assert (kept["forced"], kept["reason"], kept["run"], kept["before"]) == (True, "only titles matter here", 3, None)
    assert kept["proof"]["verdict"] == "not better"
    assert kept["proof"]["fell"] == ["P@10 fell from 90.0% to 87.0% (-3.0 points, 95% interval -4.0 to -2.0 points)"]
    beside = catalog.latest(tmp_path / "live")
    assert beside is not None
    assert (beside[1]["name"], beside[1]["reason"]) == ("forced", "only titles matter here")
    assert Encoders(catalog).get("forced").encode(["hello"]).shape == (1, 32)


def test_a_better_one_goes_live_and_the_record_says_what_the_name_meant(catalog: Catalog) -> None:
    base, tuned = Encoders(catalog).get("base"), Encoders(catalog).get("tuned")
    better = proof(tuned.fingerprint, precision=change(0.03))
    catalog.set_alias(KIND, "topic", catalog.alias(KIND, "base"))  # type: ignore[arg-type]
    record = make_live(catalog, "topic", tuned.fingerprint, better)
    assert (record["before"], record["forced"], record["reason"]) == (base.fingerprint, False, None)
    assert Encoders(catalog).get("topic").fingerprint == tuned.fingerprint
    before = catalog.latest(catalog.layout.aliases(KIND, "topic"))
    make_live(catalog, "topic", tuned.fingerprint, better)
    assert catalog.latest(catalog.layout.aliases(KIND, "topic")) == before


def test_a_proof_of_another_encoder_an_empty_reason_and_unknown_names_are_refused(catalog: Catalog) -> None:
    tuned = Encoders(catalog).get("tuned")
    with pytest.raises(InvalidArguments) as error:
        make_live(catalog, "topic", tuned.fingerprint, proof("e" * 64, precision=change(0.1)), force=" ")
    assert str(error.value) == (
        f"make 'topic' live: the proof is of {'e' * 12}, not of {tuned.fingerprint[:12]}; force= is the reason in words, 1 to 2,000 "
        "characters, which are kept."
    )
    with pytest.raises(EncoderNotFound):
        make_live(catalog, "topic", "f" * 64, proof(precision=change(0.1)))
    with pytest.raises(InvalidName):
        make_live(catalog, "No Name", tuned.fingerprint, proof(tuned.fingerprint, precision=change(0.1)))
