from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from raystore.fine_tune.loop.evaluate import embed_all
from raystore.fine_tune.loop.group import Alone, _buckets
from raystore.fine_tune.loop.micro import Micro
from tests.fine_tune.group_child import CASES, gradients, trained
from tests.fine_tune.loop_toys import Toy, clusters

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two real gloo processes left."""
    folder = tmp_path_factory.mktemp("group")
    command = [sys.executable, "-m", "tests.fine_tune.group_child"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen([*command, str(rank), str(folder)], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        for child in children:
            _, said = child.communicate(timeout=600)
            assert child.returncode == 0, said[-2000:]
    finally:
        for child in children:
            child.kill()
    return folder


@pytest.mark.model
@pytest.mark.parametrize("name", CASES)
def test_two_workers_have_the_gradient_of_one_big_batch(folder: Path, name: str) -> None:
    whole = gradients({**CASES[name], "most_tokens": None}, Alone())
    for rank in range(2):
        found = load_file(folder / f"{name}-{rank}.safetensors")
        assert found.keys() == whole.keys()
        assert "unused.weight" not in found  # what nobody has a gradient of stays without one
        for key, expected in whole.items():
            torch.testing.assert_close(found[key], expected, rtol=1e-5, atol=1e-5, msg=key, equal_nan=True)


@pytest.mark.model
def test_two_workers_train_to_the_weights_of_one_and_have_the_same_ones(folder: Path) -> None:
    one = trained(Alone())
    first, second = (load_file(folder / f"trained-{rank}.safetensors") for rank in range(2))
    for key, expected in one.items():
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)
        torch.testing.assert_close(first[key], expected, rtol=1e-3, atol=1e-3, msg=key)


@pytest.mark.model
def test_rows_that_workers_embed_together_come_back_in_their_order(folder: Path) -> None:
    alone = embed_all(Toy(), clusters(17).views[0], Micro(4096, 8), Alone())
    for rank in range(2):
        np.testing.assert_allclose(load_file(folder / f"vectors-{rank}.safetensors")["vectors"], alone, atol=1e-6)


@pytest.mark.model
def test_an_error_of_one_worker_stops_all_and_what_is_decided_is_decided_by_the_first(folder: Path) -> None:
    first, second = (json.loads((folder / f"words-{rank}.json").read_text()) for rank in range(2))
    assert first["refused"].startswith("no space left on the disk of '/there' while writing a checkpoint.")
    assert second["refused"] == "fine-tuning failed: another worker stopped. Its error says why."
    assert first["first"] == second["first"] == [0.5]
    assert first["any"] == second["any"] == [True, False]


def test_gradients_travel_in_buckets_of_one_type_that_hold_so_many_numbers() -> None:
    made = [torch.nn.Parameter(torch.zeros(n)) for n in (2**22, 2**22, 1, 2**24, 3)]
    half = torch.nn.Parameter(torch.zeros(2, dtype=torch.float16))
    assert [[p.numel() for p in bucket] for bucket in _buckets([*made, half])] == [[2**22, 2**22], [1], [2**24], [3], [2]]
    assert _buckets([]) == []
