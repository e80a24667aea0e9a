"""Execute the notebooks, store their outputs and run times, and renew the tables of the README.

    python notebooks/build.py                 all notebooks
    python notebooks/build.py 00_hear_it ...  the named ones; the figures of the others stay
    python notebooks/build.py --tables        execute nothing; renew the README's tables
    python notebooks/build.py --check         change nothing; fail if the README's tables are out of date

Run times go to records/notebooks.json: seconds on one thread, with date, commit and device.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
RECORD = Path("records/notebooks.json")
CELL_TIMEOUT = 240  # seconds, as in `make test`


def promise(notebook: NotebookNode) -> str:
    """The first sentence under a notebook's title, on one line; ValueError if there is none."""
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        raise ValueError("wanted a markdown cell that begins with '# <title>' at the top of the notebook")
    paragraphs = [" ".join(text.split()) for text in re.split(r"\n\s*\n", first.source.partition("\n")[2].strip())]
    if not paragraphs[0] or paragraphs[0].startswith(("|", "#", "-", "!")):
        raise ValueError("wanted one sentence that makes the notebook's promise directly under its title")
    return re.split(r"(?<=[.!?])\s", paragraphs[0])[0]


def clean(notebook: NotebookNode) -> NotebookNode:
    """Drop what differs from run to run: times, widget states, versions, stderr, the paths in tracebacks."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        for volatile in ("execution", "collapsed", "scrolled"):
            cell.metadata.pop(volatile, None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if output.output_type == "error":
                    output.traceback = [f"{output.ename}: {output.evalue}"]
    return notebook


def execute(path: Path) -> float:
    """Run one notebook top to bottom, store it with its outputs, return its seconds (kernel start included)."""
    notebook = nbformat.read(path, as_version=4)
    started = time.perf_counter()
    NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],  # the kernel's own notes do not belong on the line of progress
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    seconds = time.perf_counter() - started
    fill_minutes(clean(notebook), seconds)
    write(path, nbformat.writes(notebook) + "\n")
    return seconds


def fill_minutes(notebook: NotebookNode, seconds: float) -> None:
    """Write the measured minutes under the heading that says CPU, in the table at the top of the notebook."""
    lines = notebook.cells[0].source.split("\n")
    for number, line in enumerate(lines[:-2]):
        columns = [column for column, heading in enumerate(line.split("|")) if "CPU" in heading]
        if line.startswith("|") and columns:
            row = lines[number + 2].split("|")
            row[columns[0]] = f" {seconds / 60:.1f} "
            lines[number + 2] = "|".join(row)
    notebook.cells[0].source = "\n".join(lines)


def write(path: Path, text: str) -> None:
    """Replace a file in one step, so that an interruption leaves the old one whole."""
    path.parent.mkdir(exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def device() -> str:
    """The processor and its number of cores, such as 'AMD EPYC 7B13, 2 cores'."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def commit(root: Path) -> str:
    """The commit that is checked out, '-dirty' when files differ from it; 'unknown' outside of git."""
    found = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def read_record(root: Path) -> dict:
    """What records/notebooks.json holds: notebook name -> seconds, date, commit, device."""
    path = root / RECORD
    return json.loads(path.read_text(encoding="utf-8"))["notebooks"] if path.exists() else {}


def write_record(root: Path, measured: dict) -> None:
    """Store the figures of the notebooks that exist, in the course's order."""
    kept = {path.stem: measured[path.stem] for path in find(root) if path.stem in measured}
    write(root / RECORD, json.dumps({"command": "make notebooks", "notebooks": kept}, indent=2) + "\n")


def find(root: Path, names: list[str] | None = None) -> list[Path]:
    """Paths of the named notebooks, or of all; ValueError names those that do not exist."""
    paths = {path.stem: path for path in sorted((root / "notebooks").glob("*.ipynb"))}
    wanted = [Path(name).stem for name in names or paths]
    if unknown := [name for name in wanted if name not in paths]:
        raise ValueError(f"no such notebook: {', '.join(unknown)}; there are: {', '.join(paths) or 'none'}")
    return [paths[name] for name in wanted]


def course_map(root: Path) -> str:
    """The table of the course: a row for each notebook with link, promise, measured minutes and minutes to teach."""
    measured = read_record(root)
    rows = ["| notebook | what it promises | minutes on CPU | minutes to teach |", "|---|---|---|---|"]
    for path in find(root):
        if path.stem not in measured:
            raise ValueError(f"{RECORD} has no run time of {path.stem}: run `make notebooks ONLY={path.stem}`")
        notebook = nbformat.read(path, as_version=4)
        minutes = f"{measured[path.stem]['seconds'] / 60:.1f}"
        teach = notebook.metadata.get("dear", {}).get("teach_minutes")
        if teach is None:
            raise ValueError(f"{path.name}: wanted the minutes to teach in the notebook's metadata, dear.teach_minutes")
        rows.append(f"| [{path.stem}](notebooks/{path.name}) | {promise(notebook)} | {minutes} | {teach} |")
    return "\n".join(rows)


def claims_table(root: Path) -> str:
    """The table of the paper's claims, made from the records (`dear/claims.py`)."""
    from dear.claims import table

    return table(root / "records")


TABLES = {"course-map": course_map, "claims": claims_table}


def renewed(root: Path) -> str:
    """The README's text with fresh tables between their markers; only the course map must be there."""
    text = (root / "README.md").read_text(encoding="utf-8")
    for name, make in TABLES.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if name != "course-map" and begin not in text and end not in text:
            continue
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise ValueError(f"README.md: wanted a table between one line {begin} and one line {end}")
        text = f"{text.split(begin)[0]}{begin}\n{make(root)}\n{end}{text.split(end)[1]}"
    return text


def check(root: Path) -> None:
    """ValueError if the README's tables are not what the notebooks and records give."""
    if renewed(root) != (root / "README.md").read_text(encoding="utf-8"):
        raise ValueError("README.md is out of date: run `make notebooks`, or `make tables` if only records changed")


def build(root: Path, names: list[str]) -> bool:
    """Execute notebooks one after the other, a line of progress each; True if none failed."""
    paths, failed, measured = find(root, names), [], read_record(root)
    for number, path in enumerate(paths, 1):
        print(f"[{number}/{len(paths)}] {path.stem} ... ", end="", flush=True)
        at = commit(root)  # before this run's own outputs make the tree dirty
        try:
            seconds = execute(path)
        except CellExecutionError as error:
            failed.append(path.stem)
            print(f"failed, nothing stored\n{error}")
            continue
        measured[path.stem] = {
            "seconds": round(seconds, 1), "date": date.today().isoformat(), "commit": at, "device": device(),
        }  # fmt: skip
        write_record(root, measured)
        print(f"{seconds:.1f} s", flush=True)
    if failed:
        print(f"{len(failed)} of {len(paths)} notebooks failed: {', '.join(failed)}")
        return False
    write(root / "README.md", renewed(root))
    return True


def main() -> None:
    """Read the command line, build or check, and leave with 1 and one clear line when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="notebooks to execute, with or without .ipynb (all)")
    parser.add_argument("--tables", action="store_true", help="only renew the tables in README.md")
    parser.add_argument("--check", action="store_true", help="only verify the tables in README.md")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # for the kernels: what is measured is one thread
    try:
        if arguments.check:
            check(ROOT)
        elif arguments.tables:
            write(ROOT / "README.md", renewed(ROOT))
        elif not build(ROOT, arguments.names):
            sys.exit(1)
    except ValueError as problem:
        sys.exit(f"error: {problem}")


if __name__ == "__main__":
    main()
