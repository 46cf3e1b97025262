from __future__ import annotations

import subprocess
import sys

import pytest

from raystore.encoders.sample import sample_texts
from raystore.errors import InvalidArguments


def test_a_thousand_different_texts_of_mixed_length() -> None:
    texts = sample_texts()
    assert (len(texts), len(set(texts))) == (1_000, 1_000)
    lengths = sorted(map(len, texts))
    assert lengths[0] >= 20
    assert lengths[-1] <= 2_000
    assert lengths[500] > 60
    assert lengths[900] > 300
    assert all(text == " ".join(text.split()) for text in texts)


def test_more_texts_begin_with_the_same_ones_and_stay_different() -> None:
    many = sample_texts(12_000)
    assert len(set(many)) == 12_000
    assert many[:1_000] == sample_texts(1_000)
    assert sample_texts(0) == []


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(InvalidArguments) as caught:
        sample_texts(-1)
    assert str(caught.value) == "sample_texts: n is -1, expected 0 or more."


def test_another_process_gets_the_same_texts_and_imports_no_tests_windows_or_frameworks() -> None:
    code = (
        "import hashlib, sys; from raystore.encoders.sample import sample_texts;"
        "texts = sample_texts(2000);"
        "print(hashlib.sha256('\\n'.join(texts).encode()).hexdigest(), "
        "sorted({'torch', 'tkinter', 'unittest', 'test', 'idlelib', 'turtle', 'antigravity'} & set(sys.modules)))"
    )
    outs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2)
    }
    assert len(outs) == 1
    assert outs.pop().split(" ", 1)[1] == "[]\n"


def test_without_docstrings_there_are_texts_all_the_same() -> None:
    code = "from raystore.encoders.sample import sample_texts; print(len(set(sample_texts(500))))"
    run = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "500\n"
