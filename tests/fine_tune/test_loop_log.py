from __future__ import annotations

from pathlib import Path

from raystore.fine_tune.loop.log import CsvLog, Logs, has_tensorboard, read_points
from raystore.fine_tune.loop.points import Point

POINTS = [
    Point(3, 3, "pretrain", 0.5, rows=12, loss=1.25, variance=0.5, rank=3.5),
    Point(0, 9, "train", 1.0, val_accuracy=0.5, val_precision=0.25),
    Point(1, 9, "train", 1.5, rows=24, loss=2.0, learning_rate=1e-5),
    Point(2, 9, "train", 2.0, rows=48, loss=1.5, learning_rate=5e-5, val_accuracy=0.75, val_precision=0.5),
]


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
