"""The script for SLURM: its options are those of the command line, and it stops, queues itself and goes on."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from dear.__main__ import app

SCRIPT = Path(__file__).parents[1] / "slurm" / "paper.sbatch"
pytestmark = pytest.mark.skipif(sys.platform != "linux" or not shutil.which("bash") or not shutil.which("pgrep"),
                                reason="a script for Linux, tried with bash and pgrep")
# Stand-ins: each notes its call; srun runs the command, torchrun a worker that ctrl-C stops, as `dear train` does.
STAND_INS = {
    "srun": 'echo "srun $*" >>"$CALLS"\nshift\nSLURM_NODEID=0 exec "$@"\n',
    "scontrol": 'echo "scontrol $*" >>"$CALLS"\nif [ "$1" = show ]; then printf "one\\ntwo\\n"; fi\n',
    "python": 'echo "python $*" >>"$CALLS"\nexit ${CODE:-0}\n',
    "torchrun": 'echo "torchrun $*" >>"$CALLS"\n"$PYTHON" "$WORKER" "$@" &\nwait $!\n',
}
WORKER = """
import os, pathlib, signal, sys, time
stage = sys.argv[sys.argv.index("train") + 1]
def stop(*_):
    with open(os.environ["CALLS"], "a") as file:
        file.write(f"interrupted {stage}\\n")
    sys.exit(130)
signal.signal(signal.SIGINT, stop)
if stage == os.environ.get("LONG"):
    pathlib.Path(os.environ["CALLS"] + ".waiting").touch()
    time.sleep(60)
model = pathlib.Path(os.environ["MODELS"], stage, "model.json")
model.parent.mkdir(parents=True, exist_ok=True)
model.touch()
"""


@pytest.fixture
def site(tmp_path):
    """Environment of a job on two machines whose commands are stand-ins."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, body in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}")
        (programs / name).chmod(0o755)
    (programs / "activate").write_text(f'export PATH="{programs}:$PATH"\n')
    (tmp_path / "worker.py").write_text(WORKER)
    return os.environ | {
        "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8",
        "SLURM_CPUS_PER_TASK": "64", "SLURM_JOB_NODELIST": "any", "CALLS": str(tmp_path / "calls"),
        "PYTHON": sys.executable, "WORKER": str(tmp_path / "worker.py"), "MODELS": str(tmp_path / "models")}


def calls(site) -> list[str]:
    return Path(site["CALLS"]).read_text().splitlines()


def submit(site, *arguments, **more):
    return subprocess.run(["bash", SCRIPT, *arguments], env=site | more, capture_output=True, text=True, timeout=60)


def test_the_script_is_bash_and_names_no_site():
    assert subprocess.run(["bash", "-n", SCRIPT], check=False).returncode == 0
    text = SCRIPT.read_text()
    assert not re.search(r"^#SBATCH --(account|partition|qos|mail)", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 120


def test_every_option_exists_and_every_value_is_taken(site):
    assert submit(site, "prepare", SLURM_NNODES="1").returncode == 0 and submit(site, "train").returncode == 0
    asked = {}
    for line in calls(site):
        program, _, told = line.partition(" -m dear ")
        if program.split()[0] in ("python", "torchrun"):
            name = " ".join(told.split()[: 2 if told.startswith("data") else 1])
            asked.setdefault(name, []).append(told.removeprefix(f"{name} ").split())
    assert asked.keys() == {"data prepare", "train"}
    root = typer.main.get_command(app)
    for name, uses in asked.items():
        command = root
        for part in name.split():
            command = command.commands[part]
        for use in uses:
            command.make_context(name, list(use))  # a UsageError for what it does not know
    options = {word for word in asked["train"][0] if word.startswith("--")}
    assert {"--data", "--config", "--batch-size"} <= options
    assert [use[0] for use in asked["train"]] == ["pretrain", "teacher", "student"]


def test_torchrun_is_told_of_all_machines(site):
    submit(site, "train")
    first = next(line for line in calls(site) if line.startswith("torchrun"))
    assert "--nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint one:29500" in first
    from torch.distributed.run import get_args_parser

    told = get_args_parser().parse_args(first.split()[1:])
    assert (told.nnodes, told.nproc_per_node, told.module, told.training_script) == ("2", "8", True, "dear")


def test_before_its_time_is_over_it_stops_one_process_and_queues_itself_and_then_goes_on(site):
    job = subprocess.Popen(["bash", SCRIPT, "train"], env=site | {"LONG": "teacher"}, stderr=subprocess.PIPE)
    waiting = Path(site["CALLS"] + ".waiting")
    until = time.monotonic() + 30
    while not waiting.exists() and time.monotonic() < until:
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(30) == 0, job.stderr.read()
    assert calls(site)[-2:] == ["interrupted teacher", "scontrol requeue 7"]
    assert sum(line.startswith("torchrun") for line in calls(site)) == 2
    after = submit(site, "train")
    assert after.returncode == 0 and "pretrain: finished before" in after.stdout
    again = [line for line in calls(site) if line.startswith("torchrun")][2:]
    assert [re.search("dear train (\\w+)", line)[1] for line in again] == ["teacher", "student"]


def test_what_fails_ends_the_job_and_is_not_queued_again(site):
    assert submit(site, "prepare", SLURM_NNODES="1", CODE="3").returncode == 3
    assert not any("requeue" in line for line in calls(site))


@pytest.mark.parametrize(("arguments", "told"), [(["prepare"], "--nodes=1, not 2"), (["sing"], "prepare or train")])
def test_what_cannot_be_is_said(site, arguments, told):
    found = submit(site, *arguments)
    assert found.returncode == 2 and told in found.stderr
