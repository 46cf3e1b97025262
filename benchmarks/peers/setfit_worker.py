"""SetFit on a few labelled texts: trained on TEXTS of them in pairs, then a logistic regression on its vectors.

python setfit_worker.py MODEL TRAIN.parquet TEST.parquet TEXTS SEED: one line of JSON with accuracies and the seconds of training.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time

import numpy as np
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments
from sklearn.linear_model import LogisticRegression

BATCH = 16  # pairs, SetFit's own default


def main() -> None:
    model_folder, train_file, test_file, texts, seed = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
    torch.set_num_threads(2)
    train, test = (pq.read_table(file, columns=["text", "label"]) for file in (train_file, test_file))
    names = sorted(set(train.column("label").to_pylist()))
    codes = {name: code for code, name in enumerate(names)}
    y, y_test = ([codes[label] for label in each.column("label").to_pylist()] for each in (train, test))
    given, asked = (each.column("text").to_pylist() for each in (train, test))
    model = SetFitModel.from_pretrained(model_folder)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            batch_size=BATCH, max_steps=texts // (2 * BATCH), sampling_strategy="oversampling", report_to="none",
            save_strategy="no", seed=seed, output_dir=folder, logging_steps=10_000,
        )  # fmt: skip
        trainer = Trainer(model=model, args=arguments, train_dataset=Dataset.from_dict({"text": given, "label": y}))
        start = time.perf_counter()
        trainer.train()
        took = time.perf_counter() - start
    vectors, questions = (
        model.model_body.encode(each, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
        for each in (given, asked)
    )
    head = LogisticRegression(C=10, max_iter=1_000).fit(vectors, y)
    own = float(np.mean(np.asarray(model.predict(asked)) == np.asarray(y_test)))
    print(json.dumps({"head": float(head.score(questions, y_test)), "own": own, "seconds": took}))


main()
