from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from raystore.catalog import Catalog, open_root
from raystore.encoders import Encoders
from raystore.errors import AlreadyExists, EncoderNotFound, GoldenMoved, InvalidArguments, ModelUnusable
from raystore.source import Packed, open_packed, pack
from raystore.source.packed import read_packed
from tests.encoders.test_bridged import registered as bridged_store  # noqa: F401 - a fixture
from tests.serve.conftest import Served

TEXTS = ["the card never arrived", "hello world", "", "return the money"]


@pytest.fixture
def copy(packed: Packed, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed.folder, tmp_path / "copy"))


def test_a_packed_encoder_is_the_encoder_wherever_it_lies(packed: Packed, copy: Path, served: Served) -> None:
    expected = served.rooms.encoders.get("tiny").load(backend="openvino").encode(TEXTS)
    encoder = open_packed(copy)
    found = encoder.encode(TEXTS)
    assert (encoder.fingerprint, encoder.label, encoder.backend) == (served.fingerprint, served.label, "openvino")
    assert found.fingerprint == served.fingerprint
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_it_says_what_it_is(packed: Packed, served: Served) -> None:
    assert (packed.name, packed.fingerprint, packed.backends, packed.label) == (
        "tiny", served.fingerprint, ("openvino",), served.label,
    )  # fmt: skip
    fp12 = served.fingerprint[:12]
    files = sorted(path.relative_to(packed.folder).as_posix() for path in packed.folder.rglob("*") if path.is_file())
    assert files == [
        f"encoders/{fp12}/exports/openvino/manifest.json",
        f"encoders/{fp12}/exports/openvino/text.bin",
        f"encoders/{fp12}/exports/openvino/text.xml",
        f"encoders/{fp12}/exports/openvino/tokenizer.json",
        f"encoders/{fp12}/golden.safetensors",
        f"encoders/{fp12}/passport.json",
        "manifest.json",
    ]
    assert packed.n_bytes == sum((packed.folder / path).stat().st_size for path in files)


def test_it_opens_without_ray_torch_and_a_store(packed: Packed) -> None:
    heavy = "{'ray', 'torch', 'transformers', 'sentence_transformers', 'lance', 'duckdb', 'pyarrow', 'pandas', 'fastapi', 'starlette'}"
    code = (
        "import sys\n"
        "from raystore.source import open_packed\n"
        "print(open_packed(sys.argv[1], threads=1).encode(['hello world']).shape)\n"
        f"print(sorted({heavy} & {{m.partition('.')[0] for m in sys.modules}}))\n"
    )
    out = subprocess.run([sys.executable, "-c", code, str(packed.folder)], capture_output=True, text=True, check=True)
    assert out.stdout == "(1, 32)\n[]\n"


# What docs/source.md says is enough, and what those bring along.
ENOUGH = {"httpx", "numpy", "openvino", "pydantic", "PyYAML", "safetensors", "tokenizers", "raystore"}
BROUGHT = {
    "annotated-types", "anyio", "certifi", "h11", "httpcore", "idna", "openvino-telemetry", "packaging", "pydantic_core", "sniffio",
    "typing-inspection", "typing_extensions",
}  # fmt: skip


def test_it_needs_only_the_packages_that_the_page_names(packed: Packed, tmp_path: Path) -> None:
    code = (
        "import importlib.metadata, sys\n"
        "allowed = set(sys.argv[2].split(','))\n"
        "by_module = importlib.metadata.packages_distributions()\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        made_by = by_module.get(name.partition('.')[0])\n"
        "        if made_by and not allowed & set(made_by):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from raystore.errors import ServiceUnreachable\n"
        "from raystore.source import Source\n"
        "with Source('http://127.0.0.1:1', sys.argv[1], spool=sys.argv[3], threads=1) as source:\n"
        "    print(source.log('tickets', [{'text': 'hello world'}]).spooled)\n"
    )
    arguments = [str(packed.folder), ",".join(ENOUGH | BROUGHT), str(tmp_path / "spool")]
    out = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert (out.stdout, out.returncode) == ("1\n", 0), out.stderr[-2000:]


def _change(folder: Path) -> str:
    path = next(folder.rglob("text.bin"))
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    return f"'{path.relative_to(folder).as_posix()}' is not the file that was packed"


def _remove(folder: Path) -> str:
    path = next(folder.rglob("golden.safetensors"))
    path.unlink()
    return f"'{path.relative_to(folder).as_posix()}' is missing"


def _add(folder: Path) -> str:
    (folder / "encoders" / "more.json").write_text("{}", encoding="utf-8")
    return "'encoders/more.json' is not in its manifest"


def _break(folder: Path) -> str:
    (folder / "manifest.json").write_text('{"format": 1}', encoding="utf-8")
    return "it holds no manifest.json of a packed encoder"


def _age(folder: Path) -> str:
    about = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps(about | {"format": 2}), encoding="utf-8")
    return "it was packed by another version of raystore"


@pytest.mark.parametrize("spoil", [_change, _remove, _add, _break, _age])
def test_a_folder_that_is_not_what_was_packed_is_refused(spoil: Callable[[Path], str], copy: Path) -> None:
    found = spoil(copy)
    with pytest.raises(ModelUnusable) as caught:
        open_packed(copy)
    assert str(caught.value) == (
        f"model '{copy}' cannot be used: {found}. Copy the folder again, whole, or pack it anew: raystore encoder pack NAME FOLDER."
    )


def test_no_folder_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable) as caught:
        open_packed(tmp_path / "nowhere")
    assert caught.value.found == "it holds no manifest.json of a packed encoder"


def test_an_encoder_that_moved_is_refused_even_where_every_digest_fits(copy: Path) -> None:
    """Other weights, with the manifests made to fit: what is left is what it encodes."""
    weights = next(copy.rglob("text.bin"))
    data = np.frombuffer(weights.read_bytes(), np.uint8).copy()
    middle = len(data) // 8 * 4
    data[middle + 3 : middle + 8003 : 4] ^= 0x80  # the signs of some float32s
    weights.write_bytes(data.tobytes())
    for manifest in (weights.with_name("manifest.json"), copy / "manifest.json"):
        about = json.loads(manifest.read_text(encoding="utf-8"))
        base = manifest.parent
        about["files"] = {path: hashlib.sha256((base / path).read_bytes()).hexdigest() for path in about["files"]}
        manifest.write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(GoldenMoved):
        open_packed(copy)


def test_it_runs_only_on_what_it_was_packed_for(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArguments) as caught:
        open_packed(copy, backend="torch")
    said = f"open a packed encoder: '{copy}' was packed for openvino, not for torch: pack it with --backend torch."
    assert str(caught.value) == said
    monkeypatch.setenv("RAYSTORE_BACKEND", "torch")
    with pytest.raises(InvalidArguments) as caught:
        open_packed(copy)
    assert str(caught.value) == said


def test_packed_for_torch_it_brings_its_weights(served: Served, tmp_path: Path, tiny_model: Path) -> None:
    root = Path(shutil.copytree(served.root, tmp_path / "a store"))
    source = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    catalog = Catalog(open_root(root, create=False)[0])
    encoder = Encoders(catalog).register("copied", source)
    packed = pack(catalog, "copied", tmp_path / "packed", backends=["torch", "openvino"])
    assert packed.backends == ("torch", "openvino")
    shutil.rmtree(root)
    shutil.rmtree(source)
    torch, openvino = (open_packed(packed.folder, backend=each) for each in packed.backends)
    assert (torch.backend, openvino.backend) == packed.backends
    np.testing.assert_allclose(np.asarray(torch.encode(TEXTS)), np.asarray(openvino.encode(TEXTS)), atol=2e-2)
    assert torch.fingerprint == encoder.fingerprint


def test_a_bridge_is_packed_with_the_encoder_it_stands_on(bridged_store: Path, tmp_path: Path) -> None:  # noqa: F811
    catalog = Catalog(open_root(bridged_store, create=False)[0])
    for name in ("there", "back"):
        packed = pack(catalog, name, tmp_path / name)
        expected = Encoders(catalog)[name].load(backend="openvino").encode(TEXTS)
        found = open_packed(packed.folder).encode(TEXTS)
        assert found.fingerprint == Encoders(catalog)[name].fingerprint
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_another_precision_is_packed_with_what_it_runs_on(served: Served, tmp_path: Path) -> None:
    catalog = served.rooms.catalog
    Encoders(catalog).derive("tiny_bf16", base="tiny", precision="bf16")
    packed = pack(catalog, "tiny_bf16", tmp_path / "bf16")
    assert packed.backends == ("torch",)
    expected = Encoders(catalog)["tiny_bf16"].load().encode(TEXTS)
    np.testing.assert_array_equal(np.asarray(open_packed(packed.folder).encode(TEXTS)), np.asarray(expected))
    with pytest.raises(InvalidArguments):
        pack(catalog, "tiny_bf16", tmp_path / "no", backends=["openvino"])
    assert not (tmp_path / "no").exists()


def test_int8_is_packed_with_its_graph(served: Served, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    catalog = served.rooms.catalog
    Encoders(catalog).derive("tiny_int8", base="tiny", precision="int8", sample=TEXTS[:2] * 20)
    packed = pack(catalog, "tiny_int8", tmp_path / "int8")
    assert packed.backends == ("openvino",)
    expected = Encoders(catalog)["tiny_int8"].load().encode(TEXTS[:2])
    np.testing.assert_array_equal(np.asarray(open_packed(packed.folder).encode(TEXTS[:2])), np.asarray(expected))


def test_what_cannot_be_packed_leaves_no_folder(served: Served, tmp_path: Path) -> None:
    catalog = served.rooms.catalog
    with pytest.raises(EncoderNotFound):
        pack(catalog, "nobody", tmp_path / "a")
    with pytest.raises(InvalidArguments) as caught:
        pack(catalog, "tiny", tmp_path / "a", backends=["cuda"])
    assert str(caught.value) == "pack an encoder: a backend is one of torch, openvino, onnx, not 'cuda'."
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(AlreadyExists):
        pack(catalog, "tiny", tmp_path / "full")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]


def test_the_store_is_not_changed_by_it(served: Served, tmp_path: Path) -> None:
    def files() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in served.root.rglob("*") if p.is_file()}

    before = files()
    assert read_packed(pack(served.rooms.catalog, served.fingerprint[:12], tmp_path / "a").folder).name == "tiny"
    assert files() == before
