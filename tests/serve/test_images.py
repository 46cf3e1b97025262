"""Images over HTTP on raystore's own routes: the same strings mean the same everywhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from starlette.testclient import TestClient

from raystore.data.collection import CollectionTable
from raystore.serve.http.app import make_app
from raystore.serve.spec.app import AppSpec
from tests.pictures import PICTURES, data_url
from tests.serve.conftest import Served, durable, recorded

RED, BLUE = PICTURES[0], PICTURES[3]


@pytest.fixture(scope="module")
def client(house: Served) -> Iterator[TestClient]:
    rooms = house.rooms
    orchestrator = rooms.orchestrator(AppSpec(), threads=1)
    records = {
        "triage": recorded(rooms, "triage", "refunds@2"),
        "colours": recorded(rooms, "colours", "colours@1"),
        "keeping": recorded(rooms, "keeping", "refunds@2", log="everything"),
        "keeping-colours": recorded(rooms, "keeping-colours", "colours@1", log="everything"),
    }
    orchestrator.update(rooms.live(records))
    with TestClient(make_app(lambda: orchestrator, AppSpec()), base_url="http://127.0.0.1") as client:
        yield client


def vectors_of(house: Served, collection: str, encoder: str, ids: list[str]) -> np.ndarray:
    fingerprint = house.rooms.encoders.get(encoder).fingerprint
    return np.asarray(durable(house.rooms.layout, collection).vectors_of(ids, fingerprint))


def has_vector(house: Served, collection: str, encoder: str, id_: str) -> bool:
    column = f"vec_{house.rooms.encoders.get(encoder).fingerprint[:12]}"
    table = CollectionTable.open(house.rooms.layout, collection).rows.dataset().to_table(columns=["id", column])
    return bool(table.filter(table["id"].to_numpy(zero_copy_only=False) == id_)[column][0].is_valid)


def several(*texts: str) -> dict[str, object]:
    return {"items": [{"text": text} for text in texts]}


def test_predict_labels_images(client: TestClient) -> None:
    body = client.post("/v1/predict/colours", json=several(*map(data_url, PICTURES))).json()
    assert [p["label"] for p in body["predictions"]] == ["red"] * 3 + ["blue"] * 3
    one = client.post("/v1/predict/colours", json={"text": data_url(BLUE)}).json()
    assert one["predictions"][0]["label"] == "blue"


def test_what_the_encoder_does_not_take_is_refused_with_its_field(client: TestClient) -> None:
    for path, body, field, reason in [
        (
            "/v1/predict/triage",
            several("a", data_url(RED)),
            "body.items[1].text",
            "is an image, and this encoder takes texts",
        ),
        ("/v1/predict/triage", {"text": data_url(RED)}, "body.text", "is an image, and this encoder takes texts"),
        ("/v1/predict/colours", {"text": "a"}, "body.text", "is a text, and this encoder takes images"),
        (
            "/v1/collections/tickets/search",
            {"text": data_url(RED)},
            "body.text",
            "is an image, and this encoder takes texts",
        ),
        ("/v1/predict/colours", {"text": data_url(RED[:-30])}, "body.text", "is cut off"),
    ]:
        answer = client.post(path, json=body)
        assert (answer.status_code, answer.json()["error"]["problems"]) == (422, [{"field": field, "reason": reason}])


def test_images_are_logged_and_found_by_an_image_and_by_their_id(client: TestClient) -> None:
    rows = [{"id": f"p-{n}", "image": data_url(p), "product": "red" if n < 3 else "blue"} for n, p in enumerate(PICTURES)]
    rows += [{"id": "t-1", "text": "a red world"}]
    answer = client.post("/v1/collections/album/log", json={"rows": rows})
    assert (answer.status_code, answer.json()["added"]) == (200, 7), answer.text
    assert client.post("/v1/collections/album/log", json={"rows": rows}).json()["known"] == 7
    for query, found in [({"text": data_url(BLUE)}, "p-3"), ({"id": "p-3"}, "p-3"), ({"text": "a red world"}, "t-1")]:
        hits = client.post("/v1/collections/album/search", json={**query, "k": 1}).json()["hits"]
        assert (hits[0]["id"], round(hits[0]["score"], 4)) == (found, 1.0)


def test_rows_whose_content_cannot_be_embedded_are_named(client: TestClient) -> None:
    url = "/v1/collections/{}/log"
    answer = client.post(
        url.format("album"), json={"rows": [{"id": "a", "text": "x"}, {"id": "b", "image": data_url(b"GIF8")}]}
    )
    assert answer.json()["error"]["problems"] == [{"field": "body.rows[1].image", "reason": "is no image file"}]
    answer = client.post(url.format("tickets"), json={"rows": [{"id": "a", "image": data_url(RED)}]})
    assert (answer.status_code, answer.json()["error"]["problems"]) == (
        422,
        [{"row": 0, "reason": "its image is not what the collection embeds: texts"}],
    )
    answer = client.post(url.format("album"), json={"rows": [{"id": "a", "image": data_url(RED[:-30])}]})
    assert (answer.status_code, answer.json()["error"]["problems"]) == (422, [{"row": 0, "reason": "the image is cut off"}])
    answer = client.post(url.format("album"), json={"rows": [{"id": "a", "text": "b", "image": data_url(RED)}]})
    assert answer.status_code == 422


def test_a_logged_row_gets_a_vector_of_every_encoder_that_takes_it(client: TestClient, house: Served) -> None:
    rows = [{"id": "e-text", "text": "a red world"}, {"id": "e-image", "image": data_url(RED)}]
    assert client.post("/v1/collections/everything/log", json={"rows": rows}).json()["added"] == 2
    for id_, item, encoders in [("e-text", "a red world", ("tiny", "clip")), ("e-image", RED, ("clip", "photos"))]:
        for encoder in ("tiny", "clip", "photos"):
            assert has_vector(house, "everything", encoder, id_) == (encoder in encoders)
        for encoder in encoders:
            expected = house.rooms.encoders.get(encoder).encode([item])
            np.testing.assert_allclose(vectors_of(house, "everything", encoder, [id_]), expected, atol=1e-5)


def test_a_prediction_that_is_kept_gets_the_vectors_of_the_collections_other_encoders_too(
    client: TestClient, house: Served
) -> None:
    texts, images = ["return the money", "the card"], [data_url(RED)]
    (image,) = client.post("/v1/predict/keeping-colours", json=several(*images)).json()["logged"]
    logged = client.post("/v1/predict/keeping", json=several(*texts)).json()["logged"]
    for encoder, ids, items in [
        ("tiny", logged, texts),
        ("clip", [*logged, image], [*texts, RED]),
        ("photos", [image], [RED]),
    ]:
        expected = house.rooms.encoders.get(encoder).encode(items)
        np.testing.assert_allclose(vectors_of(house, "everything", encoder, ids), expected, atol=1e-5)
