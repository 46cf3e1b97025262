"""plan: what a job will take, from a small one that is really run and thrown away; what an index will, from what was tuned."""

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
    from raystore.index.tune.table import Tuning
    from raystore.store import Store

_INDEX = "plan"
_FAR = 1_000  # times the rows that were measured: from there on people are told that it is a guess

plan = typer.Typer(
    help="Plans: hours, money, machines and disk before a job is run. `plan --rows N` is of an index, `plan embed` of a job.",
    invoke_without_command=True,
    rich_markup_mode=None,
)


@plan.callback()
def plan_index_verb(
    context: typer.Context,
    rows: Annotated[str | None, typer.Option(help="Of the collection to be; 1e9 is a billion.")] = None,
    dim: Annotated[int | None, typer.Option(help="Numbers in a vector; by default those of the tuning.")] = None,
    recall: Annotated[float, typer.Option(help="Of the k nearest, to be found.")] = 0.95,
    qps: Annotated[float, typer.Option(help="Queries a second, one at a time.")] = 10.0,
    p95_ms: Annotated[float, typer.Option(help="Within which a query is to be answered.")] = 100.0,
    replicas: Annotated[int, typer.Option(help="At least so many of each shard.")] = 1,
    memory_per_node: Annotated[str | None, typer.Option(help="64GiB; by default this machine's.")] = None,
    cores_per_node: Annotated[int | None, typer.Option(help="By default those of the machine that measured.")] = None,
    collection: Annotated[str | None, typer.Option(help="Reckon from its tuning; by default the newest that fits.")] = None,
    price: Prices = [],  # noqa: B006
) -> None:
    """Shards, nodes, memory, disk, build hours and money of an index, from what `index tune` measured, with the arithmetic."""
    if context.invoked_subcommand is not None:
        if rows is not None or collection is not None:
            problem = f"--rows and --collection are of an index, without '{context.invoked_subcommand}'"
            raise InvalidArguments(call=_INDEX, problems=[problem])
        return
    if rows is None:
        raise InvalidArguments(
            call=_INDEX, problems=["--rows is needed, as in `raystore plan --rows 1e9`, or a verb: `plan embed`"]
        )
    from raystore.data.query.cache import machine_memory, parse_bytes
    from raystore.index.sizing import Nodes, plan_index

    wanted = _number(rows, "--rows", _INDEX)
    prices = parse_prices(price, _INDEX)
    memory = machine_memory() if memory_per_node is None else parse_bytes(memory_per_node, f"{_INDEX} --memory-per-node")
    tuning = _tuning(STATE.open(), collection, dim)
    nodes = Nodes(memory, cores_per_node or tuning.cores, tuning.cores, prices.get("cpu"))
    report = plan_index(
        wanted, tuning.trials, nodes, qps=qps, dim=dim, recall=recall, p95_ms=p95_ms, replicas=replicas, k=tuning.k
    )

    def draw() -> None:
        STATE.out.table([{"what": o.name, "foretold": o.said, "how": o.how} for o in report.lines], title=report.title)
        if report.others:
            STATE.out.table([each.row for each in report.others], title="The other kinds, each at its cheapest")
        STATE.out.say(f"\nfrom tuning {tuning.number} of {tuning.collection}: {tuning.rows:,} rows, {tuning.cores} cores")
        if wanted > _FAR * tuning.rows:
            times = wanted / max(1, tuning.rows)
            STATE.out.say(f"{times:,.0f} times as many rows as were measured: a rough guess, the build time above all")

    STATE.out.emit({**report.facts, "tuning": f"{tuning.collection}@{tuning.number}"}, draw)


def _tuning(store: Store, collection: str | None, dim: int | None) -> Tuning:
    """The newest of the collection, or of the store, of vectors as long as asked where there is one."""
    from raystore.index.tune.table import read_tunings

    if collection is not None:
        store.collection(collection)  # or it is said which there are
    found = read_tunings(store.layout, collection)
    if not found:
        of = "the store" if collection is None else f"collection '{collection}'"
        problem = f"{of} has no tuning to reckon from, run `raystore index tune {collection or 'COLLECTION'}` first"
        raise InvalidArguments(call=_INDEX, problems=[problem])
    return next((each for each in found if each.dim == dim), found[0])


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
    wanted = _number(items, "--items", CALL)
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


def _number(text: str, option: str, call: str) -> int:
    try:
        found = float(text.replace("_", "").replace(",", ""))
    except ValueError:
        found = -1.0
    if not 0 <= found < 1e15 or found != int(found):
        raise InvalidArguments(call=call, problems=[f"{option} is '{text[:40]}', expected a whole number such as 3e7"])
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
