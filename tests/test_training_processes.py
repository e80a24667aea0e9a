"""Training over several processes: the steps do not depend on how a batch is split, nor on who began a run.

Run by torchrun, this file is also the program of each process.
"""

import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from webdataset import TarWriter

from dear.data.manifest import Manifest, shard_name
from dear.data.sharded import ShardedLatents
from dear.training import TrainConfig, train

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo and SIGKILL are tried on Linux and macOS")

ITEMS = 18
PAIR = TrainConfig(steps=18, batch_size=2, learning_rate=1e-2, warmup=3, checkpoint_every=4, log_every=1, ema=0.5)
DOUBLED, ACCUMULATED = replace(PAIR, batch_size=4), replace(PAIR, accumulate=2)  # on one process: the same batch of 4
INPUTS = torch.randn(ITEMS, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Two layers, called by another name than `forward`; a parameter that few items use, and one that none uses."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 8))
        self.rare, self.unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))

    def predict(self, x):
        return self.layers(x)


def loss(module, indices, generator):
    x = INPUTS[indices]
    value = (module.predict(x) - x.flip(1)).square().mean()
    if (rare := (indices < 2).float().mean()) > 0:
        value = value + rare * module.rare.square().sum()
    return value, {"index": float(indices.float().mean()), "later": lambda: float(value.detach())}


def noisy_loss(module, indices, generator):
    x = INPUTS[indices]
    x = x + 0.3 * torch.randn(x.shape, generator=generator)
    return (module.predict(x) - x.flip(1)).square().mean(), {}


def fit(out: Path, config: TrainConfig, function=loss, seed: int = 0, **options) -> Net:
    return train(Net(seed), function, ITEMS, config, out, progress=False, **options)


def watched(function, at: int, act):
    """The loss, which keeps the indices of its calls in `seen` and calls `act` in the at-th (from 1 on; 0: never)."""

    def counted(module, indices, generator):
        counted.seen.append(indices.tolist())
        if len(counted.seen) == at:
            act()
        return function(module, indices, generator)

    counted.seen = []
    return counted


def write_shards(folder: Path) -> None:
    """ITEMS clips of two tokens of 8, five a shard and three in the last."""
    folder.mkdir()
    manifest, random = Manifest(folder, "tiny", {"clips": ITEMS}), np.random.default_rng(0)
    for i, start in enumerate(range(0, ITEMS, 5)):
        path, clips = folder / shard_name(i), range(start, min(start + 5, ITEMS))
        with path.open("wb") as file, TarWriter(file) as tar:
            for clip in clips:
                tar.write({"__key__": str(clip), "json": {"id": str(clip), "captions": ["a bell"]},
                           "mean.npy": random.standard_normal((2, 8)).astype(np.float16),
                           "std.npy": np.full((2, 8), 0.3, np.float16), "vectors.npy": np.zeros((1, 1, 4), np.float16),
                           "mask.npy": np.ones((1, 1), bool)})
        manifest.add(path.name, {"clips": len(clips), "captions": len(clips), "seconds": 1.0, "skipped": [],
                                 "bytes": path.stat().st_size})


def batches(reader: ShardedLatents):
    """Batches of one epoch after the other: 5 each, the last of one clip, as a rank has 9 of the 18 clips."""
    for epoch in itertools.count():
        yield from reader.seek(epoch)


def shard_loss(folder: Path, ranks: list[int]):
    """A loss on the batches of these ranks of two, in turn; ids go into its `seen`, one list a batch."""
    turns = itertools.cycle([batches(ShardedLatents(folder, PAIR.batch_size, rank=rank, ranks=2)) for rank in ranks])

    def function(module, indices, generator):
        batch = next(next(turns))
        function.seen.append(batch["ids"])
        return (module.predict(batch["tokens"]) - batch["tokens"].flip(2)).square().mean(), {}

    function.seen = []
    return function


def process(home: Path) -> None:
    """What each of two processes does: several trainings, in the last of which the second process is killed."""
    rank = int(os.environ["RANK"])
    whole = watched(loss, 0, None)
    fit(home / "whole", PAIR, whole, seed=rank)  # the first process decides where both start
    fit(home / "noisy", PAIR, noisy_loss)
    fit(home / "begun_by_one", PAIR, seed=5)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with ctrl-C ignored
    stopped = watched(loss, 6 if rank == 1 else 0, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        fit(home / "interrupted", PAIR, stopped)
    with pytest.raises(FloatingPointError, match="step 0 has the loss nan"):
        fit(home / "infinite", PAIR, lambda *args: (loss(*args)[0] * (math.nan if rank == 1 else 1), {}))
    sharded = shard_loss(home / "shards", [rank])
    fit(home / "sharded", PAIR, sharded)
    told = {"pid": os.getpid(), "processes": torch.distributed.get_world_size(), "seen": whole.seen,
            "backend": torch.distributed.get_backend(), "steps": len(stopped.seen),
            "ids": sharded.seen}
    (home / f"rank{rank}.json").write_text(json.dumps(told))
    fit(home / "killed", PAIR, watched(loss, 7 if rank == 1 else 0, lambda: os.kill(os.getpid(), signal.SIGKILL)))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Folder of what two processes did; starting them takes most of the time, so they are started once."""
    home, root = tmp_path_factory.mktemp("processes"), Path(__file__).parents[1]
    fit(home / "begun_by_one", DOUBLED, stop_after=5)
    write_shards(home / "shards")
    env = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__, home]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert all((home / f"rank{rank}.json").exists() for rank in (0, 1)), ran.stderr
    assert ran.returncode != 0 and "SIGKILL" in ran.stderr, ran.stderr
    return home


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Folder of an uninterrupted run of one process with the same batch, taken at once."""
    out = tmp_path_factory.mktemp("alone")
    fit(out, DOUBLED)
    return out


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(out: Path, other: Path) -> None:
    """Losses and figures of all steps, and the last weights, averages and moments."""
    assert [row["step"] for row in rows(out)] == list(range(1, PAIR.steps + 1))
    for row, wanted in zip(rows(out), rows(other), strict=True):
        assert row.keys() == wanted.keys()
        for name in row.keys() - {"seconds"}:
            assert row[name] == pytest.approx(wanted[name], rel=1e-5, abs=1e-6, nan_ok=True), (row, wanted)
    found, expected = (load_file(folder / "checkpoint.safetensors") for folder in (out, other))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


def stored_step(out: Path) -> int:
    with safe_open(out / "checkpoint.safetensors", "pt") as file:
        return int(file.metadata()["step"])


def test_two_processes_see_each_item_once_an_epoch(home):
    told = [json.loads((home / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0]["pid"] != told[1]["pid"]
    assert all(one["processes"] == 2 and one["backend"] == "gloo" for one in told)
    assert all(len(one["seen"]) == PAIR.steps and {len(part) for part in one["seen"]} == {2} for one in told)
    # Part i of 2 holds every second item: interleaved, the parts are the batches that one process would take.
    order = [item for parts in zip(*(one["seen"] for one in told), strict=True)
             for items in zip(*parts, strict=True) for item in items]
    epochs = [order[start : start + ITEMS] for start in range(0, len(order), ITEMS)]
    assert len(epochs) == 4 and all(sorted(epoch) == list(range(ITEMS)) for epoch in epochs)


def test_two_processes_take_the_steps_of_one_with_the_batch_of_both(home, alone):
    assert_same_run(home / "whole", alone)
    assert rows(alone)[-1]["loss"] < 0.7 * rows(alone)[0]["loss"]
    weights = load_file(alone / "checkpoint.safetensors")
    assert weights["model.unused"].tolist() == [1, 1] and "optimizer.step.unused" not in weights
    assert 0 < weights["optimizer.step.rare"] < PAIR.steps  # some batches have none of its items


def test_accumulating_takes_the_same_steps(alone, tmp_path):
    function = watched(loss, 0, None)
    fit(tmp_path, ACCUMULATED, function)
    assert len(function.seen) == 2 * PAIR.steps
    assert_same_run(tmp_path, alone)


def test_parts_draw_the_same_noise_wherever_they_are(home, tmp_path):
    fit(tmp_path, ACCUMULATED, noisy_loss)
    assert_same_run(tmp_path, home / "noisy")


def test_two_processes_go_on_with_what_one_began(home, alone):
    assert_same_run(home / "begun_by_one", alone)


def test_ctrl_c_on_one_process_stops_both_after_the_same_step(home, alone, tmp_path):
    assert [json.loads((home / f"rank{rank}.json").read_text())["steps"] for rank in (0, 1)] == [6, 6]
    out = shutil.copytree(home / "interrupted", tmp_path / "interrupted")
    assert stored_step(out) == 6
    fit(out, DOUBLED, seed=5)
    assert_same_run(out, alone)


def test_a_loss_that_is_not_finite_on_one_process_stops_both_before_they_move(home):
    assert not (home / "infinite" / "checkpoint.safetensors").exists()


def test_killed_on_two_processes_and_continued_on_one(home, alone, tmp_path):
    assert stored_step(home / "killed") == 4
    with pytest.raises(ValueError, match=r"batch_size 4 -> 2\).*batch_size: of a step, over all processes"):
        fit(home / "killed", PAIR)
    for name, config in (("doubled", DOUBLED), ("accumulated", ACCUMULATED)):
        out = shutil.copytree(home / "killed", tmp_path / name)
        fit(out, config, seed=5)
        assert_same_run(out, alone)


def test_shards_feed_two_processes_each_clip_once_an_epoch(home, tmp_path):
    ids = [json.loads((home / f"rank{rank}.json").read_text())["ids"] for rank in (0, 1)]
    assert [len(seen) for seen in ids] == [PAIR.steps] * 2
    for start in range(0, 15, 5):
        epoch = [i for seen in ids for batch in seen[start : start + 5] for i in batch]
        assert sorted(map(int, epoch)) == list(range(ITEMS))
    function = shard_loss(home / "shards", [0, 1])
    fit(tmp_path, ACCUMULATED, function)
    assert function.seen[::2] == ids[0] and function.seen[1::2] == ids[1]
    assert_same_run(tmp_path, home / "sharded")


if __name__ == "__main__":
    torch.set_num_threads(1)
    process(Path(sys.argv[1]))
