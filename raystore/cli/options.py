"""Options and arguments that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

Workers = Annotated[
    int | None, typer.Option(help="0 works in this process, more on so many Ray workers; by default chosen by size.")
]
CollectionName = Annotated[str, typer.Argument(metavar="COLLECTION", help="Its name.")]
EncoderOption = Annotated[
    str | None, typer.Option(help="Needed where the collection has several and none is its current one.")
]
AsOf = Annotated[
    str | None, typer.Option(metavar="TIME", help="Read everything as it was then: 2026-03-01, 2026-03-01T12:00:00Z.")
]
Parameters = Annotated[list[str], typer.Option(help="NAME=VALUE for $NAME; may be repeated.")]
HtmlFile = Annotated[str | None, typer.Option("--html", metavar="FILE", help="Write it as one HTML file instead.")]
FailOnDrift = Annotated[bool, typer.Option("--fail-on-drift", help="Exit code 1 where it raises the alarm.")]
