"""What a user would write: FastAPI, an encoder, a scikit-learn head and a simple batcher, in one process.

    python serve_worker.py PORT VECTORS.npy LABELS.json torch MODEL-FOLDER
    python serve_worker.py PORT VECTORS.npy LABELS.json openvino STORE     (in raystore's environment: its encoder, nothing else of it)

POST /predict/{wait_ms} {"text": ...}: the most likely labels. Requests that wait are encoded together, up to 32 of them, and the first
one waits up to `wait_ms` for more.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sklearn.linear_model import LogisticRegression

MOST = 32
TOP = 5


class Question(BaseModel):
    text: str


class Label(BaseModel):
    label: str
    probability: float


class Answer(BaseModel):
    label: str
    confidence: float
    probabilities: list[Label]


class Batcher:
    def __init__(self, predict: Callable[[list[str]], np.ndarray], wait_s: float) -> None:
        self._predict = predict
        self._wait_s = wait_s
        self._queue: asyncio.Queue[tuple[str, asyncio.Future[np.ndarray]]] = asyncio.Queue()
        self._task = asyncio.create_task(self._run())

    async def ask(self, text: str) -> np.ndarray:
        answer: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((text, answer))
        return await answer

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            end = loop.time() + self._wait_s
            while len(batch) < MOST:
                left = end - loop.time()
                if self._queue.empty() and left <= 0:
                    break
                try:
                    batch.append(await asyncio.wait_for(self._queue.get(), max(left, 0.001)))
                except TimeoutError:
                    break
            try:
                rows = await loop.run_in_executor(None, self._predict, [text for text, _ in batch])
                for (_, answer), row in zip(batch, rows, strict=True):
                    answer.set_result(row)
            except Exception as error:  # noqa: BLE001 - each caller is handed it
                for _, answer in batch:
                    answer.set_exception(error)


def torch_encoder(folder: str) -> Callable[[list[str]], np.ndarray]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu")
    return lambda texts: model.encode(texts, batch_size=MOST, normalize_embeddings=True, show_progress_bar=False)


def openvino_encoder(store: str) -> Callable[[list[str]], np.ndarray]:
    import raystore

    encoder = raystore.open(store, create=False).encoders.get("minilm").load()
    return lambda texts: np.asarray(encoder.encode(texts))


def make_app(encode: Callable[[list[str]], np.ndarray], head: LogisticRegression) -> FastAPI:
    batchers: dict[float, Batcher] = {}

    def predict(texts: list[str]) -> Any:
        return head.predict_proba(encode(texts))

    @asynccontextmanager
    async def life(_: FastAPI) -> Any:
        predict(["warm"])
        yield

    app = FastAPI(lifespan=life)

    @app.post("/predict/{wait_ms}")
    async def answer(wait_ms: float, question: Question) -> Answer:
        batcher = batchers.get(wait_ms) or batchers.setdefault(wait_ms, Batcher(predict, wait_ms / 1e3))
        row = await batcher.ask(question.text)
        best = np.argsort(row)[::-1][:TOP]
        named = [Label(label=str(head.classes_[i]), probability=float(row[i])) for i in best]
        return Answer(label=named[0].label, confidence=named[0].probability, probabilities=named)

    return app


def main(port: str, vectors: str, labels: str, kind: str, model: str) -> None:
    head = LogisticRegression(C=10, max_iter=1_000).fit(
        np.load(vectors), json.loads(Path(labels).read_text(encoding="utf-8"))
    )
    encode = {"torch": torch_encoder, "openvino": openvino_encoder}[kind](model)
    uvicorn.run(make_app(encode, head), host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
