"""What long work leaves behind: a training's metrics.jsonl, which survives being killed, and records of results."""

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from dear.components import beside, digest, write_json


class Log:
    """metrics.jsonl: one line every few steps; lines past the step a run resumes from are dropped.

    "seconds" is the time spent to get there, over all starts, without what was lost by being killed.
    """

    def __init__(self, path: Path, step: int, active: bool):
        self.path, self.active, self.started = path, active, time.monotonic()
        if active and path.exists():
            whole = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
            kept = [row for row in whole if row["step"] <= step]
            self.started -= kept[-1]["seconds"] if kept else 0
            with beside(path) as draft:
                draft.write_text("".join(json.dumps(row) + "\n" for row in kept))

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Append one line."""
        if self.active:
            row = {"step": step, "seconds": round(time.monotonic() - self.started, 1)}
            row |= {k: float(f"{v:.6g}") for k, v in figures.items()}
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")


class Record:
    """The lines of a jsonl file, each appended whole; a line that a crash cut short is dropped.

    Several processes may share one: lines are made by `make`, each by one of them.
    """

    def __init__(self, path: Path):
        self.path, self.lines = path, []
        path.parent.mkdir(parents=True, exist_ok=True)
        self.read()

    def read(self) -> int:
        """Read the lines anew, those that other processes wrote among them; returns how many bytes they are."""
        text = self.path.read_bytes() if self.path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        self.lines = [json.loads(line) for line in whole.decode().splitlines()]
        return len(whole)

    def find(self, key: dict) -> dict | None:
        """The line that agrees with key in all that key holds, or None."""
        return next((line for line in self.lines if key == {name: line.get(name) for name in key}), None)

    def append(self, line: dict) -> None:
        """Write one line with a single call, and have it on disk before going on."""
        with self._lock("file"):
            whole = self.read()
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.truncate(file, whole)
                os.write(file, (json.dumps(line) + "\n").encode())
                os.fsync(file)
            finally:
                os.close(file)
        self.lines.append(json.loads(json.dumps(line)))

    def make(self, key: dict, made: Callable[[], dict], *, wait: bool = True) -> dict | None:
        """The line of a key: from the record, or key, what `made()` gives and origin, appended now.

        While another process makes it, this one waits for it, or without `wait` gets None.
        """
        key = json.loads(json.dumps(key))  # as it is read back
        if line := self.find(key):
            return line
        try:
            with self._lock(digest([json.dumps(key, sort_keys=True)]), timeout=-1 if wait else 0):
                self.read()
                if not self.find(key):
                    self.append(key | made() | origin())
                return self.find(key)
        except Timeout:
            return None

    def make_all(self, tasks: Iterable[tuple[dict, Callable[[], dict]]]) -> Iterator[dict]:
        """The lines of all pairs (key, made), as `make` has them; those that other processes are at come last."""
        theirs = []
        for key, made in tasks:
            if line := self.make(key, made, wait=False):
                yield line
            else:
                theirs.append((key, made))
        for key, made in theirs:
            yield self.make(key, made)

    def _lock(self, name: str, timeout: float = -1) -> FileLock:
        folder = self.path.parent / ".locks"
        folder.mkdir(exist_ok=True)
        return FileLock(folder / f"{self.path.name}.{name}", timeout)


def write_record(path: Path, figures: dict) -> None:
    """Write what a long run gave as json, after the command, date, commit and device that it came from."""
    write_json(path, origin() | figures)
    print(f"wrote {path}")


def origin() -> dict[str, str | None]:
    """Where a figure comes from: command, date, commit, device."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"
    return {"command": shlex.join(["dear", *sys.argv[1:]]), "date": date.today().isoformat(), "commit": _commit(),
            "device": f"{device}, {torch.get_num_threads()} thread(s)"}


def _commit() -> str | None:
    """Commit that this file was run from, "-dirty" if files differ from it; None outside a repository."""
    if not shutil.which("git"):
        return None
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
