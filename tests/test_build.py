"""notebooks/build.py executes a notebook, stores what no rerun changes, and keeps the course map true."""

import importlib.util
import json
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("build", ROOT / "notebooks" / "build.py")
builder = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(builder)

TABLE = "| learn | need | minutes on 2 CPU cores | minutes to teach |\n|---|---|---|---|\n| a | b | ? | 20 |"
README = "# x\n\n<!-- course-map:begin -->\nold\n<!-- course-map:end -->\nend\n"


def write_notebook(root: Path, name: str, *sources: str) -> Path:
    cells = [v4.new_markdown_cell(f"# T\n\nYou hear it.\nMore text.\n\n{TABLE}"), *map(v4.new_code_cell, sources)]
    path = root / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(v4.new_notebook(cells=cells, metadata={"dear": {"teach_minutes": 20}}), path)
    return path


def write_record(root: Path, **seconds: float) -> None:
    builder.write_record(root, {name: {"seconds": value} for name, value in seconds.items()})


def test_build_stores_outputs_minutes_and_course_map(tmp_path):
    (tmp_path / "README.md").write_text(README)
    path = write_notebook(
        tmp_path,
        "00_one",
        "import sys\nprint(1)\nprint('50 %', file=sys.stderr)\nprint(2)",
        "from pathlib import Path\nPath('00_one.ipynb').exists()",
    )
    assert builder.build(tmp_path, ["00_one"])
    stored = nbformat.read(path, as_version=4)
    nbformat.validate(stored)
    first, second = stored.cells[1:]
    assert [first.execution_count, second.execution_count] == [1, 2]
    assert [(output.name, output.text) for output in first.outputs] == [("stdout", "1\n2\n")]
    assert second.outputs[0].data["text/plain"] == "True"  # it ran in its own folder
    assert "execution" not in first.metadata
    assert stored.metadata.language_info == {"name": "python"}

    record = json.loads((tmp_path / builder.RECORD).read_text())["notebooks"]["00_one"]
    assert set(record) == {"seconds", "date", "commit", "device"}
    assert 0 < record["seconds"] < 60
    minutes = f"{record['seconds'] / 60:.1f}"
    assert f"| a | b | {minutes} | 20 |" in stored.cells[0].source
    row = f"| [00_one](notebooks/00_one.ipynb) | You hear it. | {minutes} | 20 |"
    assert row in (tmp_path / "README.md").read_text()
    assert not list(tmp_path.rglob("*.new"))
    builder.check(tmp_path)


def test_a_notebook_that_raises_is_left_as_it_was(tmp_path, capsys):
    (tmp_path / "README.md").write_text(README)
    path = write_notebook(tmp_path, "00_one", "1 / 0")
    before = path.read_bytes()
    assert not builder.build(tmp_path, [])
    assert path.read_bytes() == before
    assert (tmp_path / "README.md").read_text() == README
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_clean_drops_what_varies():
    cell = v4.new_code_cell("1 / 0", metadata={"execution": {"iopub.status.busy": "now"}, "tags": ["raises-exception"]})
    traceback = ["File /home/ada/x.py", "ZeroDivisionError: division by zero"]
    cell.outputs = [v4.new_output("error", ename="ZeroDivisionError", evalue="division by zero", traceback=traceback)]
    metadata = {"widgets": {"state": 1}, "language_info": {"name": "python", "version": "3.11.7"}, "dear": {"a": 1}}
    cleaned = builder.clean(v4.new_notebook(cells=[cell], metadata=metadata))
    assert cleaned.cells[0].outputs[0].traceback == ["ZeroDivisionError: division by zero"]
    assert cleaned.cells[0].metadata == {"tags": ["raises-exception"]}
    assert set(cleaned.metadata) == {"kernelspec", "language_info", "dear"}
    assert cleaned.metadata.language_info == {"name": "python"}


def test_check_sees_a_changed_promise_and_a_changed_time(tmp_path):
    (tmp_path / "README.md").write_text(README)
    path = write_notebook(tmp_path, "00_one")
    write_record(tmp_path, **{"00_one": 90})
    (tmp_path / "README.md").write_text(builder.renewed(tmp_path))
    builder.check(tmp_path)
    write_record(tmp_path, **{"00_one": 120})
    with pytest.raises(ValueError, match="out of date: run `make notebooks`"):
        builder.check(tmp_path)
    write_record(tmp_path, **{"00_one": 90})
    builder.check(tmp_path)
    path.write_text(path.read_text().replace("You hear it.", "You see it."))
    with pytest.raises(ValueError, match="out of date"):
        builder.check(tmp_path)


def test_the_record_keeps_other_notebooks_and_forgets_removed_ones(tmp_path):
    write_notebook(tmp_path, "01_two")
    write_notebook(tmp_path, "00_one")
    write_record(tmp_path, **{"01_two": 2, "09_gone": 9, "00_one": 1})
    assert list(builder.read_record(tmp_path)) == ["00_one", "01_two"]


def test_what_is_missing_is_named(tmp_path):
    path = write_notebook(tmp_path, "00_one")
    with pytest.raises(ValueError, match="no such notebook: 07_x; there are: 00_one"):
        builder.find(tmp_path, ["07_x"])
    with pytest.raises(ValueError, match="no run time of 00_one"):
        builder.course_map(tmp_path)
    (tmp_path / "README.md").write_text("# no markers\n")
    with pytest.raises(ValueError, match="course-map:begin"):
        builder.renewed(tmp_path)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = "# Only a title\n\n| a table |"
    with pytest.raises(ValueError, match="one sentence"):
        builder.promise(notebook)


@pytest.mark.parametrize("text", ["You hear it. More.", "You hear\nit. More", "You hear it.", "You hear it.\n\nMore."])
def test_the_promise_is_the_first_sentence(text):
    assert builder.promise(v4.new_notebook(cells=[v4.new_markdown_cell(f"# T\n\n{text}")])) == "You hear it."


def test_other_tables_are_renewed_where_the_readme_has_their_markers(tmp_path, monkeypatch):
    write_notebook(tmp_path, "00_one")
    write_record(tmp_path, **{"00_one": 90})
    monkeypatch.setitem(builder.TABLES, "claims", lambda root: f"a claim about {root.name}")
    (tmp_path / "README.md").write_text(README + "<!-- claims:begin -->\n<!-- claims:end -->\nrest\n")
    told = builder.renewed(tmp_path)
    assert f"<!-- claims:begin -->\na claim about {tmp_path.name}\n<!-- claims:end -->\nrest" in told
    (tmp_path / "README.md").write_text(README + "<!-- claims:begin -->\n")
    with pytest.raises(ValueError, match="claims:end"):
        builder.renewed(tmp_path)


def test_the_course_map_of_this_repository_is_up_to_date():
    builder.check(ROOT)
