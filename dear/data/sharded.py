"""Reading shards back for training: batches in an order that seed and epoch decide, split among ranks by clips."""

import io
import json
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import IterableDataset, get_worker_info

from dear.data.corpus import generator_of
from dear.data.manifest import Manifest


class ShardedLatents(IterableDataset):
    """Batches of the shards that `dear.data.shards.prepare` wrote, one epoch from `epoch` and `position` on.

    A batch is a dict: ids and captions (lists of B), tokens (B, N, D) float32, vectors (B, L, E) float32, mask (B, L)
    bool and, where the shards have it, pooled (B, P) float32. Tokens are drawn from the posterior, and one of a clip's
    captions is chosen, with a generator that seed, epoch and the clip's id decide.

    The order of an epoch: shards are permuted, and the clips of each `mixed` shards in a row are permuted together.
    Rank r of R takes the places r n // R to (r + 1) n // R of the n clips: every clip is seen once an epoch, ranks
    differ by one clip at most, and shards need not divide evenly, as a rank may begin inside one. `len` is the number
    of this rank's batches; where all ranks must make as many steps, stop at the least, (n // R) // batch_size.

    Use `DataLoader(dataset, batch_size=None, num_workers=W)`: worker w makes the batches w, w + W, ..., which come out
    in the same order for any W, so that (epoch, position) is all that a run needs to continue. A process holds
    one batch and the places of the clips in 2 `mixed` shards in memory, 320 MB with torch for 1000 and for 10,000 tiny
    clips (tests/shard_memory.py).
    """

    def __init__(self, folder: str | Path, batch_size: int, *, seed: int = 0, mixed: int = 8, rank: int = 0,
                 ranks: int = 1) -> None:
        if batch_size < 1 or mixed < 1 or not 0 <= rank < ranks:
            raise ValueError(f"wanted batch_size and mixed at least 1 and a rank in 0..ranks - 1, got {batch_size}, "
                             f"{mixed} and rank {rank} of {ranks}")
        self.folder, self.batch_size, self.seed, self.mixed = Path(folder), batch_size, seed, mixed
        self.manifest = Manifest.read(self.folder)
        if not self.manifest.whole:
            raise ValueError(f"{folder} is not finished ({len(self.manifest.shards)} shards); the same `dear data "
                             "prepare` continues it")
        for name, entry in self.manifest.shards.items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                raise ValueError(f"{path} is gone or damaged; the same `dear data prepare` makes it anew")
        self.names = sorted(self.manifest.shards)
        self.counts = np.array([self.manifest.shards[name]["clips"] for name in self.names])
        clips = int(self.counts.sum())
        self.first, self.last = rank * clips // ranks, (rank + 1) * clips // ranks
        self.epoch = self.position = 0

    def seek(self, epoch: int, position: int = 0) -> "ShardedLatents":
        """Go to an epoch, `position` clips of this rank after its beginning; returns itself."""
        if epoch < 0 or not 0 <= position <= self.last - self.first:
            raise ValueError(f"wanted an epoch from 0 on and a position in 0..{self.last - self.first}, got {epoch} "
                             f"and {position}")
        self.epoch, self.position = epoch, position
        return self

    def __len__(self) -> int:
        return -(-(self.last - self.first - self.position) // self.batch_size)

    def __iter__(self) -> Iterator[dict]:
        worker = get_worker_info()
        mine, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        index = lru_cache(2 * self.mixed)(_index)
        for start in range(self.first + self.position + mine * self.batch_size, self.last, workers * self.batch_size):
            places = self.order(start, min(start + self.batch_size, self.last))
            yield _collate([self._clip(self.folder / name, index(self.folder / name)[i]) for name, i in places])

    def order(self, first: int, last: int) -> list[tuple[str, int]]:
        """Shard and place in it of what stands at first to last - 1 in this epoch's order of all clips."""
        shards = torch.randperm(len(self.names), generator=self._generator("shards")).numpy()
        found, end = [], 0
        for block in range(0, len(shards), self.mixed):
            inside = shards[block : block + self.mixed]
            ends = np.cumsum(self.counts[inside])
            start, end = end, end + int(ends[-1])
            if end <= first or start >= last:
                continue
            mixed = torch.randperm(end - start, generator=self._generator(f"block {block}")).numpy()
            for place in mixed[max(first - start, 0) : last - start]:
                i = int(np.searchsorted(ends, place, side="right"))
                found.append((self.names[inside[i]], int(place - (ends[i - 1] if i else 0))))
        return found

    def _generator(self, of: str) -> torch.Generator:
        return generator_of(f"{self.seed}/{self.epoch}/{of}")

    def _clip(self, path: Path, places: dict[str, tuple[int, int]]) -> dict:
        parts = {}
        with path.open("rb") as file:
            for suffix, (offset, size) in places.items():
                file.seek(offset)
                parts[suffix] = file.read(size)
        about = json.loads(parts.pop("json"))
        arrays = {name.removesuffix(".npy"): torch.from_numpy(np.load(io.BytesIO(content)))
                  for name, content in parts.items()}
        generator = self._generator(f"clip {about['id']}")
        chosen = int(torch.randint(len(about["captions"]), (), generator=generator))
        mean, std = arrays.pop("mean").float(), arrays.pop("std").float()
        text = {name: array[chosen] for name, array in arrays.items()}
        return {"ids": about["id"], "captions": about["captions"][chosen],
                "tokens": mean + std * torch.randn(mean.shape, generator=generator)} | text


def _index(path: Path) -> list[dict[str, tuple[int, int]]]:
    """Of each clip of a shard, in order, where its members lie: suffix -> offset and size in bytes."""
    clips: dict[str, dict[str, tuple[int, int]]] = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            folder, slash, name = member.name.rpartition("/")
            stem, _, suffix = name.partition(".")  # as webdataset: the key ends at the first dot after the last slash
            clips.setdefault(f"{folder}{slash}{stem}", {})[suffix] = (member.offset_data, member.size)
    return list(clips.values())


def _collate(clips: list[dict]) -> dict[str, list[str] | Tensor]:
    """One batch; texts are padded to the longest, with zeros that the mask leaves out."""
    batch = {name: [clip[name] for clip in clips] for name in clips[0]}
    for name in ("vectors", "mask"):
        batch[name] = pad_sequence(batch[name], batch_first=True)
    stacked = {name: torch.stack(batch[name]) for name in ("tokens", "pooled") if name in batch}
    batch |= {name: value.float() for name, value in stacked.items()}
    return batch | {"vectors": batch["vectors"].float()}
