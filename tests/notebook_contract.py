"""The rules that every notebook keeps beside strict nbval, each a function from a notebook to what is wrong with it."""

import ast
import re
import sys
from collections.abc import Iterator

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

MAX_LINES = 30  # a cell that is longer hides more than one thought
MAX_BYTES = 1_000_000  # with outputs; a notebook beyond that is slow to show in a browser

# What a notebook may import beside the standard library: our two packages and what they themselves depend on.
ALLOWED = {"dear", "toy", "torch", "numpy", "scipy", "matplotlib", "soundfile", "safetensors", "accelerate", "tqdm"}
ALLOWED |= {"ot", "IPython", "ipywidgets", "transformers", "tokenizers", "diffusers"}

# What would change on another machine or another day.
VOLATILE = {
    "an absolute path": re.compile(r"(?:^|[\s'\"(=\[])(?:~|/[\w.-]+)/[\w.-]+(?:/[\w.-]*)*|\b[A-Z]:\\\w", re.MULTILINE),
    "an object's address": re.compile(r"\b0x[0-9a-fA-F]{6,}\b"),
    "a date or a time of day": re.compile(r"\b20\d\d-[01]\d-[0-3]\d\b|\b[0-2]?\d:[0-5]\d:[0-5]\d\b"),
}


def code_cells(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """Code cells with their number as nbval counts them, from 0."""
    return list(enumerate(cell for cell in notebook.cells if cell.cell_type == "code"))


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def section(notebook: NotebookNode, word: str) -> str | None:
    """The markdown under the '## ' heading that contains a word, its subsections included; None without one."""
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = re.search(rf"^## [^\n]*{word}[^\n]*\n(.*?)(?=^##? |\Z)", text, re.IGNORECASE | re.MULTILINE | re.DOTALL)
    return found and found[1]


def executed(notebook: NotebookNode) -> Iterator[str]:
    """nbval runs a cell without an execution count, but compares nothing."""
    counts = [cell.execution_count for _, cell in code_cells(notebook)]
    if not counts or counts != list(range(1, len(counts) + 1)):
        yield f"execution counts are {counts}, wanted 1 to n: run `make notebooks`"
    if not any(cell.outputs for _, cell in code_cells(notebook)):
        yield "no cell has an output"


def short_cells(notebook: NotebookNode) -> Iterator[str]:
    """A cell fits on a screen."""
    for number, cell in code_cells(notebook):
        if (lines := len(cell.source.splitlines())) > MAX_LINES:
            yield f"cell {number} has {lines} lines, at most {MAX_LINES}"


def plain_code(notebook: NotebookNode) -> Iterator[str]:
    """nbval undoes a trailing semicolon; timing magics print what no rerun repeats; tags are read, comments missed."""
    for number, cell in code_cells(notebook):
        if cell.source.rstrip().endswith(";"):
            yield f"cell {number} ends with ';'"
        if re.search(r"^\s*%{1,2}time(it)?\b", cell.source, re.MULTILINE):
            yield f"cell {number} uses a timing magic"
        if re.search(r"^\s*#\s*(NBVAL_|PYTEST_VALIDATE_)", cell.source, re.MULTILINE):
            yield f"cell {number} steers nbval by a comment, wanted a tag"
        if "nbval-skip" in tags(cell):
            yield f"cell {number} is never run by nbval (tag nbval-skip)"


def imports(notebook: NotebookNode) -> Iterator[str]:
    """A notebook needs nothing that `make setup` does not install on purpose."""
    for number, cell in code_cells(notebook):
        for node in ast.walk(ast.parse(TransformerManager().transform_cell(cell.source))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or "."] if isinstance(node, ast.ImportFrom) else []
            for package in {name.split(".")[0] for name in names} - ALLOWED - sys.stdlib_module_names:
                yield f"cell {number} imports {package or 'relatively'}, allowed: {', '.join(sorted(ALLOWED))}"


def stable_outputs(notebook: NotebookNode) -> Iterator[str]:
    """Nothing in the outputs belongs to one machine or one day; sounds and pictures are not read."""
    for number, cell in code_cells(notebook):
        for output in cell.outputs:
            if output.get("name") == "stderr":
                yield f"cell {number} has stored stderr"
            shown = [output.get("text", ""), output.get("evalue", ""), *output.get("traceback", [])]
            shown += [str(value) for kind, value in output.get("data", {}).items() if not kind.startswith("image/")]
            text = re.sub(r"base64,[A-Za-z0-9+/=\s]+", "", "\n".join(shown))
            for what, pattern in VOLATILE.items():
                if found := pattern.search(text):
                    yield f"cell {number} shows {what}: {found[0].strip()}"


def expected_errors(notebook: NotebookNode) -> Iterator[str]:
    """nbval accepts a cell that may raise, whether it does or not."""
    for number, cell in code_cells(notebook):
        raised = any(output.output_type == "error" for output in cell.outputs)
        if raised != ("raises-exception" in tags(cell)):
            tag, error = "tag raises-exception", "error output"
            yield f"cell {number} has {error if raised else tag}, but no {tag if raised else error}"


def opening(notebook: NotebookNode) -> Iterator[str]:
    """Title, promise, and the table that lets a reader choose and a teacher plan."""
    first = notebook.cells[0].source if notebook.cells and notebook.cells[0].cell_type == "markdown" else ""
    if not re.match(r"# \S[^\n]*\n+[A-Za-z\"“`*$]", first):
        yield "the first cell is not '# <title>' and under it one sentence, the promise"
    header = next((line.lower() for line in first.splitlines() if line.startswith("|")), "")
    if missing := [word for word in ("learn", "need", "minutes", "cpu", "teach") if word not in header]:
        yield f"the table under the promise lacks: {', '.join(missing)}"
    if not isinstance(notebook.metadata.get("dear", {}).get("teach_minutes"), int | float):
        yield "the notebook's metadata lacks dear.teach_minutes, a number"


def closing(notebook: NotebookNode) -> Iterator[str]:
    """Three takeaways, three questions with folded answers, exercises with their minutes, and where to read on."""
    wanted = {
        "takeaway": (r"^(?:[-*]|\d\.) ", 3, "items of a list"),
        "quiz": (r"<details>.*?</details>", 3, "answers folded in <details>"),
        "exercise": (r"\bmin(?:ute)?s?\b", 1, "statement of minutes"),
        "further reading": (r"\S", 1, "text"),
    }
    for word, (pattern, count, what) in wanted.items():
        text = section(notebook, word)
        found = len(re.findall(pattern, text or "", re.MULTILINE | re.DOTALL))
        if text is None:
            yield f"no section '{word}'"
        elif found < count:
            yield f"section '{word}' has {found} {what}, wanted {count}"


def twin(notebook: NotebookNode) -> Iterator[str]:
    """What is written out is asserted equal to the library's; metadata dear.no_twin: nothing is written out."""
    if not notebook.metadata.get("dear", {}).get("no_twin") and not any(
        re.search(r"^\s*[^#\n]*\bassert_close\(", cell.source, re.MULTILINE) for _, cell in code_cells(notebook)
    ):
        yield "no cell asserts with assert_close that the notebook's version equals the library's"


def small(notebook: NotebookNode) -> Iterator[str]:
    """Stored sounds and pictures are what make a notebook heavy."""
    if (size := len(nbformat.writes(notebook).encode())) > MAX_BYTES:
        yield f"{size:,} bytes with its outputs, at most {MAX_BYTES:,}"


RULES = [
    executed, short_cells, plain_code, imports, stable_outputs, expected_errors, opening, closing, twin, small,
]  # fmt: skip


def violations(notebook: NotebookNode) -> list[str]:
    """Everything that is wrong with a notebook, each line headed by the rule's name."""
    return [f"{rule.__name__}: {problem}" for rule in RULES for problem in rule(notebook)]
