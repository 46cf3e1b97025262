from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raystore.encoders.backends import exported_backends
from raystore.encoders.image_probes import image_probes, sample_images
from raystore.encoders.images import read_image
from raystore.encoders.model import Model, Options, example_inputs
from raystore.encoders.pixels import normalised, pixels
from raystore.encoders.source import Source, find_source
from raystore.encoders.vision import load_vision_model, vision_kind
from raystore.errors import InvalidArguments, ModelUnusable
from raystore.vectors import Matrix

pytestmark = pytest.mark.model

TEXTS = ["a photo of a cat", "card", "the world of money never arrived " * 20, ""]
KINDS = ("vit", "deit", "dinov2", "resnet", "regnet", "convnext", "mobilenet_v1", "mobilenet_v2", "swin", "clip")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for each other in several threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config_of(kind: str) -> Any:
    import transformers as t

    token: dict[str, Any] = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "image_size": 32, "patch_size": 8, "initializer_range": 0.3,
    }  # fmt: skip
    staged: dict[str, Any] = {"hidden_sizes": [16, 32], "depths": [1, 1]}
    if kind == "clip":
        text = t.CLIPTextConfig(
            vocab_size=48, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=16, bos_token_id=0, eos_token_id=1, pad_token_id=1, initializer_range=0.3,
        )  # fmt: skip
        return t.CLIPConfig(text_config=text.to_dict(), vision_config=token, projection_dim=24)
    return {
        "vit": lambda: t.ViTConfig(**token),
        "deit": lambda: t.DeiTConfig(**token),
        "dinov2": lambda: t.Dinov2Config(**token | {"image_size": 56}),
        "resnet": lambda: t.ResNetConfig(embedding_size=16, **staged),
        "regnet": lambda: t.RegNetConfig(embedding_size=16, groups_width=8, **staged),
        "convnext": lambda: t.ConvNextConfig(num_stages=2, initializer_range=0.3, **staged),
        "mobilenet_v1": lambda: t.MobileNetV1Config(depth_multiplier=0.25, image_size=32),
        "mobilenet_v2": lambda: t.MobileNetV2Config(depth_multiplier=0.25, image_size=32),
        "swin": lambda: t.SwinConfig(
            embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4, image_size=32, patch_size=4, initializer_range=0.3
        ),
    }[kind]()


def processor_of(kind: str) -> Any:
    import transformers as t

    cut = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
    return {
        "vit": lambda: t.ViTImageProcessorPil(size={"height": 32, "width": 32}),
        "swin": lambda: t.ViTImageProcessorPil(size={"height": 32, "width": 32}),
        "deit": lambda: t.DeiTImageProcessorPil(size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}),
        "dinov2": lambda: t.BitImageProcessorPil(**cut),
        "resnet": lambda: t.ConvNextImageProcessorPil(size={"shortest_edge": 48}),
        "regnet": lambda: t.ConvNextImageProcessorPil(size={"shortest_edge": 48}),
        "convnext": lambda: t.ConvNextImageProcessorPil(size={"shortest_edge": 48}),
        "mobilenet_v1": lambda: t.MobileNetV1ImageProcessorPil(**cut),
        "mobilenet_v2": lambda: t.MobileNetV2ImageProcessorPil(**cut),
        "clip": lambda: t.CLIPImageProcessorPil(**cut),
    }[kind]()


def clip_tokenizer() -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz"
    vocab = {token: i for i, token in enumerate(["<start>", "<end>", "<unk>", *letters, *"0123456789"])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    inner.decoder = decoders.Fuse()
    inner.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<start>", eos_token="<end>", pad_token="<end>", unk_token="<unk>"
    )


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a real model of a kind, tiny, its weights drawn with one seed; made once."""
    made: dict[str, Path] = {}

    def folder_of(kind: str) -> Path:
        import torch
        import transformers

        if kind in made:
            return made[kind]
        folder = tmp_path_factory.mktemp("vision") / kind
        with torch.random.fork_rng():
            torch.manual_seed(20261120)
            model = transformers.AutoModel.from_config(config_of(kind)).eval()
            for module in model.modules():  # so that an average of nothing but zeros does not look right
                if isinstance(module, torch.nn.Conv2d) and "net" in kind:
                    torch.nn.init.kaiming_normal_(module.weight)
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.running_mean.uniform_(-0.2, 0.2)
                    module.running_var.uniform_(0.5, 2.0)
        model.save_pretrained(folder)
        processor_of(kind).save_pretrained(folder)
        if kind == "clip":
            clip_tokenizer().save_pretrained(folder)
        made[kind] = folder
        return folder

    return folder_of


Folders = Callable[[str], Path]


def load(folder: Path, **options: object) -> Model:
    return load_vision_model(find_source(folder), Options.model_validate(options))


def rows_of(model: Model, files: list[bytes]) -> Matrix:
    """What the loaded encoder does, without one."""
    import torch

    part = model.passport.image
    assert part is not None
    stack = np.stack([pixels(read_image(data), part) for data in files])
    with torch.inference_mode():
        rows: Matrix = model.graphs["image"](pixel_values=torch.from_numpy(normalised(stack, part))).numpy()
    return rows


def reference(folder: Path, files: list[bytes], pool: Callable[[Any], Any]) -> Matrix:
    """The plain transformers loop."""
    import torch
    from transformers import AutoImageProcessor, AutoModel

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    model = AutoModel.from_pretrained(folder).eval()
    inputs = processor([read_image(data) for data in files], return_tensors="pt")
    with torch.inference_mode():
        output = model.get_image_features(**inputs) if hasattr(model, "get_image_features") else model(**inputs)
        rows: Matrix = torch.nn.functional.normalize(pool(output).flatten(1), dim=1).numpy()
    return rows


def cosine_distance(a: Matrix, b: Matrix) -> float:
    return float((1 - np.einsum("nd,nd->n", a.astype(np.float64), b.astype(np.float64))).max())


POOLS: dict[str, Callable[[Any], Any]] = {
    "cls": lambda output: output.last_hidden_state[:, 0],
    "pooler": lambda output: output.pooler_output,
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_plain_transformers_loop(kind: str, folders: Folders) -> None:
    files = [*image_probes(), *sample_images(12)]
    model = load(folders(kind))
    found = rows_of(model, files)
    pool = POOLS["cls" if kind in ("vit", "deit", "dinov2") else "pooler"]
    assert found.shape == (24, model.passport.dim)
    assert cosine_distance(found, reference(folders(kind), files, pool)) < 1e-5
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert len(np.unique(found.round(4), axis=0)) == 24  # the model tells them apart, so the comparison says something


@pytest.mark.parametrize("kind, tokens", [("vit", 1), ("deit", 2), ("dinov2", 1)])
def test_mean_pooling_is_the_average_of_the_patches(kind: str, tokens: int, folders: Folders) -> None:
    files = list(image_probes())
    model = load(folders(kind), pooling="mean")
    expected = reference(folders(kind), files, lambda output: output.last_hidden_state[:, tokens:].mean(1))
    assert cosine_distance(rows_of(model, files), expected) < 1e-5


def test_clip_puts_texts_and_images_into_one_space_as_transformers_does(folders: Folders) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = folders("clip")
    model = load(folder)
    part = model.passport.text
    assert part is not None
    assert (model.passport.modalities, model.passport.dim) == (("text", "image"), 24)
    assert (part.max_length, part.pad_id, part.pooling, part.inputs) == (
        16,
        1,
        "projection",
        ("input_ids", "attention_mask"),
    )
    assert model.tokenizer_json is not None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(TEXTS, padding=True, truncation=True, max_length=16, return_tensors="pt")
    names = ("input_ids", "attention_mask")
    with torch.inference_mode():
        found = model.graphs["text"](**{name: inputs[name] for name in names}).numpy()
        theirs = AutoModel.from_pretrained(folder).eval()
        images = torch.zeros(1, 3, 32, 32)
        expected = theirs(pixel_values=images, **{name: inputs[name] for name in names}).text_embeds.numpy()
    assert cosine_distance(found, expected) < 1e-5
    assert len(np.unique(found.round(4), axis=0)) == len(TEXTS)


@pytest.mark.parametrize("backend", exported_backends())
@pytest.mark.parametrize("kind", ["vit", "dinov2", "resnet", "mobilenet_v2", "swin", "clip"])
def test_every_graph_can_be_exported_and_takes_another_number_of_items(
    kind: str, backend: str, folders: Folders, tmp_path: Path
) -> None:
    import torch

    model = load(folders(kind))
    exported = exported_backends()[backend]
    for modality, graph in model.graphs.items():
        example = example_inputs(model.passport, modality)
        exported.export(graph, example, tmp_path, modality)
        inputs = others(modality, example)
        with torch.inference_mode():
            expected = graph(**{name: torch.from_numpy(array) for name, array in inputs.items()}).numpy()
        found = exported(tmp_path, modality, threads=1, precision=exported.precisions[-1]).run(inputs)
        assert cosine_distance(found, expected) < 1e-5


def others(modality: str, example: dict[str, Any]) -> dict[str, Any]:
    """Five items of other content, and for texts of another length."""
    random = np.random.default_rng(0)
    if modality == "image":
        return {name: random.normal(size=(5, *array.shape[1:])).astype(np.float32) for name, array in example.items()}
    ids = random.integers(3, 30, (5, 11))
    mask = np.arange(11) < np.array([11, 3, 7, 2, 10])[:, None]
    ids[np.arange(5), mask.sum(1) - 1] = 1
    return {"input_ids": np.where(mask, ids, 1).astype(np.int64), "attention_mask": mask.astype(np.int64)}


@pytest.mark.parametrize(
    "kind, expected", [("vit", "image"), ("mobilenet_v2", "image"), ("clip", "text+image"), ("bert", None)]
)
def test_what_a_folder_takes_is_read_off_its_config(
    kind: str, expected: str | None, folders: Folders, tiny_model: Path
) -> None:
    folder = tiny_model if kind == "bert" else folders(kind)
    assert vision_kind(Source(model="it", folder=folder)) == expected


@pytest.mark.parametrize("text", [None, "{", "[]", '{"model_type": ["vit"]}'])
def test_a_config_that_cannot_be_read_is_that_of_no_vision_model(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    source = Source(model="it", folder=tmp_path)
    assert vision_kind(source) is None
    with pytest.raises(ModelUnusable) as caught:
        load_vision_model(source, Options())
    assert caught.value.found == "it is no vision model that is known"


@pytest.mark.parametrize(
    "kind, options, changed",
    [
        ("vit", {"pooling": "mean"}, ["image.pooling"]),
        ("vit", {"kernel": "nearest"}, ["image.kernel"]),
        ("mobilenet_v2", {"resize": 64}, ["image.size", "image.crop"]),
        ("dinov2", {"resize": 48, "kernel": "lanczos"}, ["image.size", "image.kernel", "image.crop"]),
        ("clip", {"max_length": 8}, ["text.max_length"]),
        ("clip", {"prompt": "a photo of "}, ["text.prompt"]),
    ],
)
def test_another_option_is_another_encoder(
    kind: str, options: dict[str, object], changed: list[str], folders: Folders
) -> None:
    plain, other = load(folders(kind)), load(folders(kind), **options)
    assert other.passport.differences(plain.passport) == changed
    assert other.passport.fingerprint != plain.passport.fingerprint
    if changed[0].startswith("image"):
        files = list(image_probes())
        assert cosine_distance(rows_of(plain, files), rows_of(other, files)) > 1e-4


def test_dinov2_at_another_size_is_transformers_dinov2_at_that_size(folders: Folders, tmp_path: Path) -> None:
    import transformers

    folder = Path(shutil.copytree(folders("dinov2"), tmp_path / "larger"))
    cut = {"size": {"shortest_edge": 80}, "crop_size": {"height": 64, "width": 64}}
    transformers.BitImageProcessorPil(**cut).save_pretrained(folder)
    files = list(image_probes())
    assert (
        cosine_distance(rows_of(load(folders("dinov2"), resize=64), files), reference(folder, files, POOLS["cls"])) < 1e-5
    )


@pytest.mark.parametrize(
    "kind, options, problems",
    [
        ("vit", {"pooling": "pooler"}, "pooling= is cls or mean for this model, not 'pooler'"),
        ("resnet", {"pooling": "mean"}, "pooling= is pooler for this model, not 'mean'"),
        ("vit", {"max_length": 8, "prompt": ""}, "max_length= is for text models; prompt= is for text models"),
        ("vit", {"resize": 64}, "resize= is for models that take pictures of any size, and this one takes one size"),
        ("clip", {"max_length": 17}, "max_length= is 3 to 16 tokens for this model"),
        ("mobilenet_v2", {"resize": 1}, "resize= is 32 to 2048 pixels"),
    ],
)
def test_options_a_model_cannot_take_are_refused(
    kind: str, options: dict[str, object], problems: str, folders: Folders
) -> None:
    with pytest.raises(InvalidArguments) as caught:
        load(folders(kind), **options)
    assert str(caught.value) == f"register: {problems}."


@pytest.fixture
def copy(folders: Folders, tmp_path: Path) -> Callable[[str], Path]:
    return lambda kind: Path(shutil.copytree(folders(kind), tmp_path / "copy"))


def edit(folder: Path, name: str, **changes: object) -> None:
    path = folder / name
    about = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in about.items() if value is not None}))


@pytest.mark.parametrize("kind", ["vit", "mobilenet_v2", "clip"])
def test_saving_a_model_again_leaves_the_encoder_the_same(kind: str, copy: Folders, folders: Folders) -> None:
    from transformers import AutoModel

    folder = copy(kind)
    (folder / "model.safetensors").unlink()
    AutoModel.from_pretrained(folders(kind)).save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert load(folder).passport == load(folders(kind)).passport


@pytest.mark.parametrize("kind", ["vit", "resnet", "mobilenet_v2", "dinov2"])
def test_a_classifier_on_top_leaves_the_encoder_the_same(kind: str, folders: Folders, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel, AutoModelForImageClassification

    inner = AutoModel.from_pretrained(folders(kind))
    outer = AutoModelForImageClassification.from_config(inner.config)
    with torch.no_grad():
        outer.base_model.load_state_dict(inner.state_dict(), strict=False)
    outer.save_pretrained(tmp_path / "classifier")
    processor_of(kind).save_pretrained(tmp_path / "classifier")
    assert load(tmp_path / "classifier").passport == load(folders(kind)).passport


def test_a_vit_saved_with_a_pooler_is_the_same_encoder_as_one_without(folders: Folders, copy: Folders) -> None:
    from safetensors.numpy import load_file, save_file

    folder = copy("vit")
    tensors = load_file(folder / "model.safetensors")
    poolers = [name for name in tensors if name.startswith("pooler")]
    assert poolers
    kept = {name: tensor for name, tensor in tensors.items() if name not in poolers}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert load(folder).passport == load(folders("vit")).passport


def test_one_changed_weight_is_another_encoder(folders: Folders, copy: Folders) -> None:
    change_weights(folder := copy("resnet"), lambda tensors: tensors[sorted(tensors)[0]].__iadd__(0.5))
    assert load(folder).passport.differences(load(folders("resnet")).passport) == ["weights"]


def change_weights(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = {name: tensor.copy() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("kind", ["vit", "resnet", "clip"])
def test_a_model_whose_files_lack_weights_is_refused(kind: str, copy: Folders) -> None:
    folder = copy(kind)
    gone: list[str] = []

    def drop(tensors: dict[str, Any]) -> None:
        names = [n for n in sorted(tensors) if "pooler" not in n and "logit_scale" not in n and "num_batches" not in n]
        gone.extend(names[-2:])
        for name in gone:
            del tensors[name]

    change_weights(folder, drop)
    with pytest.raises(ModelUnusable) as caught:
        load(folder)
    assert caught.value.found.startswith("its files lack 2 of its weights, '")
    assert caught.value.found.endswith("' first, which would be drawn at random")


def test_weights_of_another_shape_are_refused(copy: Folders) -> None:
    folder = copy("vit")
    edit(folder, "config.json", intermediate_size=128)
    with pytest.raises(ModelUnusable) as caught:
        load(folder)
    assert "transformers could not load it (RuntimeError" in str(caught.value)


def test_a_torn_file_of_weights_is_refused(copy: Folders) -> None:
    folder = copy("vit")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelUnusable) as caught:
        load(folder)
    assert "transformers could not load it (SafetensorError" in str(caught.value)


def test_a_processor_that_does_not_fit_the_model_is_refused(copy: Folders) -> None:
    folder = copy("vit")
    edit(folder, "preprocessor_config.json", size={"height": 48, "width": 48})
    with pytest.raises(ModelUnusable) as caught:
        load(folder)
    assert str(caught.value) == (
        f"model '{folder}' cannot be used: its processor makes pictures of 48 x 48 pixels, and the model takes 32 x 32. "
        "Use the processor that was published with the model."
    )


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(copy: Folders) -> None:
    folder = copy("clip")
    tokenizer = clip_tokenizer()
    tokenizer.add_tokens([f"more{i}" for i in range(100)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelUnusable) as caught:
        load(folder)
    assert caught.value.found == "its tokenizer does not fit: it has a token numbered 138, the model knows 0 to 47"


def test_clip_without_a_tokenizer_is_refused(copy: Folders) -> None:
    folder = copy("clip")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelUnusable) as caught:
        load(folder)
    assert caught.value.found.startswith("it has no tokenizer (tokenizer.json, vocab.txt, vocab.json")


def test_keys_that_change_no_output_do_not_change_the_encoder(copy: Folders, folders: Folders) -> None:
    folder = copy("clip")
    about = json.loads((folder / "config.json").read_text())
    about["text_config"] |= {"_name_or_path": "/elsewhere", "attention_dropout": 0.5, "transformers_version": "4.0"}
    edit(folder, "config.json", text_config=about["text_config"], _name_or_path="/elsewhere", transformers_version="4.0")
    assert load(folder).passport == load(folders("clip")).passport


@pytest.fixture(scope="session")
def photographs(datasets: Path) -> list[bytes]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(datasets / "caltech101" / "test.parquet").read_row_group(0)
    column = next(name for name in ("image", "bytes", "content") if name in table.column_names)
    items = table.column(column).to_pylist()[:36]
    return [item["bytes"] if isinstance(item, dict) else item for item in items]


def test_photographs_get_the_rows_of_the_plain_transformers_loop(datasets: Path, photographs: list[bytes]) -> None:
    folder = datasets / "encoders" / "mobilenet_v2"
    model = load(folder)
    part = model.passport.image
    assert part is not None
    assert (part.pooling, part.resize, part.size, part.crop, part.kernel) == (
        "pooler",
        "shortest",
        (256, 256),
        (224, 224),
        "bilinear",
    )
    assert (model.passport.dim, model.passport.architecture) == (1280, "MobileNetV2Model")
    found = rows_of(model, photographs)
    assert cosine_distance(found, reference(folder, photographs, POOLS["pooler"])) < 1e-5
    assert len(np.unique(found.round(4), axis=0)) == 36


def test_a_photograph_in_another_format_is_nearly_the_same_row(datasets: Path, photographs: list[bytes]) -> None:
    model = load(datasets / "encoders" / "mobilenet_v2")
    image = Image.open(BytesIO(photographs[0])).convert("RGB")
    files = [photographs[0]]
    for kind, options in (("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        out = BytesIO()
        image.save(out, kind, **options)
        files.append(out.getvalue())
    rows = rows_of(model, files)
    assert (rows @ rows[0] > 1 - 1e-5).all()
