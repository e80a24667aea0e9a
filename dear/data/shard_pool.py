"""The processes that make shards: each loads the encoders once, makes whole shards, and ends when its parent does."""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from dear.components import beside
from dear.data.corpus import Corpus, Unreadable, crop_generator
from dear.data.encoding import Refused, fingerprint, latent, text_vectors

# Of a fork server, processes share what torch takes in memory, and start at once; Windows has none.
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
Encoders = Callable[[], tuple[nn.Module, nn.Module]]  # VAE and text encoder; called once in each process


class _Stopped(Exception):
    """The parent wants no more of this shard."""


class _Worker:
    """What a process of the pool works with; encoders are loaded by its first task, whose error reaches the parent."""

    def __init__(self, load: Encoders, stop, done) -> None:
        self.load, self.stop, self.done = load, stop, done

    @cached_property
    def encoders(self) -> tuple[nn.Module, nn.Module]:
        return self.load()


_worker: _Worker  # one a process of the pool: a pool hands its tasks no other way


def _start(*told) -> None:
    """Begin a process of the pool: one thread, no ctrl-C of its own, and no life after its parent's."""
    global _worker
    _worker = _Worker(*told)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    multiprocessing.parent_process().join()  # a parent that is killed cannot tell
    os._exit(1)


def fingerprints() -> dict[str, str]:
    """Of VAE and text encoder; the first of the tasks, since both are loaded for it."""
    return dict(zip(("vae", "text"), map(fingerprint, _worker.encoders), strict=True))


def _sample(part: Corpus, i: int, seed: int, peak: float | None) -> dict:
    """Sample of a clip for TarWriter. Raises Unreadable or Refused."""
    clip, (vae, text) = part[i], _worker.encoders
    tensors = latent(vae, part.read(i, crop_generator(clip, seed)), peak) | text_vectors(text, clip)
    about = {"id": clip.id, "captions": clip.captions, "seconds": min(clip.seconds, part.seconds),
             "source": clip.sources}
    return {"__key__": clip.id, "json": about, **{f"{name}.npy": value.numpy() for name, value in tensors.items()}}


def write(path: Path, part: Corpus, seed: int, peak: float | None) -> tuple[dict, list[str]]:
    """Write a shard beside its place, then rename it; returns its entry of the manifest, and what warnings said."""
    from webdataset import TarWriter

    entry = {"clips": 0, "captions": 0, "seconds": 0.0, "skipped": []}
    with beside(path) as draft, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        # No time of writing and no limit to the length of names, which PAX alone has not.
        with draft.open("wb") as file, TarWriter(file, mtime=0, format="PAX_FORMAT") as tar:
            for i, clip in enumerate(part.clips):
                if _worker.stop.value:
                    raise _Stopped
                try:
                    sample = _sample(part, i, seed, peak)
                except (Unreadable, Refused) as error:
                    entry["skipped"].append({"id": clip.id, "kind": error.kind, "reason": error.reason})
                else:
                    tar.write(sample)
                    entry["clips"] += 1
                    entry["captions"] += len(clip.captions)
                    entry["seconds"] += sample["json"]["seconds"]
                with _worker.done:
                    _worker.done.value += 1
        with draft.open("rb") as file:
            entry |= {"seconds": round(entry["seconds"], 3), "bytes": draft.stat().st_size,
                      "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    return entry, [str(warning.message) for warning in warned]


def measure(part: Corpus, seed: int, peak: float | None) -> list[int]:
    """Bytes that each clip takes in a shard, of those that give a sample."""
    sizes = []
    for i in range(len(part)):
        try:
            with warnings.catch_warnings(action="ignore"):  # `write` tells them
                sample = _sample(part, i, seed, peak)
        except (Unreadable, Refused):
            continue
        arrays = [value.nbytes + 128 for name, value in sample.items() if name.endswith(".npy")]  # numpy's header
        members = [*arrays, len(json.dumps(sample["json"]))]
        sizes.append(sum(512 + -(-size // 512) * 512 for size in members))  # tar counts in blocks of 512
    return sizes


@contextmanager
def pool(load: Encoders, processes: int):
    """Give an executor whose processes begin with `_start`, and their count of clips done; an error stops them."""
    context = multiprocessing.get_context(METHOD)
    if METHOD == "forkserver":
        context.set_forkserver_preload([__name__, "webdataset"])
    # Neither is waited for here: a process that is killed may hold a lock for ever.
    stop, done = context.Value("b", 0, lock=False), context.Value("q", 0)
    try:
        with ProcessPoolExecutor(processes, context, _start, (load, stop, done)) as executor:
            try:
                yield executor, done.get_obj()
            except BaseException:
                stop.value = 1  # before the pool is left, which waits for its processes
                raise
    except BrokenProcessPool as error:
        raise OSError("a process was killed from outside (is memory short? fewer processes need less); whole shards "
                      "are kept, the same command continues") from error
