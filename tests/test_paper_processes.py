"""The paper's stages over two processes: the steps of one, each clip once an epoch, and files by the main one alone.

Run by torchrun, this file is also the program of each process.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dear import components, paper, recipes
from dear.__main__ import app
from dear.data.sharded import ShardedLatents, in_sequence
from dear.paper import STAGES, train_stage
from dear.pipeline import TextToAudio
from dear.shop import open_shop
from dear.training import train
from tests.small_shards import BATCH, CLIPS, PLAN, STEPS, TINY, make_shards, small_encoders
from tests.test_training_processes import assert_same_run, rows, stored_step

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo is tried on Linux and macOS")
HALF = replace(PLAN, batch_size=BATCH // 2)


class Watched(ShardedLatents):
    """Shards that keep the ids of every batch that is read."""

    seen: list = []

    def reader(self):
        read = super().reader()

        def watched(places):
            batch = read(places)
            self.seen.append(batch["ids"])
            return batch

        return watched


def plain(home: Path, out: Path, config) -> None:
    """Train a small net on shards by a loss that draws nothing."""
    torch.manual_seed(int(os.environ.get("RANK", 0)))
    reader = ShardedLatents(home / "shards", config.batch_size, mixed=2).reader()

    def loss(net, batch, generator):
        tokens = batch["tokens"].to(generator.device)
        return (net(tokens) - tokens.flip(2)).square().mean(), {}

    train(nn.Linear(6, 6), loss, CLIPS, config, out, progress=False, order=in_sequence, read=reader)


def stages(home: Path, runs: Path, out: Path, only=STAGES, **options) -> dict[str, list]:
    """Train stages by TINY; ids of the batches that this process read of each."""
    shop, seen = open_shop(home / "shards", runs, out, progress=False), {}
    for stage in only:
        Watched.seen = seen[stage] = []
        train_stage(shop, TINY, stage, **options)
    return seen


@contextlib.contextmanager
def interrupted(step: int):
    """Press ctrl-C in a step (from 1 on) of what one process trains with parts of half a batch."""
    calls, whole = [], paper.training_loss

    def pressing(*given, **named):
        calls.append(None)
        if len(calls) == 2 * step:
            signal.raise_signal(signal.SIGINT)
        return whole(*given, **named)

    paper.training_loss = pressing
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        paper.training_loss = whole
        signal.signal(signal.SIGINT, before)


def process(home: Path) -> None:
    """What each of two processes does; it notes what it read and which files it wrote."""
    paper.ShardedLatents, written, beside = Watched, [], components.beside

    def noting(path):
        written.append(path.name)
        return beside(path)

    components.beside = noting
    seen = stages(home, home / "runs", home / "out")
    plain(home, home / "plain", HALF)
    stages(home, home / "begun" / "runs", home / "begun" / "out", ("pretrain",))
    recipes.PARTS = {part: (run, replace(config, batch_size=2)) for part, (run, config) in recipes.PARTS.items()}
    where = ["--out", str(home / "models"), "--runs", str(home / "classroom"), "--steps", "1"]
    app(["train", "all", "--data", str(home / "world"), *where], standalone_mode=False)
    where = ["--out", str(home / "small"), "--runs", str(home / "small_runs"), "--steps", "1", "--batch-size", "4"]
    app(["train", "pretrain", "--data", str(home / "shards"), *where], standalone_mode=False)
    told = {"processes": torch.distributed.get_world_size(), "backend": torch.distributed.get_backend(),
            "seen": seen, "written": written}
    (home / f"rank{os.environ['RANK']}.json").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder of what two processes did, what they said, and what each of them noted."""
    home = tmp_path_factory.mktemp("paper")
    make_shards(home, small_encoders(home))
    app(["data", "write", str(home / "world"), "--count", "4"], standalone_mode=False)
    with interrupted(5):
        stages(home, home / "begun" / "runs", home / "begun" / "out", ("pretrain",))
    shutil.copytree(home / "begun", home / "stopped")
    root = str(Path(__file__).parents[1])
    env = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__, home]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return home, ran.stdout + ran.stderr, [json.loads((home / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone(made, tmp_path_factory):
    """Folder of what one process trains that accumulates as many parts."""
    home = tmp_path_factory.mktemp("alone")
    stages(made[0], home / "runs", home / "out")
    return home


def test_two_processes_take_the_steps_of_one_that_accumulates(made, alone):
    home, _, told = made
    assert all(one["processes"] == 2 and one["backend"] == "gloo" for one in told)
    for stage in STAGES:
        assert_same_run(home / "runs" / stage, alone / "runs" / stage)
    losses = [[row["loss"] for row in rows(home / "runs" / stage)] for stage in STAGES]
    assert len({tuple(stage) for stage in losses}) == 3 and len(losses[0]) == STEPS


def test_no_clip_is_seen_twice_an_epoch(made):
    for stage in STAGES:
        parts = [one["seen"][stage] for one in made[2]]
        assert all(len(seen) == STEPS and {len(ids) for ids in seen} == {2} for seen in parts)
        ids = [i for both in zip(*parts, strict=True) for pair in zip(*both, strict=True) for i in pair]
        epochs = [ids[start : start + CLIPS] for start in range(0, len(ids), CLIPS)]
        assert len(epochs) == 4 and len({tuple(epoch) for epoch in epochs}) == 4
        assert all(sorted(epoch) == sorted(f"clip/{i}" for i in range(CLIPS)) for epoch in epochs)


def test_without_draws_the_steps_are_those_of_the_whole_batch(made, tmp_path):
    plain(made[0], tmp_path, PLAN)
    assert_same_run(made[0] / "plain", tmp_path)


def test_two_processes_go_on_with_what_one_began_and_one_with_what_it_left(made, alone):
    home = made[0]
    assert stored_step(home / "stopped" / "runs" / "pretrain") == 5
    assert_same_run(home / "begun" / "runs" / "pretrain", alone / "runs" / "pretrain")
    stages(home, home / "stopped" / "runs", home / "stopped" / "out", ("pretrain",))
    assert_same_run(home / "stopped" / "runs" / "pretrain", alone / "runs" / "pretrain")


def test_the_main_process_alone_writes_and_speaks(made):
    home, said, (main, other) = made
    assert other["written"] == []
    assert {"checkpoint.safetensors", "model.json", "latents.safetensors"} <= set(main["written"])
    once = ("student: finished", "pretrain: finished", "training on 4 crops", f"training on {CLIPS} clips",
            "oracle: skipped", "recordings:   0%")
    assert {line: said.count(line) for line in once} == dict.fromkeys(once, 1)
    for folder in (home / "out", home / "models"):
        assert TextToAudio.from_pretrained(folder / "student")("a", num_inference_steps=1).audios.isfinite().all()


if __name__ == "__main__":
    torch.set_num_threads(1)
    process(Path(sys.argv[1]))
