"""An embedding job in a process of its own, killed at random moments, and a journal of every row it ever encoded.

The driver is a plain raystore program. The journal is written by a `sitecustomize` module on the path of the driver
and of the Ray workers it starts: before each batch is encoded, the ids of its rows go to a file of that process.
So what was done twice is counted where it is done, and raystore itself knows nothing of it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

import raystore
from raystore.layout import vector_column
from tests.pictures import png

CHECKOUT = Path(__file__).resolve().parents[2]
_WORDS = ["card", "never", "arrived", "hello", "world", "text", "sentence", "limit", "money", "blue", "the", "of", "is"]
# A batch is cut at 262,144 characters, so texts this long come ten to a commit: a few hundred moments to be killed at.
_CHARS = 26_000

_SITE = """
import os
if os.environ.get("KILLS_JOURNAL"):
    import json
    from raystore.encoders import loaded
    encode = loaded.LoadedEncoder.encode_each

    def name(item):
        return item.split(" ", 1)[0] if isinstance(item, str) else item.rsplit(b" ", 1)[-1].decode()

    def written_down(self, items):
        line = json.dumps([name(item) for item in items]) + "\\n"
        fd = os.open(f"{os.environ['KILLS_JOURNAL']}/{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, line.encode())
        os.close(fd)
        return encode(self, items)

    loaded.LoadedEncoder.encode_each = written_down
"""

EMBED = """
import sys, raystore
root, source, workers = sys.argv[1:]
report = raystore.open(root).collection("tickets").embed(source, text="body", id="id", keep=["n"], workers=int(workers))
print(report.read, report.added, report.known, report.set_aside)
"""

EMBED_IMAGES = """
import sys, raystore
root, source, workers = sys.argv[1:]
report = raystore.open(root).collection("tickets").embed(source, workers=int(workers))
print(report.read, report.added, report.known, report.set_aside)
"""

FILL = """
import sys, raystore
root, source, workers = sys.argv[1:]
report = raystore.open(root).collection("tickets").add_encoder("short", workers=int(workers))
print(report.lacking, report.filled, report.left, report.set_aside)
"""


@dataclass(frozen=True)
class Source:
    """A file: `ids` that can be embedded, `repeated` rows whose id stood there before, `bad` rows to be set aside."""

    path: Path
    ids: list[str]
    repeated: int
    bad: int


def write_source(path: Path, rows: int, seed: int = 0) -> Source:
    """A Parquet file of about `rows` long texts; each text begins with its id, so that the journal can name it."""
    rng = random.Random(seed)
    ids: list[str | None] = []
    texts: list[str | None] = []
    good: list[str] = []
    repeated = bad = 0
    for n in range(rows):
        id_ = f"r-{seed}-{n}"
        text = f"{id_} {' '.join(rng.choices(_WORDS, k=24))} "
        text += "x" * (_CHARS - len(text))
        if n % 97 == 5:
            ids, texts, bad = [*ids, None if n % 2 else id_], [*texts, text if n % 2 else ""], bad + 1
            continue
        good.append(id_)
        ids, texts = [*ids, id_], [*texts, text]
        if n % 211 == 7:  # the same row sent twice
            ids, texts, repeated = [*ids, id_], [*texts, text], repeated + 1
    table = pa.table({"id": pa.array(ids, pa.string()), "body": texts, "n": pa.array(range(len(ids)), pa.int64())})
    table = table.drop_columns(["n"]).append_column("n", pa.array([len(i or "") for i in ids], pa.int64()))
    pq.write_table(table, path, compression="zstd", row_group_size=600)
    return Source(path, good, repeated, bad)


def write_tar(path: Path, rows: int) -> Source:
    """A tar of pictures; behind each one's end stands its name, so that the journal can name it. One in 97 is cut off.

    They are large enough for a batch of 256 to take about a second.
    """
    good: list[str] = []
    with tarfile.open(path, "w") as tar:
        for n in range(rows):
            name = f"photos/{n:05d}.png"
            picture = png((n % 256, n // 256, 90), (800, 600))
            is_bad = n % 97 == 5
            data = (picture[: len(picture) // 2] if is_bad else picture) + f" {name}".encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            good += [] if is_bad else [name]
    return Source(path, good, 0, rows - len(good))


def new_store(root: Path, model: Path | str) -> None:
    store = raystore.open(root)
    store.encoders.register("tiny", model=str(model))
    store.create_collection("tickets", encoder="tiny", columns={"product": "string"})


@dataclass
class Job:
    """One embedding job over one source, run and killed until it ends."""

    root: Path
    source: Source
    folder: Path
    workers: int = 0
    driver: str = EMBED
    killed: list[set[int]] = field(default_factory=list)  # processes of each killed run
    runs: int = 0
    _left: set[int] = field(default_factory=set)
    _sessions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.journal = self.folder / "journal"
        self.journal.mkdir(parents=True, exist_ok=True)
        (self.folder / "site").mkdir(exist_ok=True)
        (self.folder / "site" / "sitecustomize.py").write_text(textwrap.dedent(_SITE), encoding="utf-8")

    def start(self) -> subprocess.Popen[str]:
        self.runs += 1
        path = os.pathsep.join([str(self.folder / "site"), str(CHECKOUT)])
        env = {**os.environ, "KILLS_JOURNAL": str(self.journal), "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
        if self.workers:
            self._sessions.append(tempfile.mkdtemp(prefix="rsk", dir="/tmp"))  # short: sockets stand in it
            env["RAYSTORE_RAY_TMP"] = self._sessions[-1]
        with (self.folder / "err").open("w") as err:
            return subprocess.Popen(
                [sys.executable, "-c", self.driver, str(self.root), str(self.source.path), str(self.workers)],
                stdout=subprocess.PIPE, stderr=err, text=True, env=env,
            )  # fmt: skip

    def killed_after(
        self, wait_s: float, *, from_first_batch: bool = True, until: Callable[[], bool] | None = None
    ) -> bool:
        """Start it and SIGKILL the driver `wait_s` after its first batch, after its start, or after `until` says so.

        False: it ended before.
        """
        before = self._lines()
        begun = until or (lambda: self._lines() != before)
        process = self.start()
        family = {process.pid}
        try:
            deadline = time.monotonic() + 120
            while from_first_batch and process.poll() is None and not begun() and time.monotonic() < deadline:
                time.sleep(0.002)
            end = time.monotonic() + wait_s
            while process.poll() is None and time.monotonic() < end:
                time.sleep(0.001)
            if process.poll() is not None:
                assert process.returncode == 0, (self.folder / "err").read_text()
                return False
            family |= {child.pid for child in psutil.Process(process.pid).children(recursive=True)}
            process.send_signal(signal.SIGKILL)
            self.killed.append(family)
            return True
        finally:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
            self._left |= family

    def run_to_the_end(self) -> list[int]:
        """The figures that the last run prints: read, added, known and set aside; or lacking, filled, left, set aside."""
        process = self.start()
        out, _ = process.communicate(timeout=540)
        self._clean_up()
        assert process.returncode == 0, (self.folder / "err").read_text()
        return [int(figure) for figure in out.split()[-4:]]

    def wait_for_workers(self) -> None:
        """Return when no embedding worker of the last killed run is left."""
        found = []
        for pid in self.killed[-1]:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                found += [process] if "MapWorker" in " ".join(process.cmdline()) else []
        _, alive = psutil.wait_procs(found, timeout=60)
        assert not alive, "workers outlive their driver"

    def _clean_up(self) -> None:
        """Ray's agents outlive a driver that was killed; those of our runs are ended here."""
        for pid in self._left:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if str(CHECKOUT) in " ".join(process.cmdline()) or process.name().startswith("ray::"):
                    process.kill()
        self._left.clear()
        for folder in self._sessions:
            shutil.rmtree(folder, ignore_errors=True)

    def _lines(self) -> int:
        return sum(file.stat().st_size for file in self.journal.iterdir())

    def batches(self) -> dict[int, list[list[str]]]:
        """process -> the batches it began to encode, in order."""
        found = {}
        for file in self.journal.iterdir():
            lines = file.read_text(encoding="utf-8").splitlines()
            found[int(file.name)] = [json.loads(line) for line in lines]
        return found


def kill_until_done(job: Job, kills: int, rng: random.Random) -> None:
    """Kill it at most that often, most times some batches into a run and sometimes at its start; then let it end."""
    for _ in range(kills):
        early = rng.random() < 0.2
        if not job.killed_after(rng.uniform(0, 2.5) if early else rng.uniform(0, 0.4), from_first_batch=not early):
            return
    job.run_to_the_end()


@dataclass(frozen=True)
class Outcome:
    """What the kills left. `done_again` are rows encoded more than once; only the last batch of a killed process may."""

    kills: int
    rows: int
    duplicates: int
    losses: int
    strangers: int
    set_aside: int
    done_again: int
    done_again_after_commit: int
    largest_batch: int


def outcome(job: Job) -> Outcome:
    collection = raystore.open(job.root).collection("tickets")
    counts = Counter(collection.to_arrow(columns=["id"]).column("id").to_pylist())
    batches = job.batches()
    encoded = Counter(id_ for process in batches.values() for batch in process for id_ in batch)
    killed = set().union(*job.killed) if job.killed else set()
    unfinished = {id_ for pid, done in batches.items() if pid in killed and done for id_ in done[-1]}
    wanted = set(job.source.ids)
    return Outcome(
        kills=len(job.killed),
        rows=sum(counts.values()),
        duplicates=sum(n - 1 for n in counts.values()),
        losses=len(wanted - counts.keys()),
        strangers=len(counts.keys() - wanted),
        set_aside=len(collection.set_aside()),
        done_again=sum(n - 1 for n in encoded.values()),
        done_again_after_commit=len({i for i, n in encoded.items() if n > 1} - unfinished),
        largest_batch=max((len(batch) for done in batches.values() for batch in done), default=0),
    )


def vectors(root: Path, encoder: str | None = None) -> dict[str, np.ndarray]:
    collection = raystore.open(root).collection("tickets")
    column = vector_column(collection.encoder(encoder).fingerprint)
    table = collection.to_arrow(columns=["id", column])
    rows = np.asarray(table.column(column).combine_chunks().flatten(), np.float32).reshape(len(table), -1)
    return dict(zip(table.column("id").to_pylist(), rows, strict=True))
