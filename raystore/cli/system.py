"""doctor and demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raystore.cli.state import STATE


def doctor(
    ray: Annotated[bool, typer.Option("--ray/--no-ray", help="Whether to start or join Ray to see it.")] = True,
) -> None:
    """What is installed, what Ray sees, what the store holds, and whether every digest and golden vector still holds.

    Exit code 1 when something does not hold.
    """
    from raystore.doctor import examine

    checks = list(examine(STATE.root, with_ray=ray))
    rows = [{"": "ok" if c.ok else "BROKEN", "what": c.what, "found": c.found} for c in checks]
    facts = [{"what": c.what, "ok": c.ok, "found": c.found} for c in checks]
    STATE.out.emit(facts, lambda: STATE.out.table(rows, ["", "what", "found"]))
    if not all(c.ok for c in checks):
        raise typer.Exit(1)


def demo(
    data: Annotated[str | None, typer.Option(help="Your own Parquet, CSV or JSONL instead of the docstrings.")] = None,
    test: Annotated[str | None, typer.Option(help="Report on this file; --data is then train and validation.")] = None,
    text: Annotated[str | None, typer.Option(help="The column to embed.")] = None,
    label: Annotated[str | None, typer.Option(help="The column to learn; without it, no head is trained.")] = None,
    id: Annotated[str | None, typer.Option(help="The id column; without it, file name and row number.")] = None,
    folder: Annotated[
        str | None, typer.Option(help="Where its store goes; by default raystore-demo, with --data raystore-demo-NAME.")
    ] = None,
    port: Annotated[int, typer.Option(help="Where the deployment listens.")] = 8000,
    workers: Annotated[int, typer.Option(help="Ray workers; 0 works in this process but for serving.")] = 2,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the deployment up until Ctrl-C.")] = False,
) -> None:
    """Raw text to a served prediction, end to end."""
    from raystore.demo.run import run_demo

    where = folder or ("raystore-demo" if data is None else f"raystore-demo-{Path(data).stem}")
    run_demo(
        STATE.out, folder=where, data=data, test=test, text=text, label=label, id=id, port=port, workers=workers, keep=keep
    )
