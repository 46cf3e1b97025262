from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from raystore.errors import DiskFull
from raystore.fine_tune.loop.log import CsvLog, Logs, TensorBoardLog, has_tensorboard, read_points
from raystore.fine_tune.loop.points import Point

POINTS = [
    Point(3, 3, "pretrain", 0.5, rows=12, loss=1.25, variance=0.5, rank=3.5),
    Point(0, 9, "train", 1.0, val_accuracy=0.5, val_precision=0.25),
    Point(1, 9, "train", 1.5, rows=24, loss=2.0, learning_rate=1e-5),
    Point(2, 9, "train", 2.0, rows=48, loss=1.5, learning_rate=5e-5, val_accuracy=0.75, val_precision=0.5),
]


def scalars(folder: Path) -> Iterator[tuple[str, int, float]]:
    """What TensorBoard shows of a folder: name, step, value."""
    from tensorboardX.proto.event_pb2 import Event  # type: ignore[import-untyped]

    for path in sorted(folder.glob("events.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 12 + size + 4
            yield from ((value.tag, event.step, value.simple_value) for value in event.summary.value)


def test_points_are_lines_of_a_csv_file_and_are_read_again(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "run" / "points.csv")
    for point in POINTS:
        log(point)
    lines = (tmp_path / "run" / "points.csv").read_text().splitlines()
    assert lines[0] == "step,steps,phase,seconds,rows,loss,learning_rate,variance,rank,val_accuracy,val_precision"
    assert lines[2] == "0,9,train,1.0,0,,,,,0.5,0.25"
    assert read_points(tmp_path / "run" / "points.csv") == POINTS
    assert read_points(tmp_path / "nothing.csv") == []


def test_a_run_that_goes_on_from_an_earlier_step_replaces_what_came_after(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    for point in POINTS:
        CsvLog(path)(point)  # a new one each time, as after a kill
    again = Point(1, 9, "train", 1.7, rows=24, loss=1.9)
    CsvLog(path)(again)
    assert read_points(path) == [*POINTS[:2], again]


def test_a_line_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    for point in POINTS:
        CsvLog(path)(point)
    path.write_text(path.read_text()[:-9])
    assert read_points(path) == POINTS[:3]


@pytest.mark.parametrize("name", ["points.part", "points.csv"], ids=["the whole file", "a line more"])
def test_a_full_disk_under_the_curve_is_said_and_the_next_line_is_whole(tmp_path: Path, name: str) -> None:
    path, log = tmp_path / "points.csv", CsvLog(tmp_path / "points.csv")
    if name == "points.csv":
        log(POINTS[0])
        path.unlink()
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(DiskFull) as refused:
        log(POINTS[1])
    assert str(refused.value) == (
        f"no space left on the disk of '{tmp_path}' while writing the curve of a fine-tuning. What was acknowledged before is safe, "
        "the rest was not written. Free space and repeat the call; it goes on where it stopped."
    )
    assert not (tmp_path / "points.part").is_symlink()
    log(POINTS[2])
    assert read_points(path) == ([] if name == "points.part" else POINTS[:1]) + POINTS[1:3]


def test_after_half_a_line_the_next_one_stands_on_its_own(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    for point in POINTS[:3]:
        CsvLog(path)(point)
    path.write_text(path.read_text()[:-9])
    CsvLog(path)(POINTS[3])
    assert read_points(path) == [*POINTS[:2], POINTS[3]]


def test_a_full_disk_under_tensorboards_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full")
    monkeypatch.setattr("tensorboardX.record_writer.open_file", lambda _: full.open("wb"))
    log = TensorBoardLog(tmp_path)
    for call in (lambda: log(POINTS[0]), log.close):
        with pytest.raises(DiskFull, match="while writing the curve of a fine-tuning"):
            call()


def test_tensorboard_has_every_point_before_it_is_closed_and_those_of_a_run_that_goes_on(tmp_path: Path) -> None:
    for some in (POINTS[:2], POINTS[2:]):
        log = TensorBoardLog(tmp_path)
        for point in some:
            log(point)
    found = list(scalars(tmp_path))
    assert found[:3] == [("pretrain/loss", 3, 1.25), ("pretrain/variance", 3, 0.5), ("pretrain/rank", 3, 3.5)]
    assert [(name, step) for name, step, _ in found[3:]] == [
        ("train/val_accuracy", 0), ("train/val_precision", 0), ("train/loss", 1), ("train/learning_rate", 1), ("train/loss", 2),
        ("train/learning_rate", 2), ("train/val_accuracy", 2), ("train/val_precision", 2),
    ]  # fmt: skip
    assert found[-2:] == [("train/val_accuracy", 2, 0.75), ("train/val_precision", 2, 0.5)]


def test_logs_go_to_the_csv_file_to_tensorboard_and_to_whoever_asks(tmp_path: Path) -> None:
    heard: list[Point] = []
    logs = Logs(tmp_path, heard.append)
    for point in POINTS:
        logs(point)
    logs.close()
    assert heard == POINTS
    assert read_points(tmp_path / "points.csv") == POINTS
    assert bool(list((tmp_path / "tensorboard").glob("events.*"))) is has_tensorboard() is True


def test_what_a_later_version_says_of_a_point_is_passed_over() -> None:
    assert Point.from_dict({**POINTS[0].to_dict(), "later": 1}) == POINTS[0]
