from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest

from raystore.encoders import golden
from raystore.errors import GoldenMoved, ModelUnusable

from .test_passport import PLAIN

UNIT = np.eye(len(golden.PROBES), 32, dtype=np.float32)[:, :32] + 0.1
UNIT /= np.linalg.norm(UNIT, axis=1, keepdims=True)


def check(found: np.ndarray) -> float:
    return golden.check({"text": UNIT}, lambda _: found, tolerance=0.9999, label="tiny@123", backend="torch")


def test_probes_are_the_ones_that_golden_vectors_were_made_of() -> None:
    digest = hashlib.sha256("\0".join(golden.PROBES).encode()).hexdigest()
    assert (len(golden.PROBES), digest[:16]) == (16, "e4fdd0230f19a77a")


def test_golden_vectors_that_stay_pass_with_their_worst_cosine() -> None:
    assert check(UNIT) == pytest.approx(1.0)
    assert check(UNIT * 3) == pytest.approx(1.0)  # direction counts, not length


def test_golden_vectors_that_moved_are_refused_with_the_worst_input_named() -> None:
    found = UNIT.copy()
    found[5] = -found[5]
    with pytest.raises(GoldenMoved) as caught:
        check(found)
    assert str(caught.value) == (
        "encoder tiny@123 on backend torch no longer encodes its golden inputs: text 5 came out at cosine -1.000000, "
        "at least 0.9999 is required. It was not loaded. Register what this model has become under a name of its own, "
        "or use another backend."
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_vectors_without_direction_are_refused(bad: float) -> None:
    found = UNIT.copy()
    found[3] = bad
    with pytest.raises(GoldenMoved) as caught:
        check(found)
    assert caught.value.worst_input == 3
    assert math.isnan(caught.value.cosine)


def test_vectors_of_another_dimension_are_refused() -> None:
    with pytest.raises(GoldenMoved):
        check(UNIT[:, :31])


def test_golden_file_is_read_back_bit_for_bit_and_refused_when_changed(tmp_path: Path) -> None:
    data = golden.pack({"text": UNIT}, PLAIN.fingerprint)
    path = tmp_path / "golden.safetensors"
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    np.testing.assert_array_equal(golden.read(path, sha256, PLAIN, "tiny")["text"], UNIT)
    path.write_bytes(data[:-1] + b"x")
    with pytest.raises(ModelUnusable) as caught:
        golden.read(path, sha256, PLAIN, "tiny")
    assert str(caught.value) == (
        f"model 'tiny' cannot be used: its golden vectors '{path}' are not those it was registered with. "
        "Restore that folder from a backup; without them nobody can tell whether the encoder moved."
    )
