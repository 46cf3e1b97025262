"""plan: what a job will take, from a small one of its kind that is really run, in a scratch store, and thrown away."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from raystore.cli.encoders import ImageColumn, Prices, SampleFiles, TextColumn
from raystore.cli.samples import parse_prices
from raystore.cli.state import STATE
from raystore.cli.trial import CALL, measure
from raystore.encoders.passport import Modality
from raystore.encoders.plan import plan_embed
from raystore.errors import InvalidArguments
from raystore.session import INLINE_BELOW, choose_workers

if TYPE_CHECKING:
    from raystore.encoders.registry import Encoder
    from raystore.store import Store

plan = typer.Typer(help="Plans: hours, money and disk before a job is run.", no_args_is_help=True, rich_markup_mode=None)


@plan.callback()
def group() -> None:
    """Keeps `plan embed` a verb of two words while it is the only one."""


@plan.command("embed")
def plan_embed_verb(
    items: Annotated[str, typer.Option(help="How many there are to embed; 3e7 is 30 million.")],
    kind: Annotated[Literal["text", "image"] | None, typer.Option(help="By default what the encoder takes.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Needed where the store has several.")] = None,
    sample: SampleFiles = [],  # noqa: B006
    text: TextColumn = None,
    image: ImageColumn = None,
    workers: Annotated[
        int | None, typer.Option(help="Of the job; 0 is one process. More than cores are more machines like this one.")
    ] = None,
    price: Prices = [],  # noqa: B006
) -> None:
    """Hours, money and disk of an embedding job, from a sample embedded here. Without --sample, one is generated."""
    wanted = _number(items)
    prices = parse_prices(price, CALL)
    store = STATE.open()
    chosen = _encoder(store, encoder, kind)
    modality = kind or chosen.passport.modalities[0]
    asked = choose_workers(workers, wanted, INLINE_BELOW.embed_rows, CALL)
    cores = max(1, os.cpu_count() or 1)
    machines = max(1, -(-asked // cores))
    measured = measure(store, chosen, modality, sample, text or image, min(asked, cores), STATE.out.step)
    device = "gpu" if "gpu" in prices and "cpu" not in prices else "cpu"
    report = plan_embed(
        wanted, measured.pace.rows_per_s, measured.startup_s, asked, chosen.dim, prices.get(device),
        row_bytes=measured.row_bytes, index_bytes=measured.index_bytes, machines=machines,
    )  # fmt: skip
    facts = {"encoder": chosen.label, "kind": modality, **report.facts, "measured": asdict(measured)}
    STATE.out.emit(facts, lambda: STATE.out.say(f"{chosen.label}: {report}\n  {measured}"))


def _number(text: str) -> int:
    try:
        found = float(text.replace("_", "").replace(",", ""))
    except ValueError:
        found = -1.0
    if not 0 <= found < 1e15 or found != int(found):
        raise InvalidArguments(call=CALL, problems=[f"--items is '{text[:40]}', expected a whole number such as 3e7"])
    return int(found)


def _encoder(store: Store, name: str | None, kind: Modality | None) -> Encoder:
    """The named one, or the store's only one that takes this kind."""
    if name is not None:
        found = store.encoder(name)
        if kind is not None and kind not in found.passport.modalities:
            takes = " and ".join(found.passport.modalities)
            raise InvalidArguments(call=CALL, problems=[f"encoder {found.label} takes {takes}, not {kind}"])
        return found
    known = [store.encoder(n) for n in store.encoders]
    fit = [e for e in known if kind is None or kind in e.passport.modalities]
    if len(fit) != 1:
        names = ", ".join(e.name for e in fit) or "none"
        raise InvalidArguments(call=CALL, problems=[f"--encoder is needed: the store has {names} for this"])
    return fit[0]
