"""encoder pack: an encoder in a folder of its own, for `raystore.source`."""

from __future__ import annotations

from typing import Annotated

import typer

from raystore.cli.encoders import EncoderName
from raystore.cli.state import STATE


def pack(
    name: EncoderName,
    folder: Annotated[str, typer.Argument(help="New or empty.")],
    backend: Annotated[
        list[str],
        typer.Option(help="openvino, onnx or torch; may be repeated. By default the first that is exact enough here."),
    ] = [],  # noqa: B006
) -> None:
    """Write an encoder into a folder of its own, to be opened where content arises: raystore.source."""
    from raystore.source.packed import pack as pack_encoder

    packed = pack_encoder(STATE.open().catalog, name, folder, backends=backend)
    facts = {
        "folder": str(packed.folder),
        "encoder": packed.name,
        "fingerprint": packed.fingerprint,
        "backends": list(packed.backends),
        "bytes": packed.n_bytes,
    }
    runs = " and ".join(packed.backends)
    STATE.out.emit(
        facts,
        lambda: STATE.out.say(
            f"{packed.label} packed into {packed.folder} ({packed.n_bytes / 1e6:,.1f} MB), runs on {runs}"
        ),
    )
