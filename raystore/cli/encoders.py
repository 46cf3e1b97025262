"""Verbs on encoders: register, list, show, verify, diff, derive, bench."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import typer

from raystore.cli.samples import Sample, parse_prices, read_sample
from raystore.cli.state import STATE
from raystore.errors import InvalidArguments

EncoderName = Annotated[str, typer.Argument(help="A name, or the fingerprint's first 12 digits or more.")]
NewName = Annotated[str, typer.Argument(help="Small letters, digits, '_' and '-'; what SQL calls it.")]
SampleFiles = Annotated[
    list[str], typer.Option(help="Files with items like yours, or a folder or tar of images; may be repeated.")
]
TextColumn = Annotated[str | None, typer.Option(help="The sample's column of texts.")]
ImageColumn = Annotated[str | None, typer.Option(help="The sample's column of images; 'image' in folders and tars.")]
LabelColumn = Annotated[str | None, typer.Option(help="The sample's column of labels: measures a head's accuracy too.")]
SampleRows = Annotated[int | None, typer.Option(help="Rows of the sample to use, from all over it; by default 1,000.")]
Prices = Annotated[list[str], typer.Option(help="What an hour costs: cpu=0.20/h, gpu=3/h; may be repeated.")]

_SAMPLE_ROWS = 1_000

encoder = typer.Typer(help="Encoders: models with a passport.", no_args_is_help=True, rich_markup_mode=None)


@encoder.command("register")
def encoder_register(
    name: NewName,
    model: Annotated[str, typer.Option(help="'minilm' (packaged), a folder, or a hub name.")],
    max_length: Annotated[int | None, typer.Option(help="Tokens read of a text.")] = None,
    pooling: Annotated[str | None, typer.Option(help="mean, cls, max ...; by default the model's own.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Put before every text; by default the model's own.")] = None,
    dimensions: Annotated[
        int | None, typer.Option(help="Keep only the first numbers of a text's vector, for models trained so (Matryoshka).")
    ] = None,
    resize: Annotated[int | None, typer.Option(help="Edge in pixels of what an image model sees.")] = None,
    kernel: Annotated[str | None, typer.Option(help="How images are resized: bilinear, bicubic, nearest ...")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch of a hub model.")] = None,
    licence: Annotated[str | None, typer.Option(help="By default what the model card says.")] = None,
    trained_on: Annotated[list[str], typer.Option(help="A data set; may be repeated. By default the card's.")] = [],  # noqa: B006
    objective: Annotated[
        Literal["supervised", "contrastive", "self-supervised"] | None,
        typer.Option(help="How it was trained, where the card does not say."),
    ] = None,
) -> None:
    """Register a model under a name; the same model again changes nothing."""
    found = STATE.open(create=True).encoders.register(
        name, model, max_length=max_length, pooling=pooling, prompt=prompt, dimensions=dimensions, resize=resize, kernel=kernel,
        revision=revision, licence=licence, trained_on=trained_on, objective=objective,
    )  # fmt: skip
    facts = {
        "encoder": found.name,
        "fingerprint": found.fingerprint,
        "dim": found.dim,
        "takes": list(found.passport.modalities),
    }
    STATE.out.emit(facts, lambda: STATE.out.say(repr(found)))


@encoder.command("list")
def encoder_list() -> None:
    """Encoders with fingerprint, dimension, what they take, and whose arithmetic they are of."""
    store = STATE.open()
    rows = [
        {
            "encoder": e.name,
            "fingerprint": e.fingerprint,
            "dim": e.dim,
            "takes": ", ".join(e.passport.modalities),
            "class": e.passport.equivalence,
            "model": e.passport.architecture,
        }
        for e in (store.encoders[n] for n in store.encoders)
    ]
    STATE.out.emit(rows, lambda: STATE.out.table(rows, ["encoder", "fingerprint", "dim", "takes", "class", "model"]))


@encoder.command("show")
def encoder_show(name: EncoderName) -> None:
    """The passport: everything that decides what the encoder puts out; and the card: what is known beside it."""
    found = STATE.open().encoders[name]
    passport, card = found.passport.model_dump(mode="json"), found.card.model_dump(mode="json")
    facts = {"encoder": found.name, "fingerprint": found.fingerprint, **passport, "card": card}
    plain = {k: v for k, v in passport.items() if k not in ("text", "image")}
    groups = {
        "Identity": {"encoder": found.name, "fingerprint": found.fingerprint, **plain},
        "Texts": passport["text"],
        "Images": passport["image"],
        "Card (outside the fingerprint)": card,
    }

    def draw() -> None:
        for title, group in groups.items():
            if group is not None:
                STATE.out.table([{"field": k, "value": _worded(v)} for k, v in group.items()], title=title)

    STATE.out.emit(facts, draw)


def _worded(value: Any) -> str:
    """A value of a passport as a person reads it: sizes as 224x224, lists with commas, nothing as 'none'."""
    if value is None or value == "" or value == [] or value == {}:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_worded(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(_worded, value))
    return str(value)


@encoder.command("verify")
def encoder_verify(name: EncoderName) -> None:
    """Digest the weights and re-encode the golden inputs."""
    found = STATE.open().encoders[name]
    worst = found.verify()
    STATE.out.emit(
        {"encoder": found.label, "worst_cosine": worst},
        lambda: STATE.out.say(f"{found.label} holds; worst golden cosine {worst:.6f}"),
    )


@encoder.command("diff")
def encoder_diff(
    a: Annotated[str, typer.Argument(help="A name or fingerprint.")],
    b: Annotated[str, typer.Argument(help="A name or fingerprint.")],
) -> None:
    """What differs between two encoders, in words, and how far apart their golden vectors are."""
    from raystore.encoders.compare import differences

    encoders = STATE.open().encoders
    found = differences(encoders[a], encoders[b])
    STATE.out.emit(found.facts, lambda: STATE.out.say(str(found)))


@encoder.command("derive")
def encoder_derive(
    name: NewName,
    base: Annotated[str, typer.Option(help="The encoder to derive from.")],
    precision: Annotated[
        Literal["int8", "bf16", "fp16"], typer.Option(help="int8 for processors; bf16 and fp16 for GPUs first of all.")
    ],
    sample: SampleFiles = [],  # noqa: B006
    text: TextColumn = None,
    image: ImageColumn = None,
    label: LabelColumn = None,
    rows: SampleRows = None,
) -> None:
    """Make another precision of an encoder: an encoder of its own, with its speed and what it loses. Half a minute."""
    items = _sample(sample, text, image, label, rows, "encoder derive")
    encoders = STATE.open().encoders
    made = encoders.derive(name, base=base, precision=precision, sample=items.items, labels=items.labels)
    report = replace(made.report, left_out=made.report.left_out + items.left_out)
    facts = {"encoder": made.encoder.name, "fingerprint": made.encoder.fingerprint, "report": report.facts}
    STATE.out.emit(facts, lambda: STATE.out.say(str(report)))


@encoder.command("bench")
def encoder_bench(
    name: EncoderName,
    price: Prices = [],  # noqa: B006
    sample: SampleFiles = [],  # noqa: B006
    text: TextColumn = None,
    image: ImageColumn = None,
    label: LabelColumn = None,
    rows: SampleRows = None,
    seconds: Annotated[float, typer.Option(help="How long each way is timed, at least.")] = 3.0,
) -> None:
    """Every device and precision there is, measured: speed, cost, whether it is the same encoder, and what to use."""
    from raystore.encoders.bench import bench

    prices = parse_prices(price, "encoder bench")
    items = _sample(sample, text, image, label, rows, "encoder bench")
    store = STATE.open()
    report = bench(
        store.catalog, store.encoders[name], prices=prices, sample=items.items, labels=items.labels,
        seconds=seconds, said=STATE.out.step,
    )  # fmt: skip
    report = replace(report, left_out=report.left_out + items.left_out)
    STATE.out.emit(report.facts, lambda: STATE.out.say(str(report)))


def _sample(
    files: list[str], text: str | None, image: str | None, label: str | None, rows: int | None, call: str
) -> Sample:
    problems = []
    if text is not None and image is not None:
        problems.append("--text and --image name the same thing twice: give one")
    if not files and (text or image or label):
        problems.append("--text, --image and --label are columns of --sample, which is missing")
    if not files and rows is not None:
        problems.append("--rows is how many of --sample to use, which is missing")
    elif rows is not None and rows < 2:
        problems.append(f"--rows is {rows}, expected at least 2")
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    if not files:
        return Sample()
    limit = _SAMPLE_ROWS if rows is None else rows
    return read_sample(files, content=text or image or "image", label=label, limit=limit, call=call)
