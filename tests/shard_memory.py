"""Peak memory of preparing shards, reading them and training: python -m tests.shard_memory 1000 10000 (clips).

Clips and latents are tiny, so that thousands take seconds and anything that is kept of each would show.
"""

import multiprocessing
import resource
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch

from dear.data import shard_pool
from dear.data.corpus import Clip, Corpus
from dear.data.sharded import ShardedLatents, in_sequence
from dear.data.shards import prepare
from dear.training import TrainConfig, train


class TinyVAE(torch.nn.Linear):
    """A latent of 4 channels from the mean over bands, two steps of 10 ms a token."""

    class config:  # noqa: N801 - stands for an object
        steps_per_token = 2

    def scaled_posterior(self, log_mel):
        mean = self(log_mel.unflatten(2, (8, 8)).mean(2)).transpose(1, 2)
        return mean, torch.ones_like(mean)


class TinyText(torch.nn.Module):
    """One vector a caption; notes the peak of its process on each 50th call."""

    def __init__(self, notes: Path):
        super().__init__()
        self.notes, self.calls = notes, 0

    def encode(self, captions):
        self.calls += 1
        if self.calls % 50 == 0:
            note(self.notes, "worker")
        return torch.ones(len(captions), 1, 4), torch.ones(len(captions), 1, dtype=torch.bool)


def note(notes: Path, name: str) -> None:
    """Write the peak of this process so far, in MB (Linux counts in kB)."""
    (notes / name).write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3))


def tiny_encoders(notes: Path):
    torch.manual_seed(0)
    return TinyVAE(8, 4).requires_grad_(False), TinyText(notes)


def _prepare(count: int, folder: Path, method: str) -> None:
    shard_pool.METHOD = method
    clips = [Clip(f"tiny/{i}", str(folder / "clip.wav"), 0.0, 0.04, (f"sound number {i}",)) for i in range(count)]
    corpus = Corpus("tiny", clips, seconds=0.04)
    prepare(corpus, folder / "shards", partial(tiny_encoders, folder), shard_clips=50, progress=False)
    note(folder, "parent")


def _read(count: int, folder: Path, method: str) -> None:
    seen = sum(len(batch["ids"]) for batch in ShardedLatents(folder / "shards", 16, mixed=4))
    assert seen == count
    note(folder, "reading")


def _train(count: int, folder: Path, method: str) -> None:
    """One epoch, in the order and by the reader that `dear train --data` has for shards (`dear.paper.train_stage`)."""
    reader, seen = ShardedLatents(folder / "shards", 20, mixed=4), []

    def loss(module, batch, generator):
        seen.append(len(batch["ids"]))
        return (module(batch["tokens"]) - batch["tokens"]).square().mean(), {}

    width = next(iter(reader))["tokens"].shape[2]
    config = TrainConfig(steps=count // 20, batch_size=20, warmup=0)
    train(torch.nn.Linear(width, width), loss, reader.clips, config, folder / "run", order=in_sequence,
          read=reader.reader(), progress=False)
    assert sum(seen) == count
    note(folder, "training")


def peaks(count: int, folder: Path, method: str = shard_pool.METHOD) -> dict[str, float]:
    """Peak resident memory in MB of parent and worker of `prepare`, of reading, and of training: four processes.

    method: how the worker is started.
    """
    folder.mkdir(parents=True)
    soundfile.write(folder / "clip.wav", 0.1 * np.random.default_rng(0).standard_normal(640), 16_000)
    for step in (_prepare, _read, _train):
        process = multiprocessing.get_context("forkserver").Process(target=step, args=(count, folder, method))
        process.start()
        process.join()
        if process.exitcode:
            raise RuntimeError(f"{step.__name__} ended with {process.exitcode}")
    return {name: float((folder / name).read_text()) for name in ("parent", "worker", "reading", "training")}


def main(counts: list[int]) -> None:
    multiprocessing.get_context("forkserver").set_forkserver_preload(["dear.data.shards", "dear.data.sharded"])
    with tempfile.TemporaryDirectory() as home:
        for count in counts:
            found = peaks(count, Path(home, str(count)))
            print(f"{count} clips: " + ", ".join(f"{name} {peak:.0f} MB" for name, peak in found.items()), flush=True)


if __name__ == "__main__":
    main([int(count) for count in sys.argv[1:]])
