"""Every notebook keeps the contract; the contract and strict nbval catch what they are there to catch."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from nbformat import v4
from notebook_contract import MAX_BYTES, RULES, violations

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
    assert NOTEBOOKS, "no notebooks/*.ipynb: the tests below would pass without looking at anything"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_the_contract(path):
    assert violations(nbformat.read(path, as_version=4)) == []


OPENING = """# A title

What you will hear in five minutes. A second sentence.

| you will learn | you need | minutes on 2 CPU cores | minutes to teach |
|---|---|---|---|
| this | that | 1.0 | 20 |
"""
QUESTION = "Why?\n\n<details>\n<summary>Answer</summary>\n\nSo.\n\n</details>\n\n"
CLOSING = (
    "## Takeaways\n\n1. a\n2. b\n3. c\n\n## Quiz\n\n"
    + 3 * QUESTION
    + "## Exercises\n\nDo it (10 minutes, easy).\n\n## Further reading\n\nA paper."
)


def stream(text: str, name: str = "stdout"):
    return v4.new_output("stream", name=name, text=text)


def error(ename: str, evalue: str):
    return v4.new_output("error", ename=ename, evalue=evalue, traceback=[f"{ename}: {evalue}"])


def made(*cells, metadata=None):
    """A notebook from (source, outputs, tags) of its code cells, executed, without the prose."""
    code = [
        v4.new_code_cell(source, outputs=outputs, execution_count=count, metadata={"tags": list(tags)} if tags else {})
        for count, (source, outputs, *tags) in enumerate(cells, 1)
    ]
    return v4.new_notebook(cells=code, metadata=metadata or {})


@pytest.fixture
def good():
    """A notebook that keeps every rule, each of its code cells for a reason."""
    notebook = made(
        ("%matplotlib inline\nimport ot.gmm\nfrom dear.audio import log_mel\nprint(1, 'm/s')", [stream("1 m/s\n")]),
        ("1 / 0", [error("ZeroDivisionError", "division by zero")], "raises-exception"),
        ("torch.testing.assert_close(mine, library)", []),
        metadata={"dear": {"teach_minutes": 20}},
    )
    notebook.cells = [v4.new_markdown_cell(OPENING), *notebook.cells, v4.new_markdown_cell(CLOSING)]
    return notebook


def test_a_good_notebook_has_no_violations(good):
    assert violations(good) == []


def edit(index, **fields):
    """A change of one cell's fields; cell 1 prints, 2 raises, 3 asserts, 0 and -1 are prose."""
    return lambda notebook: notebook.cells[index].update(copy.deepcopy(fields))


def shows(text):
    return edit(1, outputs=[stream(text)])


def strip(notebook):
    for cell in notebook.cells[1:4]:
        cell.update(outputs=[], execution_count=None)


BROKEN = {
    "stripped": ("executed", strip),
    "one cell not run": ("executed", edit(2, execution_count=None)),
    "run out of order": ("executed", edit(2, execution_count=7)),
    "no outputs": ("executed", lambda notebook: [cell.update(outputs=[]) for cell in notebook.cells[1:4]]),
    "no code": ("executed", lambda notebook: notebook.update(cells=[notebook.cells[0], notebook.cells[-1]])),
    "31 lines": ("short_cells", edit(1, source="\n".join(["x = 1"] * 31))),
    "semicolon": ("plain_code", edit(1, source="plt.plot(x);\n")),
    "time magic": ("plain_code", edit(1, source="%%time\nf()")),
    "timeit magic": ("plain_code", edit(1, source="%timeit f()")),
    "comment marker": ("plain_code", edit(1, source="# NBVAL_IGNORE_OUTPUT\nf()")),
    "skipped cell": ("plain_code", edit(1, metadata={"tags": ["nbval-skip"]})),
    "foreign package": ("imports", edit(1, source="import sklearn.svm")),
    "foreign from": ("imports", edit(1, source="%matplotlib inline\nif x:\n    from pandas.io import sql")),
    "relative import": ("imports", edit(1, source="from . import helper")),
    "stored stderr": ("stable_outputs", edit(1, outputs=[stream("50 %", "stderr")])),
    "unix path": ("stable_outputs", shows("saved to /home/ada/out.wav")),
    "short unix path": ("stable_outputs", shows("/srv/x")),
    "home path": ("stable_outputs", shows("'~/course'")),
    "windows path": ("stable_outputs", shows("C:\\Users\\ada")),
    "address": ("stable_outputs", shows("<Net object at 0x7f0a1b2c3d4e>")),
    "date": ("stable_outputs", shows("made on 2026-05-01")),
    "clock": ("stable_outputs", shows("12:01:59")),
    "path in an error": ("stable_outputs", edit(2, outputs=[error("OSError", "no file '/data/a.wav'")])),
    "path in html": (
        "stable_outputs",
        edit(1, outputs=[v4.new_output("display_data", data={"text/html": '<img src="/home/a/b.png">'})]),
    ),
    "nothing raised": ("expected_errors", edit(2, outputs=[])),
    "raised unannounced": ("expected_errors", edit(2, metadata={})),
    "no title": ("opening", edit(0, source=OPENING.removeprefix("# "))),
    "no promise": ("opening", edit(0, source=OPENING.replace("What you will hear in five minutes. A second", "|"))),
    "no table": ("opening", edit(0, source=OPENING.partition("|")[0])),
    "no minutes": ("opening", edit(0, source=OPENING.replace("minutes", "hours"))),
    "no teach_minutes": ("opening", lambda notebook: notebook.metadata.update(dear={})),
    "two takeaways": ("closing", edit(-1, source=CLOSING.replace("3. c\n", ""))),
    "no takeaways": ("closing", edit(-1, source=CLOSING.replace("Takeaways", "Summary"))),
    "open answers": ("closing", edit(-1, source=CLOSING.replace("<details>", ""))),
    "no quiz": ("closing", edit(-1, source=CLOSING.replace("Quiz", "Questions"))),
    "no exercises": ("closing", edit(-1, source=CLOSING.replace("Exercises", "Try"))),
    "exercise without minutes": ("closing", edit(-1, source=CLOSING.replace("10 minutes, ", ""))),
    "no reading": ("closing", edit(-1, source=CLOSING.replace("A paper.", ""))),
    "no twin": ("twin", edit(3, source="# assert_close(mine, library)")),
    "too large": ("small", shows("x" * MAX_BYTES)),
}


@pytest.mark.parametrize("rule, damage", BROKEN.values(), ids=BROKEN.keys())
def test_each_broken_rule_is_reported(good, rule, damage):
    damage(good)
    assert rule in {problem.split(":")[0] for problem in violations(good)}


def test_every_rule_is_broken_once():
    assert {rule for rule, _ in BROKEN.values()} == {rule.__name__ for rule in RULES}


def test_a_notebook_without_a_twin_can_say_so(good):
    good.cells[3].source, good.metadata["dear"]["no_twin"] = "print()", True
    assert violations(good) == []


def test_sounds_and_pictures_are_not_read_as_text(good):
    player = '<audio controls>\n<source src="data:audio/wav;base64,UklG/abc/def+0x1234567/2026" type="audio/wav" />'
    good.cells[1].outputs = [v4.new_output("display_data", data={"text/html": player, "image/png": "/abc/def/"})]
    assert violations(good) == []


# Strict nbval as `make test` runs it, over cells of one notebook: what a cell does, and what the notebook has stored.


def player(payload: str) -> str:
    """Source of a cell whose output is a player."""
    return f"from IPython.display import HTML, display\ndisplay(HTML('''<audio>\n{payload}\n</audio>'''))"


def played(payload: str):
    """Stored output of such a cell."""
    data = {"text/html": f"<audio>\n{payload}\n</audio>", "text/plain": "<IPython.core.display.HTML object>"}
    return v4.new_output("display_data", data=data)


RIGHT = {
    "equal": ("print(1 + 1)", [stream("2\n")]),
    "stderr is not compared": ("import sys\nprint('50 %', file=sys.stderr)", []),
    "the sound in a player is not compared": (player("new bytes"), [played("old bytes")]),
    "ignored by tag": ("print(1 + 1)", [stream("3\n")], "nbval-ignore-output"),
    "announced error": ("1 / 0", [error("ZeroDivisionError", "division by zero")], "raises-exception"),
}
CANARIES = {
    "printed number": ("print(1 + 1)", [stream("3\n")]),
    "returned value": ("1 + 1", [v4.new_output("execute_result", data={"text/plain": "3"}, execution_count=1)]),
    "stored, not printed": ("pass", [stream("2\n")]),
    "printed, not stored": ("print(1 + 1)", []),
    "one player for two": (player("bytes"), [played("bytes"), played("bytes")]),
    "player without its feature line": (player("bytes"), [played("bytes"), stream("2.56 s\n")]),
    "no player": ("from IPython.display import HTML\ndisplay(HTML('<b>1</b>'))", [played("bytes")]),
    "another message": ("1 / 0", [error("ZeroDivisionError", "float division")], "raises-exception"),
    "unannounced error": ("1 / 0", [error("ZeroDivisionError", "division by zero")]),
}


@pytest.fixture(scope="module")
def nbval(tmp_path_factory) -> tuple[int, dict[str, bool]]:
    """Exit status of `make nbval` over a right and a wrong notebook, and for each of their cells whether it passed."""
    folder = tmp_path_factory.mktemp("notebooks")
    for name, cells in {"right": RIGHT, "canary": CANARIES}.items():
        nbformat.write(made(*cells.values()), folder / f"{name}.ipynb")
    # Neither an outer make, nor an outer pytest with its workers, is to be seen by the inner ones.
    outer = ("PYTEST_", "MAKE", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
    report = folder / "report.xml"
    environment["PYTEST_ADDOPTS"] = f"--junit-xml={report}"
    # --old-file: the packages are not installed anew in the middle of a test.
    command = ["make", "--old-file=.venv/.setup", f"PY={sys.executable}", "nbval", f"NOTEBOOKS={folder}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert report.exists(), done.stdout + done.stderr
    cells = {("right", f"Cell {number}"): name for number, name in enumerate(RIGHT)}
    cells |= {("canary", f"Cell {number}"): name for number, name in enumerate(CANARIES)}
    return done.returncode, {
        cells[case.get("classname").split(".")[0], case.get("name")]: len(case) == 0
        for case in ElementTree.parse(report).iter("testcase")
    }


@pytest.mark.parametrize("cell", RIGHT)
def test_nbval_passes_what_is_right(nbval, cell):
    assert nbval[1][cell]


@pytest.mark.parametrize("cell", CANARIES)
def test_nbval_fails_each_canary(nbval, cell):
    assert not nbval[1][cell]


def test_one_wrong_cell_fails_the_command(nbval):
    assert nbval[0] != 0
