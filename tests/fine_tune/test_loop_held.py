from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from raystore.errors import JobFailed
from raystore.fine_tune.loop.held import KEPT_S, forget, held


def given_up(folder: Path) -> Path:
    """With nothing written into it for longer than it is kept."""
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    (folder / "last-5").mkdir()
    (folder / "last-5" / "weights.safetensors").write_bytes(b"0")
    long_ago = time.time() - KEPT_S - 60
    for path in (folder / "lock", folder / "last-5", folder):
        os.utime(path, (long_ago, long_ago))
    return folder


def test_two_processes_are_not_in_the_same_folder_at_once(tmp_path: Path) -> None:
    with held(tmp_path / "run"):
        with pytest.raises(JobFailed) as refused, held(tmp_path / "run"):
            pass
        with held(tmp_path / "other"):
            pass
    assert str(refused.value) == "fine-tuning failed: another process trains the same at this moment. Wait for it."
    with held(tmp_path / "run"):
        pass


def test_what_a_process_is_in_is_not_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with held(folder):
        (folder / "points.csv").touch()
        forget(folder)
        assert sorted(path.name for path in folder.iterdir()) == ["lock", "points.csv"]
    forget(folder)
    assert not list(tmp_path.iterdir())
    forget(folder)
    assert not list(tmp_path.iterdir())


def test_folders_that_nobody_took_up_for_a_week_go_when_a_run_begins(tmp_path: Path) -> None:
    alone, under_way, goes_on, young = (tmp_path / name for name in ("alone", "under-way", "goes-on", "young"))
    for folder in (alone, under_way, goes_on):
        given_up(folder)
    os.utime(goes_on / "last-5")  # its lock is old, its checkpoint is not
    young.mkdir()
    (tmp_path / "a file").touch()
    os.utime(tmp_path / "a file", (0, 0))
    # A run that goes on from an old checkpoint keeps it; another one begins beside it.
    with held(under_way), held(tmp_path / "new"):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a file", "goes-on", "new", "under-way", "young"]
        assert (under_way / "last-5" / "weights.safetensors").is_file()
