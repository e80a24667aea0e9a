"""Reading shards back for training: batches in an order that seed and epoch decide, split among ranks by clips."""

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
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

    folder: of shards, or with several folders of shards, which are mixed.

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
    clips (tests/shard_memory.py). `reader` gives any other batch, as `dear.training.train` asks for them.
    """

    def __init__(self, folder: str | Path, batch_size: int, *, seed: int = 0, mixed: int = 8, rank: int = 0,
                 ranks: int = 1) -> None:
        if batch_size < 1 or mixed < 1 or not 0 <= rank < ranks:
            raise ValueError(f"wanted batch_size and mixed at least 1 and a rank in 0..ranks - 1, got {batch_size}, "
                             f"{mixed} and rank {rank} of {ranks}")
        self.folder, self.batch_size, self.seed, self.mixed = Path(folder), batch_size, seed, mixed
        self.manifest = Manifest.gather(self.folder)
        for name, entry in self.manifest.shards.items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                raise ValueError(f"{path} is gone or damaged; the same `dear data prepare` makes it anew")
        self.names = sorted(self.manifest.shards)
        self.counts = np.array([self.manifest.shards[name]["clips"] for name in self.names])
        self.clips = int(self.counts.sum())
        self.first, self.last = rank * self.clips // ranks, (rank + 1) * self.clips // ranks
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
        read, begun = self.reader(), self.epoch * self.clips
        for start in range(self.first + self.position + mine * self.batch_size, self.last, workers * self.batch_size):
            yield read(torch.arange(begun + start, begun + min(start + self.batch_size, self.last)))

    def reader(self) -> Callable[[Tensor], dict]:
        """A function from places (B,) in the sequence of all epochs, epoch x clips + place in it, to their batch.

        It is the same batch whoever asks, for any `rank`; reading is local if successive places are near each other.
        """
        index = lru_cache(2 * self.mixed)(_index)

        def read(places: Tensor) -> dict:
            found = {}
            for epoch in (places // self.clips).unique().tolist():
                inside = places[places // self.clips == epoch].tolist()
                located = self._located(epoch, [place % self.clips for place in inside])
                for place, (name, i) in zip(inside, located, strict=True):
                    path = self.folder / name
                    try:
                        found[place] = self._clip(path, index(path)[i], epoch)
                    except (ValueError, LookupError) as error:
                        raise ValueError(f"{path} is damaged ({error}); the same `dear data prepare` makes it anew"
                                         ) from error
            return _collate([found[place] for place in places.tolist()])

        return read

    def order(self, first: int, last: int) -> list[tuple[str, int]]:
        """Shard and place in it of what stands at first to last - 1 in this epoch's order of all clips."""
        return self._located(self.epoch, range(first, last))

    def _located(self, epoch: int, places: Sequence[int]) -> list[tuple[str, int]]:
        """Shard and place in it of each of some places in an epoch's order."""
        places = np.array(places, np.int64)
        shards = torch.randperm(len(self.names), generator=self._generator(epoch, "shards")).numpy()
        ends = np.cumsum(self.counts[shards])
        blocks = np.append(ends[self.mixed - 1 :: self.mixed][: (len(shards) - 1) // self.mixed], ends[-1])
        block_of = np.searchsorted(blocks, places, side="right")
        for block in np.unique(block_of):
            here = block_of == block
            start = blocks[block - 1] if block else 0
            mixed = torch.randperm(int(blocks[block] - start),
                                   generator=self._generator(epoch, f"block {self.mixed * block}")).numpy()
            places[here] = start + mixed[places[here] - start]
        order = np.searchsorted(ends, places, side="right")
        inside = places - (ends - self.counts[shards])[order]
        return [(self.names[shard], int(i)) for shard, i in zip(shards[order], inside, strict=True)]

    def _generator(self, epoch: int, of: str) -> torch.Generator:
        return generator_of(f"{self.seed}/{epoch}/{of}")

    def _clip(self, path: Path, places: dict[str, tuple[int, int]], epoch: int) -> dict:
        parts = {}
        with path.open("rb") as file:
            for suffix, (offset, size) in places.items():
                file.seek(offset)
                parts[suffix] = bytearray(file.read(size))  # which tensors may share, unlike bytes
        about = json.loads(parts.pop("json"))
        arrays = {name.removesuffix(".npy"): torch.from_numpy(_array(content)) for name, content in parts.items()}
        generator = self._generator(epoch, f"clip {about['id']}")
        chosen = int(torch.randint(len(about["captions"]), (), generator=generator))
        mean, std = arrays.pop("mean").float(), arrays.pop("std").float()
        text = {name: array[chosen] for name, array in arrays.items()}
        return {"ids": about["id"], "captions": about["captions"][chosen],
                "tokens": mean + std * torch.randn(mean.shape, generator=generator)} | text


def _array(content: bytearray) -> np.ndarray:
    """The array of a npy file, sharing its memory; `np.load` takes 0.3 ms, nearly all to parse the header."""
    end = 10 + int.from_bytes(content[8:10], "little")  # of a header of version 1, which arrays with few axes have
    dtype, shape, order = _header(bytes(content[:end]))
    return np.frombuffer(content, dtype, offset=end).reshape(shape, order=order)


@lru_cache(1024)
def _header(content: bytes) -> tuple[np.dtype, tuple[int, ...], str]:
    """Type, shape and order of axes; equal arrays have equal headers, so that few are ever parsed."""
    file = io.BytesIO(content)
    if (version := np.lib.format.read_magic(file)) != (1, 0):
        raise ValueError(f"wanted npy files of version (1, 0), got {version}")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    return dtype, shape, "F" if fortran else "C"


def in_sequence(step: int, batch_size: int) -> Tensor:
    """Places (batch_size,) of a step in the sequence of all epochs, one step after the other: an order for `train`."""
    return torch.arange(step * batch_size, (step + 1) * batch_size)


def _index(path: Path) -> list[dict[str, tuple[int, int]]]:
    """Of each clip of a shard, in order, where its members lie: suffix -> offset and size in bytes."""
    clips: dict[str, dict[str, tuple[int, int]]] = {}
    for member, offset, size in _members(path):
        folder, slash, name = member.rpartition("/")
        stem, _, suffix = name.partition(".")  # as webdataset: the key ends at the first dot after the last slash
        clips.setdefault(f"{folder}{slash}{stem}", {})[suffix] = (offset, size)
    return list(clips.values())


def _members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size in bytes of every file of a tar as `TarWriter` writes it, without tarfile's many checks.

    Each process looks into all `mixed` shards of a block, which took longer by tarfile than reading its share of clips.
    """
    with path.open("rb", buffering=0) as file:
        long = None
        while (head := file.read(512))[:1] not in (b"", b"\0"):
            size, offset = int(head[124:135], 8), file.tell()
            if head[156:157] == b"x":  # PAX: more of the next file, its name too if it is long or not ASCII
                found = re.search(rb"(?:^|\n)\d+ path=([^\n]*)\n", file.read(size))
                long = found and found[1]
            else:
                yield (long or head[:100].rstrip(b"\0")).decode(), offset, size
                long = None
            file.seek(offset + -(-size // 512) * 512)


def _collate(clips: list[dict]) -> dict[str, list[str] | Tensor]:
    """One batch; texts are padded to the longest, with zeros that the mask leaves out."""
    batch = {name: [clip[name] for clip in clips] for name in clips[0]}
    for name in ("vectors", "mask"):
        batch[name] = pad_sequence(batch[name], batch_first=True)
    stacked = {name: torch.stack(batch[name]) for name in ("tokens", "pooled") if name in batch}
    batch |= {name: value.float() for name, value in stacked.items()}
    return batch | {"vectors": batch["vectors"].float()}
