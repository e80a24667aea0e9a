"""What long work leaves behind: a training's metrics.jsonl, which survives being killed, and records of results."""

import json
import platform
import shlex
import shutil
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import torch

from dear.components import beside, write_json


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


def write_record(path: Path, figures: dict) -> None:
    """Write what a long run gave as json, after the command, date, commit and device that it came from."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"
    told = {"command": shlex.join(["dear", *sys.argv[1:]]), "date": date.today().isoformat(), "commit": _commit(),
            "device": f"{device}, {torch.get_num_threads()} thread(s)"}
    write_json(path, told | figures)
    print(f"wrote {path}")


def _commit() -> str | None:
    """Commit that this file was run from, "-dirty" if files differ from it; None outside a repository."""
    if not shutil.which("git"):
        return None
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
