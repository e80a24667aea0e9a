"""What the record of `python -m toy.compare` says: its lines by key, tables over seeds, and which differences count."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

DIGITS = {"mmd2": 4, "energy_distance": 4, "in_mode": 2, "coverage": 2, "evaluations": 0, "steps": 0, "cpu_seconds": 0}


def read(path: str | Path) -> list[dict]:
    """All lines of a record that are whole."""
    whole, _, _ = Path(path).read_text(encoding="utf-8").rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def pick(lines: Sequence[dict], **key: object) -> list[dict]:
    """Lines that agree with all of key. setting="tuned" finds "published, tuned" too: a setting that was both."""
    def agrees(line: dict, name: str, value: object) -> bool:
        return value in (line.get(name) or "").split(", ") if name == "setting" else line.get(name) == value

    return [line for line in lines if all(agrees(line, name, value) for name, value in key.items())]


def seeds(lines: Sequence[dict], metric: str) -> list[float]:
    """The values of one metric, one a line; runs that failed have none."""
    return [line[metric] for line in lines if line.get(metric) is not None]


def table(rows: Mapping[str, Sequence[dict]], metrics: Sequence[str]) -> str:
    """Text with one row a name: mean over its lines and, in brackets, least to greatest; names without lines are left
    out, '-' is a metric that no line has."""
    body = [["", *metrics]]
    for name, lines in rows.items():
        if lines:
            body.append([name, *(_cell(seeds(lines, metric), DIGITS.get(metric, 3)) for metric in metrics)])
    widths = [max(map(len, column)) for column in zip(*body, strict=True)]
    return "\n".join("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
                     for row in body)


def difference(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """'lower' or 'higher', ours against theirs; 'undecided' if the means differ by no more than the greater range.

    With less than two values on either side there is no range, and nothing is decided.
    """
    if min(len(ours), len(theirs)) < 2:
        return "undecided"
    gap = sum(ours) / len(ours) - sum(theirs) / len(theirs)
    if abs(gap) <= max(max(values) - min(values) for values in (ours, theirs)):
        return "undecided"
    return "lower" if gap < 0 else "higher"


def _cell(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    mean, least, most = (f"{v:.{digits}f}" for v in (sum(values) / len(values), min(values), max(values)))
    return mean if least == most else f"{mean} ({least} to {most})"
