"""The log of a training: metrics.jsonl, which survives being killed at any moment."""

import json
import time
from pathlib import Path

from dear.components import beside


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
