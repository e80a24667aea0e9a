"""SoundWorld rendered once: log-mels, captions and labels of a split, kept on disk."""

import json
import os
import shutil
import uuid
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dear.audio import log_mel
from dear.data.soundworld import VERSION, SoundWorld

_BLOCK = 256


@dataclass(frozen=True)
class RenderedSplit:
    """One split as arrays: mels (size, 256, 64) float16 on disk, labels (size, 7), qualities (size, 2, 3), captions."""

    mels: np.ndarray
    labels: np.ndarray
    qualities: np.ndarray
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)

    def log_mels(self, indices) -> torch.Tensor:
        """Log-mels (B, 256, 64) float32 of the given items."""
        return torch.from_numpy(np.asarray(self.mels[np.asarray(indices)], np.float32))


def cache_folder() -> Path:
    """Folder for rendered sounds: DEAR_CACHE, or ~/.cache/dear."""
    return Path(os.environ.get("DEAR_CACHE", Path.home() / ".cache" / "dear"))


def _render_block(start: int, split: str, size: int, seed: int, twins: bool):
    world = SoundWorld(split, size, seed)
    clips = [world.twin(i) if twins else world[i] for i in range(start, min(start + _BLOCK, size))]
    mels = log_mel(torch.from_numpy(np.stack([c.waveform for c in clips]))).numpy().astype(np.float16)
    return mels, np.stack([c.labels for c in clips]), np.stack([c.qualities for c in clips]), [c.caption for c in clips]


def rendered(split: str, size: int, seed: int = 0, *, twins: bool = False, folder: Path | None = None,
             processes: int = 1, progress: bool = True) -> RenderedSplit:
    """Items 0..size-1 of a split, rendered on the first call and read from disk after that.

    The folder's name holds version, split, seed and size. It is written beside and renamed when complete, so an
    interrupted call leaves nothing that could be taken for a whole one. `twins` gives `SoundWorld.twin` of each item.
    `folder` holds the splits, None is `cache_folder()`. A split or size that SoundWorld refuses is a ValueError.
    """
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    SoundWorld(split, size, seed)  # refuses what cannot be rendered before anything is written
    root = folder or cache_folder()
    home = root / f"soundworld-v{VERSION}-{split}{'-twins' if twins else ''}-seed{seed}-{size}"
    if not home.exists():
        _render(home, partial(_render_block, split=split, size=size, seed=seed, twins=twins), size, processes, progress)
    return RenderedSplit(np.load(home / "mels.npy", mmap_mode="r"), np.load(home / "labels.npy"),
                         np.load(home / "qualities.npy"), json.loads((home / "captions.json").read_text()))


def _map(block, starts, processes: int):
    if processes == 1:
        yield from map(block, starts)
        return
    with ProcessPoolExecutor(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(block, starts)


def _render(home: Path, block, size: int, processes: int, progress: bool) -> None:
    beside = home.with_name(f".{home.name}.{uuid.uuid4().hex[:8]}")
    beside.mkdir(parents=True)
    try:
        starts = range(0, size, _BLOCK)
        blocks = tqdm(_map(block, starts, processes), f"rendering into {home}", len(starts), disable=not progress)
        mels, labels, qualities, texts = zip(*blocks, strict=True)
        np.save(beside / "mels.npy", np.concatenate(mels))
        np.save(beside / "labels.npy", np.concatenate(labels))
        np.save(beside / "qualities.npy", np.concatenate(qualities))
        (beside / "captions.json").write_text(json.dumps([text for part in texts for text in part]))
        try:
            beside.rename(home)
        except OSError:  # another process finished the same split first; its copy is as good
            if not home.exists():
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
