"""Reading the record: lines by key, tables with ranges, and differences that are smaller than the seeds' range."""

import json

from toy.tables import difference, pick, read, seeds, table

LINES = [
    {"method": "flow", "setting": "published, tuned", "seed": 0, "w2": 0.1},
    {"method": "flow", "setting": "published, tuned", "seed": 1, "w2": 0.3},
    {"method": "energy", "setting": "tuned", "seed": 0, "w2": None, "failed": "not finite"},
    {"method": "floor", "seed": 0, "w2": 0.05, "coverage": 1.0},
]


def test_read_leaves_out_a_line_that_is_being_written(tmp_path):
    path = tmp_path / "record.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES) + '{"method": "fl')
    assert read(path) == LINES
    path.write_text("")
    assert read(path) == []


def test_pick_and_seeds():
    assert pick(LINES, method="flow", seed=1) == [LINES[1]]
    assert pick(LINES, setting="tuned") == LINES[:3] and pick(LINES, setting="published") == LINES[:2]
    assert seeds(LINES, "w2") == [0.1, 0.3, 0.05] and seeds(LINES, "coverage") == [1.0]


def test_table():
    rows = {"flow": LINES[:2], "failed": LINES[2:3], "floor": LINES[3:], "missing": []}
    assert table(rows, ("w2", "coverage")).splitlines() == [
        "        w2                      coverage",
        "flow    0.200 (0.100 to 0.300)  -",
        "failed  -                       -",
        "floor   0.050                   1.00",
    ]


def test_difference():
    assert difference([1.0, 1.1], [2.0, 2.1]) == "lower" and difference([2.0, 2.1], [1.0, 1.1]) == "higher"
    assert difference([1.0, 1.1], [1.1, 1.2]) == "undecided"  # 0.1 apart, and 0.1 is the range of either
    assert difference([1.0, 1.0], [1.2, 1.9]) == "undecided"  # the greater range counts
    assert difference([1.0], [2.0, 2.1]) == "undecided"  # one seed has no range
    assert difference([], [2.0, 2.1]) == difference([1.0, 1.1], []) == "undecided"  # all runs failed
