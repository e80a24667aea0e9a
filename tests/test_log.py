"""Records of long runs say where they come from. The training's log is tested with the training."""

import json
import re
import subprocess
import sys

from dear.log import Record, write_record


def test_a_record_holds_command_date_commit_and_device(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/some/where/dear", "evaluate", "--captions", "two words"])
    write_record(tmp_path / "deep" / "record.json", {"rows": [1, 2]})
    found = json.loads((tmp_path / "deep" / "record.json").read_text())
    assert list(found) == ["command", "date", "commit", "device", "rows"] and found["rows"] == [1, 2]
    assert found["command"] == "dear evaluate --captions 'two words'"  # no path of a machine
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"])
    assert found["commit"] is None or re.fullmatch(r"[0-9a-f]{7,}(-dirty)?", found["commit"])
    assert found["device"].endswith("thread(s)")
    assert "record.json" in capsys.readouterr().out


def test_a_line_that_was_cut_short_is_dropped_and_the_rest_is_read(tmp_path):
    path = tmp_path / "record.jsonl"
    path.write_text('{"a": 1}\n{"a": 2')
    record = Record(path)
    assert record.lines == [{"a": 1}] and path.read_text().endswith('{"a": 2')  # reading changes nothing
    record.append({"a": 3})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"a": 1}, {"a": 3}] == record.lines


def test_a_line_is_made_once_and_says_where_it_comes_from(tmp_path):
    record, made = Record(tmp_path / "record.jsonl"), []
    line = record.make({"seed": 0, "law": (0.5, 1)}, lambda: made.append(1) or {"found": 2.0})
    assert line["found"] == 2.0 and line["law"] == [0.5, 1] and "commit" in line
    assert record.make({"seed": 0, "law": (0.5, 1)}, lambda: made.append(1) or {}) == line and made == [1]
    assert Record(tmp_path / "record.jsonl").lines == [line]


SHARE = """
import os, sys, time
from functools import partial
from pathlib import Path
from dear.log import Record

def made(k):
    time.sleep(0.2)
    return {"by": os.getpid()}

print(len(list(Record(Path(sys.argv[1])).make_all(({"k": k}, partial(made, k)) for k in range(8)))))
"""


def test_processes_share_a_record(tmp_path):
    """Both get all lines, each of which one of them made."""
    path = tmp_path / "record.jsonl"
    both = [subprocess.Popen([sys.executable, "-c", SHARE, str(path)], stdout=subprocess.PIPE, text=True)
            for _ in range(2)]
    assert [one.communicate(timeout=120)[0].strip() for one in both] == ["8", "8"]
    lines = Record(path).lines
    assert sorted(line["k"] for line in lines) == list(range(8))
    # By whom depends on when they started; that both work is seen below, where the other one holds a line.


def test_what_another_process_makes_is_left_to_it(tmp_path):
    """While one is at a line, the other does those behind it first."""
    mine, theirs = (Record(tmp_path / "record.jsonl") for _ in range(2))

    def interrupted():
        assert theirs.make({"k": 0}, dict, wait=False) is None
        order = []
        theirs.make({"k": 1}, lambda: order.append(1) or {}, wait=False)
        return {"order": order}

    assert mine.make({"k": 0}, interrupted)["order"] == [1]
    assert [line["k"] for line in theirs.make_all(({"k": k}, dict) for k in (0, 1))] == [0, 1]
    assert [line["k"] for line in Record(tmp_path / "record.jsonl").lines] == [1, 0]
