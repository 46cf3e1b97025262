"""The official `openai` client against a real server: what works, and what it raises where something does not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import openai
import pytest

from raystore.serve.door.auth import Door
from raystore.serve.http.app import make_app
from raystore.serve.spec.app import AppSpec, Limits
from tests.pictures import data_url, gif, png
from tests.serve.conftest import Served
from tests.serve.serving import Serving, running

RED, BLUE = png((220, 30, 30)), png((30, 30, 220))
LIMITS = Limits(max_items=8, max_chars=1_000, max_image_bytes=20_000, max_image_pixels=1_000_000, max_image_frames=5)


@pytest.fixture(scope="module")
def url(house: Served) -> Iterator[str]:
    orchestrator = house.rooms.orchestrator(AppSpec(), threads=1)
    app = make_app(lambda: orchestrator, AppSpec(limits=LIMITS))
    with running(app) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none is needed on loopback", max_retries=0) as client:
        yield client


def test_models_that_the_file_does_not_name_are_not_loaded_for_anybody(house: Served) -> None:
    service = Serving(house.rooms).serve({"m-one": {"head": "refunds@2"}}, shown={"models": ["tiny"]})
    clip = house.rooms.encoders.get("clip")
    with service.client as client:
        assert [each["id"] for each in client.get("/v1/models").json()["data"]] == ["tiny"]
        for model in ("tiny", house.fingerprint):
            assert client.post("/v1/embeddings", json={"model": model, "input": "a"}).status_code == 200
        for model in ("clip", clip.label, clip.fingerprint):
            asked = [client.post("/v1/embeddings", json={"model": model, "input": "a"}), client.get(f"/v1/models/{model}")]
            for refused in asked:
                error = refused.json()["error"]
                assert (refused.status_code, error["type"], error["existing"]) == (404, "EncoderNotFound", ["tiny"])
    assert [encoder.fingerprint for encoder in service.orchestrator.encoders] == [house.fingerprint]


def test_a_text_and_a_list_of_texts_get_the_vectors_the_encoder_gives(client: openai.OpenAI, house: Served) -> None:
    texts = ["the card never arrived", "return the money"]
    expected = house.rooms.encoders.get("tiny").encode(texts)
    answer = client.embeddings.create(model="tiny", input=texts)  # the client asks for base64 where nobody says
    assert [d.index for d in answer.data] == [0, 1]
    np.testing.assert_allclose([d.embedding for d in answer.data], expected, atol=1e-5)
    assert (answer.object, answer.model, answer.data[0].object) == ("list", house.label, "embedding")
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 6
    assert answer.model_extra is not None
    assert answer.model_extra["fingerprint"] == house.fingerprint
    one = client.embeddings.create(model=house.fingerprint, input=texts[1], user="somebody")
    np.testing.assert_allclose(one.data[0].embedding, expected[1], atol=1e-5)


def test_floats_and_base64_are_the_same_numbers(client: openai.OpenAI) -> None:
    floats = client.embeddings.create(model="tiny", input="hello world", encoding_format="float").data[0].embedding
    packed = client.embeddings.create(model="tiny", input="hello world", encoding_format="base64").data[0].embedding
    assert isinstance(packed, str), "asked for by name, the client leaves it packed"
    decoded = client.embeddings.create(model="tiny", input="hello world").data[0].embedding
    np.testing.assert_array_equal(np.float32(decoded), np.float32(floats))


def test_images_and_texts_come_out_in_one_space_in_the_order_they_came_in(client: openai.OpenAI, house: Served) -> None:
    expected = house.rooms.encoders.get("clip").encode([RED, "a red world", BLUE])
    answer = client.embeddings.create(model="clip", input=[data_url(RED), "a red world", data_url(BLUE)])
    np.testing.assert_allclose([d.embedding for d in answer.data], expected, atol=1e-5)
    text_alone = client.embeddings.create(model="clip", input="a red world")
    assert answer.usage.prompt_tokens == text_alone.usage.prompt_tokens, "an image has no tokens"
    image = client.embeddings.create(model="photos", input=data_url(RED).replace("data:image/png", "DATA:Image/PNG"))
    np.testing.assert_allclose(image.data[0].embedding, house.rooms.encoders.get("photos").encode([RED])[0], atol=1e-5)
    assert image.usage.prompt_tokens == 0


def test_the_client_lists_the_encoders_and_finds_one(client: openai.OpenAI, house: Served) -> None:
    listed = client.models.list().data
    assert [(m.id, m.object, m.owned_by) for m in listed] == [
        (name, "model", "raystore") for name in ("clip", "photos", "tiny")
    ]
    assert [m.model_extra and m.model_extra["modalities"] for m in listed] == [["text", "image"], ["image"], ["text"]]
    assert all(m.created > 1_700_000_000 for m in listed)
    for asked in ("tiny", house.label, house.fingerprint):
        found = client.models.retrieve(asked)
        assert (found.id, found.model_extra and found.model_extra["fingerprint"]) == ("tiny", house.fingerprint)
    with pytest.raises(openai.NotFoundError, match="There are: 'clip', 'photos', 'tiny'"):
        client.models.retrieve("text-embedding-3-small")


TOKENS = "body.input: token numbers mean nothing without the tokenizer that made them: send the texts themselves"
REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "dimensions": (
        {"dimensions": 7},
        "embeddings: dimensions is 7, and this encoder has 32 only; where its model was trained to be cut, register it with "
        "dimensions= under a name of its own.",
    ),
    "tokens": ({"input": [464, 2872]}, f"1 field of this request is wrong: {TOKENS}."),
    "lists of tokens": ({"input": [[464], [2872, 3]]}, f"1 field of this request is wrong: {TOKENS}."),
    "nothing": ({"input": []}, "1 field of this request is wrong: body.input: the list is empty."),
    "an object": (
        {"input": {"text": "a"}},
        "1 field of this request is wrong: body.input: expected a string of valid Unicode or a list of such.",
    ),
    "something between texts": (
        {"input": ["a", None, "b", 3]},
        "1 field of this request is wrong: body.input: expected a string of valid Unicode or a list of such, "
        "and other things stand at 1, 3.",
    ),
    "spaces": ({"input": ["a", "  "]}, "1 field of this request is wrong: body.input[1]: is empty."),
    "a format": (
        {"encoding_format": "hex"},
        "1 field of this request is wrong: body.encoding_format: input should be 'float' or 'base64'.",
    ),
    "an image for a text encoder": (
        {"input": ["a", data_url(RED)]},
        "1 field of this request is wrong: body.input[1]: is an image, and this encoder takes texts.",
    ),
    "a text for an image encoder": (
        {"model": "photos", "input": "a"},
        "1 field of this request is wrong: body.input: is a text, and this encoder takes images.",
    ),
    "an image that is cut off": (
        {"model": "clip", "input": ["a", data_url(RED[:-30])]},
        "1 field of this request is wrong: body.input[1]: is cut off.",
    ),
    "no image": (
        {"model": "photos", "input": [data_url(RED), data_url(b"<html>"), data_url(b"")]},
        "2 fields of this request are wrong: body.input[1]: is no image file; body.input[2]: is empty.",
    ),
    "no base64": (
        {"model": "photos", "input": ["data:image/png,abc", "data:image/png;base64,a-_b", "data:image/png;base64,abc"]},
        "3 fields of this request are wrong: body.input[0]: is no data URL in base64: send an image as "
        "data:image/png;base64,...; body.input[1]: is no valid base64 after the comma; "
        "body.input[2]: is no valid base64 after the comma.",
    ),
    "too many pixels": (
        {"model": "photos", "input": data_url(png((0, 9, 0), (1_001, 1_000)))},
        "1 field of this request is wrong: body.input: has 1,001,000 pixels, at most 1,000,000 are read.",
    ),
    "too many frames": (
        {"model": "photos", "input": data_url(gif(6), "gif")},
        "1 field of this request is wrong: body.input: has 6 frames, at most 5.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_an_unprocessable_entity_that_names_the_field(client: openai.OpenAI, case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(openai.UnprocessableEntityError) as raised:
        client.embeddings.create(**{"model": "tiny", "input": "a", **changes})  # type: ignore[call-overload]
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["message"] == message


def test_what_is_too_large_says_the_field_and_the_limit(client: openai.OpenAI) -> None:
    for sent, message in [
        (data_url(b"x" * 20_001), "body.input has 20001 bytes, over the limit of 20000."),
        (["a", data_url(b"x" * 20_002)], "body.input[1] has 20002 bytes, over the limit of 20000."),
        ("x" * 1_001, "body.input has 1001 characters, over the limit of 1000."),
        (["x"] * 9, "body.input has 9 items, over the limit of 8."),
    ]:
        with pytest.raises(openai.APIStatusError) as raised:
            client.embeddings.create(model="clip", input=sent)
        assert raised.value.status_code == 413
        assert isinstance(raised.value.body, dict)
        assert (raised.value.type, raised.value.body["message"]) == ("BodyTooLarge", message)


def test_an_unknown_model_is_not_found_and_the_known_ones_are_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.embeddings.create(model="text-embedding-3-small", input="a")
    assert (raised.value.type, raised.value.status_code) == ("EncoderNotFound", 404)
    assert "There are: 'clip', 'photos', 'tiny'." in str(raised.value)
    assert raised.value.request_id, "the answer's x-request-id, as the client reads it"


def test_a_key_of_the_store_is_the_clients_api_key(house: Served) -> None:
    from raystore.access import ApiKeys, Verb

    keys = ApiKeys(house.rooms.layout, house.rooms.store_key)
    may = keys.create("reader", frozenset({Verb.PREDICT}))
    may_not = keys.create("writer", frozenset({Verb.LOG}))
    orchestrator = house.rooms.orchestrator(AppSpec(), threads=1)
    with running(make_app(lambda: orchestrator, AppSpec(), Door(keys))) as url:

        def models(key: str) -> list[str]:
            with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
                return [model.id for model in client.models.list()]

        assert models(may) == ["clip", "photos", "tiny"]
        with pytest.raises(openai.PermissionDeniedError, match="lacks the verb 'predict'"):
            models(may_not)
        with pytest.raises(openai.AuthenticationError):
            models("sk-unknown")
