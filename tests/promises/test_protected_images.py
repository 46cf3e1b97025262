"""Raw images are readable only where they are encoded and where they were received: the bytes of everything else are searched.

Files with a canary in their metadata, their pixels and the bytes around them, good ones and ones that are set aside, go
through every door; so do texts where the door is younger than `test_protected_path.py`. Names of files are ids and are
stored. One collection keeps its content by its owner's choice: what goes there has a mark of its own, which may stand
in `source.lance` and nowhere else.
"""

from __future__ import annotations

import io
import itertools
import shutil
import tarfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raystore
from raystore.data.embed import Embedder
from raystore.data.ingest import plan_of
from raystore.data.manifest import SourceColumns
from raystore.data.readers import plan
from raystore.encoders.items import Encoded, Item
from raystore.errors import IdConflict, InvalidArguments, InvalidRows, ItemsUnusable, JobFailed, RaystoreError
from raystore.serve.run.proxy import free_port
from tests.pictures import PICTURES, data_url
from tests.promises.marked import marked_files
from tests.promises.search import files_holding, object_store_holding, spellings_in
from tests.promises.trail import Trail, allow_core_files, loudest_output_to, new_mark
from tests.promises.turns import wait_for_both_kinds
from tests.serve.conftest import make_house

pytestmark = pytest.mark.ray

KEEPING = new_mark()  # in what goes into the collection that keeps its content
_NUMBERS = itertools.count()
_OVER_IMAGE_BYTES, _OVER_BODY_BYTES = 10_000_001, 2**24


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, ray_session: object) -> Iterator[Trail]:
    folder = tmp_path_factory.mktemp("protected images")
    trail = Trail(folder / "a store", folder / "raw", folder / "output", time.time() - 1)
    trail.sources.mkdir()
    make_house(folder, tiny_model)
    store = raystore.open(trail.store)
    store.create_collection("photos", encoder="photos")
    store.create_collection("inline", encoder="clip")
    store.create_collection("keeping", encoder="clip", keep_source=True)
    with loudest_output_to(trail.output):
        import transformers

        transformers.logging.set_verbosity_debug()
        allow_core_files()
        sources = _write_sources(trail)
        _embed(trail, store, sources)
        _fill(trail, store, sources)
        _fail_in_process(trail, store, sources)
        _derive(trail, store)
        _refuse_a_dataset(trail, store)
        _keep(trail, store)
        _serve(trail, store)
        transformers.logging.set_verbosity_warning()
    yield trail
    shutil.rmtree(trail.sources)
    trail.remove_core_files()


def _marked(trail: Trail) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Good and bad files, each with a canary of its own."""
    return marked_files(lambda: trail.canary(next(_NUMBERS)))


def _kept() -> tuple[dict[str, bytes], dict[str, bytes]]:
    return marked_files(lambda: KEEPING)


def _write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / f"class {len(data) % 2}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def _write_sources(trail: Trail) -> list[Path]:
    """A folder, a tar and a Parquet file with a column of bytes, with the same kinds of files in them."""
    folder, tar_path, column = (trail.sources / name for name in ("it's a folder", "photos.tar", "photos.parquet"))
    good, bad = _marked(trail)
    _write_folder(folder, good | bad)
    good, bad = _marked(trail)
    with tarfile.open(tar_path, "w") as tar:
        for name, data in (good | bad).items():
            member = tarfile.TarInfo(f"tar/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    good, bad = _marked(trail)
    rows = {"name": [f"column/{name}" for name in good | bad], "image": pa.array([*good.values(), *bad.values()])}
    pq.write_table(pa.table(rows), column, compression="none")
    return [folder, tar_path, column]


def _embed(trail: Trail, store: raystore.Store, sources: list[Path]) -> None:
    good, bad = (3 * len(files) for files in _kept())
    photos, inline = store.collection("photos"), store.collection("inline")
    tried = photos.embed(sources, image="image", id="name", dry_run=True)
    trail.say(f"{tried} {tried!r}")
    assert (tried.rows, tried.known) == (good + bad, 0)
    assert tried.set_aside > 0
    assert list(store.layout.tmp.iterdir()) == []
    with pytest.MonkeyPatch.context() as patch:
        wait_for_both_kinds(patch)
        on_ray = photos.embed(sources, image="image", id="name", workers=1, gpu_workers=1)
    here = inline.embed(sources, image="image", id="name", workers=0)
    for report in (on_ray, here):
        trail.say(f"{report} {report!r}")
        assert (report.added, report.set_aside) == (good, bad), report.reasons
    assert photos.jobs()[-1]["encoded_by"].keys() == {"openvino on cpu", "torch on cpu"}
    trail.say(f"{photos.jobs()} {photos.set_aside().to_pylist()} {inline.set_aside().to_pylist()}")


def _fill(trail: Trail, store: raystore.Store, sources: list[Path]) -> None:
    """Second encoders, on both kinds of workers and inline; a file that became another meanwhile is set aside."""
    photos, inline = store.collection("photos"), store.collection("inline")
    (path,) = sources[0].rglob("exif.jpg")
    before = path.read_bytes()
    path.write_bytes(PICTURES[0] + trail.text(next(_NUMBERS)).encode())
    with pytest.MonkeyPatch.context() as patch:
        wait_for_both_kinds(patch)
        on_ray = photos.add_encoder("clip", workers=1, gpu_workers=1)
    here = inline.add_encoder("photos", workers=0)
    path.write_bytes(before)
    for report in (on_ray, here):
        trail.say(f"{report} {report!r}")
        assert (report.left, report.reasons["the content is not what was embedded before"]) == (1, 1)
    texts = store.create_collection("texts", encoder="tiny")
    rows = {"id": ["a", "b"], "body": [trail.text(next(_NUMBERS)) for _ in range(2)]}
    pq.write_table(pa.table(rows), trail.sources / "texts.parquet")
    texts.embed(trail.sources / "texts.parquet", text="body", id="id", workers=0)
    report = texts.add_encoder("clip", workers=0)
    assert (report.filled, report.left) == (2, 0)
    trail.say(f"{report} {photos.jobs()} {photos.set_aside().to_pylist()} {texts.jobs()}")


def _fail_in_process(trail: Trail, store: raystore.Store, sources: list[Path]) -> None:
    good, bad = _marked(trail)
    album, photos = store.collection("album"), store.encoder("photos")
    inline, texts = store.collection("inline"), store.collection("texts")
    album.log([{"id": f"l-{name}", "image": data, "product": "p"} for name, data in good.items()])
    photos.encode(list(good.values()))
    refused = [data for data in bad.values() if b"<svg" not in data]
    trail.fails(lambda: album.log([{"id": "l-bad", "image": data} for data in bad.values()]), InvalidRows)
    trail.fails(lambda: photos.encode(refused), ItemsUnusable)
    trail.fails(lambda: photos.encode(good["exif.jpg"]), InvalidArguments)
    trail.fails(lambda: photos.encode([trail.text(next(_NUMBERS))]), ItemsUnusable)
    (path,) = sources[0].rglob("page.jpg")
    trail.fails(lambda: photos.encode([path]), ItemsUnusable)
    marked = trail.text(next(_NUMBERS))
    for row in (
        {"id": "l-text", "image": marked},
        {"id": "l-both", "image": good["exif.jpg"], "text": marked},
        {"id": "l-number", "image": [good["exif.jpg"]]},
        {"id": "l-key", "image": good["exif.jpg"], marked: marked},
        {"id": "l-kept", "image": good["exif.jpg"], "product": good["exif.jpg"]},
        {"id": "l-where", "text": good["exif.jpg"]},
    ):
        trail.fails(lambda row=row: album.log([row]), InvalidRows)
    trail.fails(lambda: album.log([{"id": "l-exif.jpg", "image": good["exif.png"]}]), IdConflict)
    trail.fails(lambda: album.search(good["exif.jpg"]), RaystoreError)
    album.search(marked, k=3)
    # The picture as a column to be kept, and a column of pictures taken for one of texts.
    for role in ("id", "subject", "tenant", "time"):
        asked = {"id": "name", role: "image"}
        trail.fails(lambda asked=asked: inline.embed(sources[2], image="image", **asked), InvalidArguments)
    trail.fails(lambda: inline.embed(sources[2], image="image", id="name", keep=["image"]), InvalidArguments)
    report = texts.embed(sources[2], text="image", id="name", workers=0)
    assert report.set_aside == report.read
    trail.say(f"{report} {texts.set_aside().to_pylist()}")


def _derive(trail: Trail, store: raystore.Store) -> None:
    """Another precision, calibrated on and measured with content."""
    sample = [f"{word} {trail.text(next(_NUMBERS))}" for word in ("card", "money") for _ in range(20)]
    # Of these texts alone, which are much alike, int8 may make the same vectors, and would be refused as the same encoder.
    words = ["card", "never", "arrived", "hello", "world", "text", "sentence", "limit", "money", "blue"]
    sample += [f"{one} {two}" for one in words for two in words]
    labels = ["a", "b"] * (len(sample) // 2)
    found = store.encoders.derive("tiny-int8", base="tiny", precision="int8", sample=sample, labels=labels)
    trail.say(f"{found} {found.report!r} {found.report.facts} {found.encoder.card!r}")


def _refuse_a_dataset(trail: Trail, store: raystore.Store) -> None:
    """Before a row of it is made, so that nothing more of it gets into the object store than its owner put there."""
    import ray.data

    witness = trail.sources / "was read"

    def read(batch: dict[str, Any]) -> dict[str, Any]:
        witness.touch()
        return {"id": batch["id"], "body": ["hello" for _ in batch["id"]]}

    rows = ray.data.range(20).map_batches(read)
    for more in ({"dry_run": True}, {"workers": 0}, {"workers": 1}, {"gpu_workers": 1}, {"id": None}):
        asked = {"text": "body", "id": "id", **more}
        trail.fails(lambda asked=asked: store.collection("texts").embed(rows, **asked), InvalidArguments)
    assert not witness.exists()
    assert len(rows.take(1)) == 1
    assert witness.exists()


def _keep(trail: Trail, store: raystore.Store) -> None:
    """Content that is kept comes by files, by calls and by a Ray Dataset."""
    import ray.data

    keeping = store.collection("keeping")
    good, bad = _kept()
    folder = _write_folder(trail.sources / "kept", good | bad)
    reports: list[object] = [keeping.embed(folder, workers=1), keeping.embed(folder, workers=0, id_prefix="again/")]
    keeping.log([{"id": "k-text", "text": f"{KEEPING} hello"}, {"id": "k-image", "image": good["exif.jpg"]}])
    rows = ray.data.from_items([{"id": f"d-{n}", "body": f"{KEEPING} {n}"} for n in range(20)])
    reports += [keeping.embed(rows, text="body", id="id", workers=1), keeping.add_encoder("photos", workers=1)]
    trail.fails(lambda: keeping.log([{"id": "k-bad", "image": bad["page.jpg"]}]), InvalidRows)
    trail.say(f"{reports} {keeping.jobs()} {keeping.set_aside().to_pylist()} {keeping.to_arrow().to_pylist()}")
    assert keeping.source(["k-image", "d-3"]) == [good["exif.jpg"], f"{KEEPING} 3"]
    assert len(keeping) == 2 * len(good) + 2 + 20


def _serve(trail: Trail, store: raystore.Store) -> None:
    running = store.deploy("colours", head="colours@1", log="everything", port=free_port())
    log, predict, search = "/v1/collections/{}/log", "/v1/predict/colours", "/v1/collections/album/search"
    good, bad = _marked(trail)
    urls = [data_url(data, name.rpartition(".")[2]) for name, data in good.items()]
    marked = trail.text(next(_NUMBERS))
    wide = PICTURES[0] + trail.text(next(_NUMBERS), _OVER_IMAGE_BYTES).encode()
    try:
        with httpx.Client(base_url=running.url, timeout=60) as client:

            def post(status: int | tuple[int, ...], path: str, body: dict[str, Any]) -> None:
                answer = client.post(path, json=body)
                trail.say(f"{answer.status_code} {answer.text} {dict(answer.headers)}")
                assert answer.status_code in ((status,) if isinstance(status, int) else status), (path, answer.text[:300])

            def embeddings(status: int, input: object, **more: object) -> None:
                post(status, "/v1/embeddings", {"model": "clip", "input": input, **more})

            post(200, log.format("album"), {"rows": [{"id": f"h-{n}", "image": url} for n, url in enumerate(urls)]})
            post(200, predict, {"items": [{"text": url} for url in urls]})
            post(200, search, {"text": urls[0]})
            embeddings(200, [*urls, marked], user=marked)
            embeddings(200, urls[0], encoding_format="base64")
            # Files that are none, cut off, or over a limit; strings that are no data URLs; fields that do not fit.
            sent = [*map(data_url, bad.values()), f"data:image/png,{marked}", f"data:image/png;base64,{marked}"]
            sent += [urls[0][:-7] + "!" * 7, f"data:image/{marked};base64,AAAA"]
            for number, url in enumerate(sent):
                post(422, log.format("album"), {"rows": [{"id": f"b-{number}", "image": url}]})
                post(422, log.format("album"), {"rows": [{"id": f"b-{number}", "text": url}]})
                post(422, predict, {"items": [{"text": urls[0]}, {"text": url}]})
                post(422, search, {"text": url})
                embeddings(422, ["hello", url])
            for url in (data_url(wide), f"data:image/png;base64,{marked * (1 + _OVER_BODY_BYTES // len(marked))}"):
                post(413, log.format("album"), {"rows": [{"id": "b-wide", "image": url}]})
                post(413, predict, {"text": url})
                post(413, search, {"text": url})
                embeddings(413, url)
            post(422, log.format("album"), {"rows": [{"id": "b-plain", "image": data_url(good["exif.jpg"])[22:]}]})
            post(422, log.format("album"), {"rows": [{"id": "b-both", "image": urls[0], "text": marked}]})
            post(422, log.format("tickets"), {"rows": [{"id": "b-other", "image": urls[0]}]})
            post(409, log.format("album"), {"rows": [{"id": "h-0", "image": urls[1]}]})
            post(422, search, {"text": urls[0], "where": f"product = '{marked}' AND ("})
            for more in ({"encoding_format": marked}, {"dimensions": marked}, {marked: marked}, {"dimensions": 7}):
                embeddings(422, urls[0], **more)
            embeddings(422, [[1, 2], marked])
            embeddings(422, {marked: marked})
            post(404, "/v1/embeddings", {"model": marked, "input": "hello"})
            post(422, "/v1/embeddings", {"model": urls[0], "input": "hello"})
            kept = [{"id": "h-kept", "image": data_url(_kept()[0]["exif.jpg"])}, {"id": "h-text", "text": KEEPING}]
            post(200, log.format("keeping"), {"rows": kept})
            for page in ("/openapi.json", "/docs", "/v1/models", "/readyz"):
                answer = client.get(page)
                assert answer.status_code == 200
                trail.say(f"{answer.text} {dict(answer.headers)}")
    finally:
        running.stop()


def test_every_kind_of_file_went_in_with_a_canary(trail: Trail) -> None:
    assert trail.used == set(range(next(_NUMBERS)))
    for number, files in enumerate(marked_files(lambda: "q" * 20)):
        assert {name for name, data in files.items() if b"q" * 20 not in data} <= {"pixels.png"}, number
    assert files_holding(trail.sources, trail.mark), "the sources hold them, outside the store"


def test_no_file_holds_a_canary(trail: Trail) -> None:
    assert trail.found(trail.mark) == {}


def test_no_error_and_no_answer_holds_a_canary(trail: Trail) -> None:
    assert trail.said_with(trail.mark) == []
    assert trail.said_with(KEEPING) == []


def test_the_object_store_holds_no_canary(trail: Trail) -> None:
    assert object_store_holding(trail.mark) == set()


def test_what_is_kept_by_choice_is_in_its_table_and_nowhere_else(trail: Trail) -> None:
    store = raystore.open(trail.store)
    table = store.layout.source("keeping")
    assert files_holding(table, KEEPING)
    elsewhere = {path: found for files in trail.found(KEEPING).values() for path, found in files.items()}
    assert {path: found for path, found in elsewhere.items() if not Path(path).is_relative_to(table)} == {}
    others = [name for name in store.collections if name != "keeping"]
    assert len(others) > 5
    assert [name for name in others if store.layout.source(name).exists()] == []


def test_nothing_is_left_of_trials_and_unfinished_work(trail: Trail) -> None:
    assert list(raystore.open(trail.store).layout.tmp.iterdir()) == []


class _Quoting:
    """An encoder that fails as a library might: with what it was given, in an error of some kind."""

    dim, max_chars, backend, device = 32, 100_000, "quoting", "cpu"

    def __init__(self, kind: Callable[[object], Exception]) -> None:
        self._kind = kind

    def encode_each(self, items: Sequence[Item]) -> Encoded:
        raise self._kind(items[0])


@pytest.mark.parametrize("kind", [KeyError, SyntaxError, ValueError, RuntimeError], ids=lambda kind: kind.__name__)
def test_an_error_that_quotes_the_image_leaves_the_job_without_it(
    tmp_path: Path, tiny_vit: Path, kind: type[Exception]
) -> None:
    store = raystore.open(tmp_path / "a store")
    store.encoders.register("photos", model=str(tiny_vit))
    photos = store.create_collection("photos", encoder="photos")
    mark = new_mark()
    folder = _write_folder(tmp_path / "raw", {"a.png": PICTURES[0] + mark.encode()})
    _, references = plan([str(folder)], 1, "embed")
    columns = SourceColumns(image="image", id="name")
    job = plan_of(photos._table, [photos.encoder()], columns, {}, id_prefix="", check=False)
    embedder = Embedder(store.layout, job, {photos.encoder().fingerprint: _Quoting(kind)}, store.key)
    if kind in (ValueError, RuntimeError):
        assert embedder.embed(references[0]).reasons == {f"the encoder failed on it ({kind.__name__})": 1}
    else:
        with pytest.raises(JobFailed, match=rf"{kind.__name__} at test_protected_images\.py:\d+") as caught:
            embedder.embed(references[0])
        assert not spellings_in(["".join(traceback.format_exception(caught.value)).encode()], mark)
        assert caught.value.__context__ is None
    assert files_holding(store.layout.root, mark) == {}
