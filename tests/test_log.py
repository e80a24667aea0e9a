"""Records of long runs say where they come from. The training's log is tested with the training."""

import json
import re
import sys

from dear.log import write_record


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
