from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from raystore.encoders.source import MINILM, find_source, modules
from raystore.errors import InvalidArguments, ModelUnusable

Copy = Callable[[str], Path]


def refusal(model: str | Path) -> str:
    with pytest.raises(ModelUnusable) as caught:
        find_source(model)
    return str(caught.value)


@pytest.mark.parametrize("name", ["minilm", "all-MiniLM-L6-v2", MINILM])
def test_minilm_is_the_packaged_copy(name: str) -> None:
    source = find_source(name)
    assert source.model == MINILM
    assert (source.folder / "model.safetensors").is_file()
    assert [kind for kind, _ in modules(source)] == ["Transformer", "Pooling", "Normalize"]


def test_content_digest_follows_the_bytes_and_not_the_place(copy_of_tiny: Copy) -> None:
    one, other = copy_of_tiny("one"), copy_of_tiny("zwei äö '\"")
    assert find_source(one).content_digest() == find_source(other).content_digest()
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    assert find_source(one).content_digest() != find_source(other).content_digest()


def test_pickled_weights_are_refused_with_the_way_to_convert_them(copy_of_tiny: Copy) -> None:
    folder = copy_of_tiny("pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert refusal(folder) == (
        f"model '{folder}' cannot be used: its weights are pickled, and such a file can run any code when it is read: "
        "raystore reads safetensors. Convert it once, where you trust it: SentenceTransformer(path).save(new_path), "
        "then register new_path."
    )


def test_pickled_weights_of_a_dense_module_are_refused(copy_of_tiny: Copy) -> None:
    folder = copy_of_tiny("dense")
    kinds = ["Transformer", "Pooling", "Dense"]
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {
                    "idx": i,
                    "name": str(i),
                    "path": f"{i}_{kind}" if i else "",
                    "type": f"sentence_transformers.models.{kind}",
                }
                for i, kind in enumerate(kinds)
            ]
        )
    )
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"pickle")
    assert "its weights are pickled" in refusal(folder)


def test_a_folder_without_weights_is_refused(copy_of_tiny: Copy) -> None:
    folder = copy_of_tiny("empty")
    (folder / "model.safetensors").unlink()
    assert refusal(folder) == (
        f"model '{folder}' cannot be used: it holds no weights (no *.safetensors file). "
        "Give a folder made with save_pretrained() or SentenceTransformer.save()."
    )


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_is_refused(copy_of_tiny: Copy, file: str) -> None:
    folder = copy_of_tiny("remote")
    about = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**about, "auto_map": {"AutoModel": "modeling.Evil"}}))
    assert refusal(folder) == (
        f"model '{folder}' cannot be used: its {file} asks for code of its own (auto_map), which raystore never runs. "
        "Use a model whose architecture is part of transformers."
    )


@pytest.mark.parametrize("kind", ["os.system", "sentence_transformers.models.Router", "my.Pooling"])
def test_modules_that_are_not_sentence_transformers_own_are_refused(copy_of_tiny: Copy, kind: str) -> None:
    folder = copy_of_tiny("modules")
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": kind}]))
    assert f"its modules.json holds a module '{kind}'" in refusal(folder)


def test_a_module_outside_the_folder_is_refused(copy_of_tiny: Copy) -> None:
    folder = copy_of_tiny("outside")
    kind = "sentence_transformers.models.Transformer"
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "../one", "type": kind}]))
    assert "its modules.json holds a module" in refusal(folder)


def test_an_adapter_without_its_base_is_refused(copy_of_tiny: Copy) -> None:
    folder = copy_of_tiny("adapter")
    (folder / "adapter_config.json").write_text("{}")
    assert "it is an adapter without its base model" in refusal(folder)


def test_damaged_json_is_refused(copy_of_tiny: Copy) -> None:
    folder = copy_of_tiny("damaged")
    (folder / "config.json").write_text("{")
    assert refusal(folder) == (
        f"model '{folder}' cannot be used: its config.json cannot be read. Download or save the model again."
    )


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "there is no such folder, and it is no name of a hub model" in refusal(tmp_path / "nowhere")


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    assert "it is a folder without config.json or modules.json" in refusal(tmp_path)


def test_a_hub_name_that_cannot_be_fetched_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert refusal("nobody/no-such-model-of-raystore") == (
        "model 'nobody/no-such-model-of-raystore' cannot be used: there is no such folder, no copy in the hub's cache, "
        "and it could not be fetched (HF_HUB_OFFLINE is set). Check the name and the network, or download the model "
        "elsewhere and give the path of its folder."
    )


def test_a_broken_network_is_said_by_its_kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    def unreachable(*args: object, **kwargs: object) -> None:
        raise ConnectionError("name resolution failed")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    assert "it could not be fetched (ConnectionError)" in refusal("nobody/no-such-model-of-raystore")


@pytest.mark.parametrize("model", ["", None, 7])
def test_what_is_no_name_is_an_argument_error(model: object) -> None:
    with pytest.raises(InvalidArguments) as caught:
        find_source(model)  # type: ignore[arg-type]
    assert str(caught.value) == "register: model= takes a hub name or the path of a folder."


@pytest.mark.parametrize(
    ("imported", "told"),
    [("import tqdm.auto", True), ("from raystore.encoders.source import import_bars; import_bars()", False)],
)
def test_a_notebook_is_not_told_to_install_widgets_for_bars_that_are_not_shown(imported: str, told: bool) -> None:
    without_widgets = "import sys, ipykernel.zmqshell; sys.modules['ipywidgets'] = None; "
    own = "; import warnings; warnings.warn('ours')"
    ran = subprocess.run(
        [sys.executable, "-c", without_widgets + imported + own], capture_output=True, text=True, check=True
    )
    assert "UserWarning: ours" in ran.stderr
    assert ("IProgress not found" in ran.stderr) == told
