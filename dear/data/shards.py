"""Shards: a corpus encoded once into webdataset tar files, by several processes, however often the work is killed.

A sample has the clip's id as its key and holds what `dear.data.encoding` makes of it:

    mean.npy, std.npy       (N, D) float16      posterior of the latent, as tokens
    vectors.npy, mask.npy   (K, L, E) float16, (K, L) bool      text vectors of the clip's K captions
    pooled.npy              (K, P) float16      a vector a caption, where the encoder has one
    json                    id, captions, seconds (of sound before padding), source

Shard i holds clips i c to (i + 1) c - 1 of the corpus, c = `shard_clips`, and nothing in it depends on other shards, on
the number of processes or on time: made again, it has the same bytes.
"""

import errno
import hashlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path

from tqdm.auto import tqdm

from dear.data.corpus import LIMIT, Corpus, Unreadable, crop_generator
from dear.data.manifest import Manifest, corpus_digest, shard_name
from dear.data.shard_pool import Encoders, fingerprints, measure, pool, write


def prepare(corpus: Corpus, out: Path, encoders: Encoders, *, processes: int = 1, shard_clips: int = 256, seed: int = 0,
            peak: float | None = None, limit: float = LIMIT, force: bool = False, progress: bool = True,
            named: dict | None = None) -> Manifest:
    """Encode a corpus into shards in `out`, or do what is left of it; returns the manifest, which it keeps there.

    encoders: gives VAE and text encoder, and can be pickled. seed: of the crops (`crop_generator`). peak: see `latent`.
    limit: share of clips that may be skipped because they cannot be read or encoded. force: start even if the disk is
    too small. named: arguments of `load_encoders` for the manifest to keep, so that training finds the encoders again.

    A shard of the manifest is kept if its checksum is right and no clip that it skipped can be read by now. Raises
    ValueError for a folder of other settings, too small a disk, or too many skipped clips; OSError if the disk is full,
    and KeyboardInterrupt on ctrl-C, both with how far it is. One call at a time may work in a folder.

    In memory are the list of clips, once, in the parent (300 MB with torch, and 0.4 kB a clip with a short caption),
    and in each process its encoders, one clip and the list of a shard (330 MB with tiny encoders, for 100 clips and for
    10,000): tests/shard_memory.py measures it.
    """
    if min(processes, shard_clips) < 1 or not 0 <= limit <= 1 or not (peak is None or 0 < peak <= 1):
        raise ValueError(f"wanted at least 1 process and 1 clip a shard, a limit in [0, 1] and a peak in (0, 1], got "
                         f"{processes}, {shard_clips}, {limit} and {peak}")
    try:
        import webdataset  # noqa: F401
    except ImportError as error:
        raise ImportError("shards need webdataset: pip install 'dear[data]'") from error
    parts = {shard_name(i): Corpus(corpus.name, corpus.clips[start : start + shard_clips], seconds=corpus.seconds,
                                   limit=1.0) for i, start in enumerate(range(0, len(corpus), shard_clips))}
    with pool(encoders, processes) as (workers, done):
        settings = {"clips": len(corpus), "corpus": corpus_digest(corpus), "seconds": corpus.seconds, "seed": seed,
                    "shard_clips": shard_clips, "peak": peak, **workers.submit(fingerprints).result()}
        manifest = Manifest.open(out, corpus.name, settings, named)
        for draft in [*out.glob(".shard-*"), *out.glob(".manifest.json.*")]:
            draft.unlink(missing_ok=True)  # what a killed run had begun
        there = tqdm(list(manifest.shards), f"checking {out}", unit="shard", disable=not (progress and manifest.shards))
        for name in there:
            if why := _redo(out / name, manifest.shards[name], parts[name], seed):
                _tell(progress, f"{name} is made anew: {why}")
                del manifest.shards[name]
        _judge(manifest, limit)
        todo = [name for name in parts if name not in manifest.shards]
        if not todo:
            return manifest
        left = sum(len(parts[name]) for name in todo)
        kept = len(corpus) - left
        spread = corpus.clips[:: -(-len(corpus) // 8)]
        probe = Corpus(corpus.name, spread, seconds=corpus.seconds, limit=1.0)
        told = _estimate(workers.submit(measure, probe, seed, peak).result(), left, len(todo), out, force)
        _tell(progress, told)
        warned = []
        jobs = ((name, workers.submit(write, out / name, parts[name], seed, peak)) for name in todo)
        with tqdm(total=len(corpus), initial=kept, desc=f"encoding into {out}", unit="clip",
                  disable=not progress) as bar:
            try:
                out.mkdir(parents=True, exist_ok=True)
                manifest.write()
                ended = _finished(jobs, processes + 1, lambda: bar.update(kept + done.value - bar.n))
                for name, (entry, said) in ended:
                    manifest.add(name, entry)
                    warned = warned or said[:1]
                    _judge(manifest, limit)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"{manifest.far(len(parts))} are whole") from None
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise OSError(f"the disk of {out} is full; {manifest.far(len(parts))} are whole and kept; make room, "
                              f"then the same command continues ({told})") from error
    if warned:
        _tell(progress, f"note: an encoder warned, first so: {warned[0]}")
    return manifest


def _finished(jobs: Iterator, ahead: int, tick: Callable[[], object]) -> Iterator[tuple[str, tuple]]:
    """Yield (name, result) of jobs as they end, `ahead` of them under way, and call `tick` every half second."""
    pending, more = {}, True
    while more or pending:
        while more and len(pending) < ahead:
            name, future = next(jobs, (None, None))
            more = future is not None
            if more:
                pending[future] = name
        for future in wait(pending, timeout=0.5, return_when=FIRST_COMPLETED).done:
            yield pending.pop(future), future.result()
        tick()


def _redo(path: Path, entry: dict, part: Corpus, seed: int) -> str | None:
    """Why a shard of the manifest has to be made again, or None."""
    if not path.is_file():
        return "its file is gone"
    with path.open("rb") as file:
        if path.stat().st_size != entry["bytes"] or hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
            return "its file is damaged"
    lost = {skipped["id"] for skipped in entry["skipped"] if skipped["kind"] not in ("caption refused", "not finite")}
    for i, clip in enumerate(part.clips):
        if clip.id in lost:
            try:
                part.read(i, crop_generator(clip, seed))
            except Unreadable:
                continue
            return f"{clip.id}, which was skipped, can be read now"
    return None


def _judge(manifest: Manifest, limit: float) -> None:
    """Raise ValueError if more clips were skipped than the limit allows."""
    skipped = [skipped for entry in manifest.shards.values() for skipped in entry["skipped"]]
    if len(skipped) > limit * manifest.settings["clips"]:
        first = "; ".join(f"{one['id']}: {one['reason']}" for one in skipped[:3])
        raise ValueError(f"{len(skipped)} of {manifest.settings['clips']} clips were skipped, more than the limit of "
                         f"{limit:.1%} ({first}{'; ...' * (len(skipped) > 3)})")


def _estimate(sizes: list[int], clips: int, shards: int, out: Path, force: bool) -> str:
    """Say what clips in so many shards take on disk, by the sizes of some; ValueError if there is less, or no size."""
    if not sizes:
        raise ValueError("none of the clips that were tried can be read and encoded")
    need = clips * sum(sizes) / len(sizes) + shards * 10240  # tar ends with zeros, up to a multiple of this
    free = shutil.disk_usage(next(place for place in (out, *out.absolute().parents) if place.exists())).free
    told = (f"{clips} clips need about {need / 1e9:.3g} GB ({need / clips / 1e3:.3g} kB a clip), "
            f"{free / 1e9:.3g} GB are free")
    if need > free and not force:
        raise ValueError(f"{told}: nothing was started in {out}; make room, or start all the same with --force")
    return told


def _tell(progress: bool, line: str) -> None:
    if progress:
        tqdm.write(line)
