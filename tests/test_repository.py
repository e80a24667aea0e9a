"""The files around the code agree with each other: pyproject, lock, conda environment, Makefile, README, citation."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from dear import components
from dear.pipeline import SHIPPED
from toy import tables

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()

# What packaging needs to know of a machine to evaluate a marker.
MACHINES = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"},
    "darwin": {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"},
    "win32": {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"},
}
PYTHONS = ["3.11", "3.12", "3.13"]  # what requires-python admits, tested below


def direct_requirements() -> list[Requirement]:
    """All that pyproject asks for, extras included; an extra made of other extras adds nothing."""
    lines = PROJECT["dependencies"] + [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    return [requirement for requirement in map(Requirement, lines) if requirement.name != PROJECT["name"]]


def locked(machine: str, python: str) -> dict[str, str]:
    """Name -> version of what the lock installs on a machine."""
    environment = {**default_environment(), **MACHINES[machine]}
    environment |= {"python_version": python, "python_full_version": f"{python}.9"}
    chosen = {}
    for requirement in map(Requirement, LOCK.splitlines()):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in chosen, f"{name} is locked twice for {machine}, Python {python}"
            (pin,) = requirement.specifier
            assert pin.operator == "==" and "*" not in pin.version, f"{requirement} is no exact version"
            chosen[name] = pin.version
    return chosen


def test_the_lock_names_no_address():
    for address in ("://", "--", " @ "):
        assert address not in LOCK


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("machine", MACHINES)
def test_the_lock_satisfies_pyproject_on_every_system(machine, python):
    versions = locked(machine, python)
    for requirement in direct_requirements():
        version = versions.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not locked for {machine}, run `make lock`"
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}, run `make lock`"


@pytest.mark.parametrize("python", PYTHONS)
def test_gpu_libraries_are_locked_on_linux_only(python):
    def gpu(machine):
        return {name for name in locked(machine, python) if name.startswith(("nvidia-", "cuda-", "triton"))}

    assert {"nvidia-cublas", "triton"} <= gpu("linux")
    assert gpu("darwin") == gpu("win32") == set()


def test_torch_is_the_version_of_the_shipped_models():
    assert locked("linux", "3.11")["torch"] == "2.11.0"


def test_requires_python_admits_the_tested_versions_and_no_others():
    admitted = SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" for minor in range(8, 20) if admitted.contains(f"3.{minor}")] == PYTHONS


def test_the_conda_environment_repeats_nothing_and_fits_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [line for line in environment["dependencies"] if isinstance(line, str)]
    (pip,) = [line["pip"] for line in environment["dependencies"] if isinstance(line, dict)]
    (python,) = [line.partition("=")[2] for line in conda if line.startswith("python=")]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    # torch is in the pip section only: two builds of it in one environment do not work together.
    assert {line.split("=")[0] for line in conda} == {"python", "pip"}
    known = {canonicalize_name(requirement.name) for requirement in direct_requirements()}
    for line in pip:
        option, _, value = line.rpartition(" ")
        if option == "--constraint":
            assert (ROOT / value).is_file()
        elif option == "--editable":
            extras = Requirement(value.replace(".", PROJECT["name"], 1)).extras
            assert extras <= PROJECT["optional-dependencies"].keys()
        else:
            assert canonicalize_name(Requirement(line).name) in known


def make_targets() -> set[str]:
    """The targets of the Makefile that do something for a user."""
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_make_alone_explains_every_target():
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^make ([a-z]+) +\S", shown, re.MULTILINE)) == make_targets()


def test_every_make_command_of_the_readme_exists():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    # In backticks or on a line of its own: "make sure" in a sentence is no command.
    named = set(re.findall(r"(?:^\s*(?:\$ )?|`)make ([a-z]+)", readme, re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named <= make_targets()


def test_make_test_runs_lint_then_tests_then_notebooks():
    command = ["make", "--dry-run", "--old-file=.venv/.setup", "test"]
    plan = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    steps = [plan.find(step) for step in ("-m ruff check .", "-m pytest -n 2 --dist loadfile tests", "--nbval ")]
    assert -1 not in steps and steps == sorted(steps)


def test_without_python_311_make_says_what_to_install(tmp_path):
    # A copy, as the repository itself may have its .venv already; python3.11 and python3 are there, but are no 3.11.
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    for name in ("python3.11", "python3"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(["make", "setup"], cwd=tmp_path, env={"PATH": path}, capture_output=True, text=True)
    assert done.returncode != 0
    assert "No Python 3.11" in done.stderr and "make PYTHON=" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_citation_and_licence_agree_with_pyproject():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert citation["authors"] == PROJECT["authors"]


def test_the_readme_shows_the_figures_of_the_plane():
    lines, readme = tables.read(ROOT / "records" / "plane.jsonl"), (ROOT / "README.md").read_text()

    def mean(**key):
        values = tables.seeds(tables.pick(lines, data="swiss_roll", **key), "w2")
        assert len(values) == 3
        return f"{sum(values) / 3:.3f}"

    rows = {"energy, m samples a target": "energy", "Shortcut": "shortcut", "MeanFlow": "meanflow"}
    for name, method in rows.items():
        published, tuned = (mean(stage="steps", method=method, setting=setting) for setting in ("published", "tuned"))
        assert f"| {name} | {published} | {tuned} |" in readme
    assert f"| energy, all pairs | | {mean(stage='steps', method='energy_all_pairs', setting='tuned')} |" in readme
    floor, gaussian = (mean(stage="controls", method=method) for method in ("floor", "gaussian"))
    flow = mean(stage="steps", method="flow", setting="tuned")
    said = f"data against fresh data have {floor}, a Gaussian {gaussian}, flow matching with 50 evaluations {flow}"
    assert said in readme


def test_the_readme_shows_the_figures_of_the_record():
    rows = json.loads((ROOT / "records" / "soundworld.json").read_text())["rows"]
    names = {"soundworld": "student, 1 head call a token", "soundworld-teacher": "teacher, 100 diffusion steps",
             "soundworld-without-distillation": "student without distillation"}
    readme = (ROOT / "README.md").read_text()
    shipped = {name for name, folder in SHIPPED.items() if (components.WEIGHTS / folder).exists()}
    assert {row["model"] for row in rows} == {"rendered clips", "VAE reconstructions", *shipped}
    for row in rows:
        shares = [(row["all"][a], row["unseen"][a]) for a in ("relation", "kind", "pitch", "loudness")]
        cells = [f"{100 * every:.1f} / {100 * unseen:.1f}" for every, unseen in shares]
        assert f"| {names.get(row['model'], row['model'])} | {' | '.join(cells)} | {row['frechet']:.0f} |" in readme
