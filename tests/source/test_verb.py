"""`raystore encoder pack`, through `main`, in this process."""

from __future__ import annotations

from pathlib import Path

from raystore.source import open_packed
from tests.cli.conftest import Cli, command_line  # noqa: F401 - the fixture `cli`
from tests.serve.conftest import Served


def test_an_encoder_is_packed_into_a_folder(cli: Cli, served: Served, tmp_path: Path) -> None:
    store = ("--store", served.root)
    made = cli(*store, "--json", "encoder", "pack", "tiny", tmp_path / "a").json
    assert (made["encoder"], made["fingerprint"], made["backends"]) == ("tiny", served.fingerprint, ["openvino"])
    assert open_packed(made["folder"]).fingerprint == served.fingerprint
    said = cli(*store, "encoder", "pack", "tiny", tmp_path / "b", "--backend", "openvino").out
    assert said.replace("\n", " ").strip() == f"{served.label} packed into {tmp_path / 'b'} (0.2 MB), runs on openvino"
    again = cli(*store, "encoder", "pack", "tiny", tmp_path / "b").err
    assert again == f"AlreadyExists: folder '{tmp_path / 'b'}' exists already. Name a new or an empty folder.\n"
    assert cli(*store, "encoder", "pack", "nobody", tmp_path / "c").err.startswith(
        "EncoderNotFound: no encoder 'nobody' in store"
    )
    assert not (tmp_path / "c").exists()
