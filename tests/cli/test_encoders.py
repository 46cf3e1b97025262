"""Verbs on encoders and plans, through `main`, in this process."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from PIL import Image

from raystore.cli.trial import Measured
from raystore.encoders.plan import Pace
from tests.cli.conftest import Cli, Made


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_vit: Path) -> Path:
    """A store with a text encoder, the same with another max_length, and an image encoder."""
    import raystore

    store = raystore.open(tmp_path_factory.mktemp("stores") / "store")
    store.encoders.register("tiny", tiny_model)
    store.encoders.register("short", tiny_model, max_length=16)
    store.encoders.register("vit", tiny_vit)
    return store.root


def test_options_of_register_reach_the_passport_and_the_card(
    cli: Cli, tiny_model: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    store = ("--store", tmp_path / "s")
    made = cli(
        *(*store, "--json", "encoder", "register", "one", "--model", tiny_model, "--max-length", "16", "--pooling", "cls"),
        *("--prompt", "query: ", "--licence", "mit", "--trained-on", "a", "--trained-on", "b", "--objective", "supervised"),
    ).json
    assert (made["encoder"], made["dim"], made["takes"]) == ("one", 32, ["text"])
    shown = cli(*store, "--json", "encoder", "show", "one").json
    assert (shown["fingerprint"], shown["text"]["max_length"]) == (made["fingerprint"], 16)
    assert (shown["text"]["prompt"], shown["image"]) == ("query: ", None)
    assert (shown["card"]["licence"], shown["card"]["trained_on"]) == ("mit", ["a", "b"])
    assert shown["card"]["objective"] == "supervised"
    assert cli(*store, "encoder", "register", "v", "--model", tiny_vit, "--kernel", "nearest").code == 0
    assert cli(*store, "--json", "encoder", "show", "v").json["image"]["kernel"] == "nearest"
    wrong = cli(*store, "encoder", "register", "w", "--model", tiny_model, "--objective", "guessed")
    assert (wrong.code, "Usage: raystore encoder register" in wrong.err) == (2, True)


def test_show_groups_what_decides_and_what_is_known_beside_it(cli: Cli, root: Path) -> None:
    text = cli("--store", root, "encoder", "show", "tiny").out
    titles = [line for line in text.splitlines() if re.fullmatch(r"[A-Z]\w+( \(.*\))?", line)]
    assert titles == ["Identity", "Texts", "Card (outside the fingerprint)"]
    assert re.search(r"^max_length +│ 64 *$", text, re.MULTILINE)
    assert re.search(r"^derived_from +│ none *$", text, re.MULTILINE)
    image = cli("--store", root, "encoder", "show", "vit").out
    assert "\nImages\n" in image
    assert "\nTexts\n" not in image
    assert re.search(r"^kernel +│ bilinear *$", image, re.MULTILINE)


def test_list_says_what_each_takes(cli: Cli, root: Path) -> None:
    rows = cli("--store", root, "--json", "encoder", "list").json
    assert [(row["encoder"], row["takes"], row["class"]) for row in rows] == [
        ("short", "text", "torch-fp32"),
        ("tiny", "text", "torch-fp32"),
        ("vit", "image", "torch-fp32"),
    ]


def test_diff_says_in_words_what_differs(cli: Cli, root: Path) -> None:
    said = cli("--store", root, "encoder", "diff", "tiny", "short")
    assert said.code == 0
    assert "  max_length: 64 tokens against 16 tokens\n" in said.out
    assert "golden texts: mean cosine " in said.out
    facts = cli("--store", root, "--json", "encoder", "diff", "tiny", "short").json
    assert facts["sentences"] == ["max_length: 64 tokens against 16 tokens"]
    assert cli("--store", root, "encoder", "diff", "tiny", "tiny").out.endswith(" are the same encoder.\n")
    other = cli("--store", root, "encoder", "diff", "tiny", "vit").out
    assert "takes: texts against images" in other
    assert other.endswith("golden inputs: none in common, one takes texts and the other images\n")
    assert cli("--store", root, "encoder", "diff", "tiny", "nobody").code == 3


def test_derive_and_bench_with_a_labelled_sample(cli: Cli, made: Made, root: Path) -> None:
    sample = ("--sample", made.file, "--text", "body", "--label", "product")
    store = ("--store", root)
    derived = cli(*store, "encoder", "derive", "tiny-int8", "--base", "tiny", "--precision", "int8", *sample)
    assert derived.code == 0, derived.err
    assert re.match(r"tiny-int8@\w{12} is int8 of tiny@\w{12}, measured on 60 items\n  speed ", derived.out)
    assert re.search(r"\n  head +\d+\.\d% against \d+\.\d%, [+-]?\d+\.\d points\n", derived.out)
    bench = cli(*store, "--json", "encoder", "bench", "tiny", *sample, "--seconds", "0.01", "--price", "cpu=0.20/h").json
    assert (bench["items"], bench["left_out"]) == ({"text": 60}, 0)
    assert "openvino int8" in [row["name"] for row in bench["rows"]]
    assert all(
        row["cost_per_million"] > 0 and row["accuracy"] is not None for row in bench["rows"] if row["device"] == "cpu"
    )
    assert bench["recommendation"].startswith("Run tiny@")


WRONG = [
    (
        ("encoder", "bench", "tiny", "--price", "cpu=much"),
        "'cpu=much' is no price, expected one like cpu=0.20/h or gpu=3/h",
    ),
    (("encoder", "bench", "tiny", "--price", "tpu=1/h"), "'tpu=1/h' is no price, expected one like cpu=0.20/h or gpu=3/h"),
    (("encoder", "bench", "tiny", "--label", "x"), "--text, --image and --label are columns of --sample, which is missing"),
    (("encoder", "bench", "tiny", "--rows", "10"), "--rows is how many of --sample to use, which is missing"),
    (("encoder", "bench", "tiny", "--sample", "x", "--rows", "1"), "--rows is 1, expected at least 2"),
    (("plan", "embed", "--items", "many"), "--items is 'many', expected a whole number such as 3e7"),
    (("plan", "embed", "--items", "1.5"), "--items is '1.5', expected a whole number such as 3e7"),
    (("plan", "embed", "--items", "nan"), "--items is 'nan', expected a whole number such as 3e7"),
    (("plan", "embed", "--items", "10", "--kind", "text"), "--encoder is needed: the store has short, tiny for this"),
]


@pytest.mark.parametrize("arguments, problem", WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_what_is_wrong_is_said_in_one_sentence(
    cli: Cli, tmp_path_factory: pytest.TempPathFactory, root: Path, arguments: tuple[str, ...], problem: str
) -> None:
    said = cli("--store", _without_derived(root, tmp_path_factory), *arguments)
    assert (said.code, said.out) == (2, "")
    assert said.err.endswith(f": {problem}.\n")


def _without_derived(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store as it was made, whichever test ran before."""
    import shutil

    folder = tmp_path_factory.mktemp("copy") / "store"
    shutil.copytree(root, folder, ignore=shutil.ignore_patterns("tiny-int8"))
    return folder


def test_an_encoder_of_the_other_kind_and_columns_that_are_not_there_are_named(cli: Cli, made: Made, root: Path) -> None:
    plan = ("--store", root, "plan", "embed", "--items", "1e6")
    said = cli(*plan, "--encoder", "vit", "--kind", "text")
    assert re.fullmatch(r"InvalidArguments: plan embed: encoder vit@\w{12} takes image, not text\.\n", said.err)
    said = cli("--store", root, "encoder", "bench", "tiny", "--sample", made.file, "--text", "nothing")
    assert said.err == (
        f"InvalidArguments: encoder bench: '{made.file}' has no column 'nothing'; it has: ticket, body, product, customer.\n"
    )
    few = cli("--store", root, "encoder", "bench", "tiny", "--sample", made.file, "--text", "body", "--label", "ticket")
    assert few.err.endswith("no class has 5 rows or more in the sample: take more rows, or leave the label out.\n")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment's work is enough to tell a pace."""
    monkeypatch.setattr("raystore.cli.trial._STEADY_S", 0.001)


@pytest.mark.usefixtures("short")
def test_a_plan_runs_a_small_job_and_leaves_nothing_behind(cli: Cli, root: Path) -> None:
    before = sorted(p.relative_to(root) for p in root.rglob("*"))
    plan = ("--store", root, "plan", "embed", "--items", "3e7", "--encoder", "tiny", "--workers", "0")
    said = cli(*plan, "--price", "cpu=0.2/h")
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert re.match(r"tiny@\w{12}: 30,000,000 items in one process: \d", lines[0])
    assert [line.split()[0] for line in lines[1:]] == ["pace", "money", "disk", "measured:"]
    assert lines[4].startswith(
        "  measured: 2,048 items of generated texts, read, encoded and committed in one process; the pace is "
    )
    facts = cli(*plan, "--json").json
    assert (facts["items"], facts["workers"], facts["machines"], facts["cost"]) == (30_000_000, 0, 1, None)
    assert facts["vector_bytes"] == 30_000_000 * 32 * 4
    assert facts["row_bytes"] > facts["vector_bytes"]
    assert facts["index_bytes"] > facts["vector_bytes"]
    assert facts["seconds"] == pytest.approx(facts["startup_s"] + 3e7 / facts["rows_per_s"])
    assert (facts["measured"]["rows"], facts["measured"]["times"], facts["measured"]["left_out"]) == (2_048, 1, 0)
    assert facts["rows_per_s"] == facts["measured"]["pace"]["rows_per_s"]
    assert sorted(p.relative_to(root) for p in root.rglob("*")) == before


@pytest.mark.usefixtures("short")
def test_a_plan_for_images_generates_pictures(cli: Cli, root: Path) -> None:
    facts = cli("--store", root, "--json", "plan", "embed", "--items", "1000", "--kind", "image", "--workers", "0").json
    assert (facts["kind"], facts["measured"]["sample"]) == ("image", "generated images")
    assert facts["encoder"].startswith("vit@")


def test_a_small_sample_is_embedded_again_until_the_pace_is_told_from_steady_work(
    cli: Cli, made: Made, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its start stays apart, however small the sample."""
    monkeypatch.setattr("raystore.cli.trial._STEADY_S", 2.0)
    plan = ("--store", root, "plan", "embed", "--items", "1_000_000", "--workers", "0", "--encoder", "tiny")
    facts = cli(*plan, "--sample", made.file, "--text", "body", "--json").json
    measured = facts["measured"]
    assert (measured["rows"], measured["sample"], measured["left_out"]) == (60, str(made.file), 0)
    assert measured["times"] > 1
    assert measured["pace"]["steady_s"] > 0.7
    assert facts["rows_per_s"] * measured["pace"]["steady_s"] == pytest.approx(60 * measured["times"])


@pytest.mark.usefixtures("short")
def test_images_that_cannot_be_embedded_have_no_pace_and_are_counted(cli: Cli, root: Path, tmp_path: Path) -> None:
    for i in range(12):
        data = io.BytesIO()
        Image.new("RGB", (40, 30), (i * 20, 10, 10)).save(data, "PNG")
        (tmp_path / f"{i}.png").write_bytes(data.getvalue())
    (tmp_path / "bad.png").write_bytes(b"no image")
    plan = ("--store", root, "plan", "embed", "--items", "100", "--workers", "0", "--encoder", "vit", "--sample", tmp_path)
    facts = cli(*plan, "--json").json
    measured = facts["measured"]
    assert (measured["rows"], measured["left_out"]) == (12, 1)
    assert facts["rows_per_s"] * measured["pace"]["steady_s"] == pytest.approx(12 * measured["times"])
    assert f"measured: 12 items of {tmp_path} (1 cannot be embedded and were left out), read, " in cli(*plan).out
    for good in tmp_path.glob("[0-9]*.png"):
        good.unlink()
    refused = cli(*plan)
    assert refused.err == "InvalidArguments: plan embed: no row of the sample could be embedded.\n"


@pytest.mark.usefixtures("short")
def test_more_workers_than_cores_are_more_machines(cli: Cli, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they do is measured on this one; here in one process, so that no Ray is started."""
    monkeypatch.setattr("raystore.cli.plan.measure", lambda *a: _measured(a[5]))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    facts = cli("--store", root, "--json", "plan", "embed", "--items", "1e6", "--encoder", "tiny", "--workers", "10").json
    assert (facts["workers"], facts["machines"], facts["measured"]["workers"]) == (10, 3, 4)
    assert facts["rows_per_s"] == 300.0


def _measured(workers: int) -> Measured:
    return Measured(100, 1, workers, 1.0, Pace(100.0, 1.0, 0.1), 200.0, 150.0, "generated texts")


@pytest.mark.ray
@pytest.mark.usefixtures("short", "ray_session")
def test_a_plan_for_workers_runs_them(cli: Cli, root: Path) -> None:
    facts = cli("--store", root, "--json", "plan", "embed", "--items", "1e6", "--encoder", "tiny", "--workers", "1").json
    assert (facts["workers"], facts["measured"]["workers"]) == (1, 1)
    assert (facts["measured"]["rows"], facts["measured"]["times"]) == (2_048, 1)
    assert facts["startup_s"] > 0.5  # a worker and its encoder


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_few_items_for_workers_are_no_plan_of_the_start_alone(
    cli: Cli, made: Made, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raystore.cli.trial._STEADY_S", 3.0)
    plan = ("--store", root, "plan", "embed", "--items", "1e6", "--encoder", "tiny", "--workers", "2")
    facts = cli(*plan, "--sample", made.file, "--text", "body", "--json").json
    measured = facts["measured"]
    assert (measured["rows"], measured["times"] % 2) == (60, 0)  # each worker gets as many slices
    assert measured["times"] > 2


def test_a_sample_that_is_no_sample_is_refused(cli: Cli, root: Path, tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text("body\n" + "hello\n" * 20_001)
    said = cli(
        "--store",
        root,
        "plan",
        "embed",
        "--items",
        "9",
        "--encoder",
        "tiny",
        "--sample",
        tmp_path / "all.csv",
        "--text",
        "body",
    )
    assert said.code == 2
    assert said.err == (
        "InvalidArguments: plan embed: the sample has 20,001 rows, and is embedded whole: give files with 20,000 at most.\n"
    )
