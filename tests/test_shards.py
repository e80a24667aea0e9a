"""Shards: nothing lost, nothing doubled and the same bytes, whatever stops the work; and what is read back."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tarfile
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import webdataset
from torch.utils.data import DataLoader
from typer.testing import CliRunner

from dear import components
from dear.__main__ import app
from dear.audio import log_mel
from dear.data import encoding, sharded, shards
from dear.data.corpus import Clip, Corpus, Unreadable, crop_generator
from dear.data.encoding import fingerprint, latent, load_encoders, text_vectors
from dear.data.manifest import Manifest
from dear.data.sharded import ShardedLatents
from dear.data.shards import prepare
from dear.text import TextConfig, TextEncoder
from dear.vae import VAE, VAEConfig
from tests import shard_faults, shard_memory

linux = pytest.mark.skipif(sys.platform != "linux", reason="forks, looks into /proc, and counts memory in kB")
WORDS = ("a", "low", "high", "bell", "bird", "then")
CAPTIONS = (("a low bell",), ("a high bird then a low bell", "bird then bell"), ("a bell", "a bird", "high"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of a tiny VAE and a tiny text encoder, random."""
    home = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    components.save(VAE(VAEConfig(channels=3, noise=2, width=12, texture_width=8, blocks=1)), home / "vae")
    components.save(TextEncoder(TextConfig(WORDS, width=8, heads=2, layers=1)), home / "text")
    return str(home / "vae"), (str(home / "text"),)


@pytest.fixture(scope="module")
def encoders(folders):
    return partial(load_encoders, *folders)


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    home = tmp_path_factory.mktemp("audio")
    for i in range(3):
        soundfile.write(home / f"{i}.wav", 0.1 * np.random.default_rng(i).standard_normal(8000), 16_000)
    return home


@pytest.fixture(scope="module")
def corpus(audio):
    """23 clips of 0.16 s or, padded, of 0.1 s: two tokens of 6 each."""
    return clips_of(audio, 23)


def clips_of(audio, count: int) -> Corpus:
    names = [f"folder/dir/{i}%2Ewav" + 100 * "long" * (i == 7) for i in range(count)]  # longer than old tar files take
    clips = [Clip(names[i], str(audio / f"{i % 3}.wav"), 0.0, 0.1 if i % 5 == 4 else 0.5,
                  CAPTIONS[i % 3], (f"youtube:{i}",)) for i in range(count)]
    return Corpus("bells", clips, seconds=0.16)


@pytest.fixture(scope="module")
def made(corpus, encoders, tmp_path_factory):
    """The corpus in six shards, four clips each but the last."""
    out = tmp_path_factory.mktemp("made") / "shards"
    prepare(corpus, out, encoders, shard_clips=4, progress=False)
    return out


def changed(corpus: Corpus, **clips) -> Corpus:
    """The corpus with some of its clips' files replaced: index -> path, as c3="..."."""
    new = list(corpus.clips)
    for name, path in clips.items():
        new[int(name[1:])] = dataclasses.replace(new[int(name[1:])], path=str(path))
    return Corpus(corpus.name, new, seconds=corpus.seconds)


def content(folder) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_shard_is_what_webdataset_reads_and_holds_what_the_encoders_say(made, corpus, encoders):
    vae, text = encoders()
    urls = [str(path) for path in sorted(made.glob("*.tar"))]
    assert [path.rpartition("/")[2] for path in urls] == [f"shard-{i:06d}.tar" for i in range(6)]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == [clip.id for clip in corpus.clips]
    for i in (0, 4, 22):
        clip, sample = corpus[i], samples[i]
        assert sample["json"] == {"id": clip.id, "captions": list(clip.captions), "source": [f"youtube:{i}"],
                                  "seconds": 0.1 if i == 4 else 0.16}
        wave = corpus.read(i, crop_generator(clip, 0))
        tokens = vae.encode(log_mel(wave)[None], sample=False)[0]
        np.testing.assert_array_equal(sample["mean.npy"], tokens.detach().half())
        assert sample["std.npy"].shape == (2, 6) and sample["std.npy"].dtype == np.float16
        vectors, mask = text.encode(clip.captions)
        np.testing.assert_array_equal(sample["vectors.npy"], vectors.detach().half())
        np.testing.assert_array_equal(sample["mask.npy"], mask)
        assert len(mask) == len(clip.captions)


def test_the_manifest_counts(made, corpus):
    told = json.loads((made / "manifest.json").read_text())
    size = sum(path.stat().st_size for path in made.glob("*.tar"))
    assert told["totals"] == {"clips": 23, "captions": sum(len(clip.captions) for clip in corpus.clips), "skipped": 0,
                              "hours": round(corpus.hours, 6), "bytes": size}
    assert [entry["clips"] for entry in told["shards"].values()] == [4, 4, 4, 4, 4, 3]
    assert Manifest.read(made).whole


def test_two_processes_make_the_same_bytes(made, corpus, encoders, tmp_path):
    prepare(corpus, tmp_path, encoders, shard_clips=4, processes=2, progress=False)
    assert content(tmp_path) == content(made)


@linux
def test_killed_twenty_times_no_clip_is_lost_or_doubled(made, audio, encoders, tmp_path):
    corpus, random = clips_of(audio, 120), np.random.default_rng(0)
    options = {"shard_clips": 2, "processes": 2, "progress": False}
    context, out, kills, left = multiprocessing.get_context("forkserver"), tmp_path / "killed", 0, set()

    def begun(folder):
        process = context.Process(target=shard_faults.prepare_by_forks, args=(corpus, folder, encoders), kwargs=options)
        process.start()
        return process

    started = time.time()
    begun(tmp_path / "undisturbed").join()
    lasts = time.time() - started
    first = min(path.stat().st_mtime for path in (tmp_path / "undisturbed").glob("*.tar")) - started
    while kills < 20:
        run = begun(out)
        run.join(random.uniform(0, first + lasts / 10))
        if run.exitcode is None:
            os.kill(run.pid, signal.SIGKILL)
            run.join()
            kills += 1
            left.add(len(list(out.glob("*.tar"))))
        else:  # it was quicker than it had been; there must be work to kill it at
            assert run.exitcode == 0
            for path in list(out.glob("*.tar"))[::2]:
                path.unlink()
    assert len(left) > 3  # it had been killed at many points of its work
    prepare(corpus, out, encoders, **options)
    assert content(out) == content(tmp_path / "undisturbed")
    urls = [str(path) for path in sorted(out.glob("*.tar"))]
    keys = [sample["__key__"] for sample in webdataset.WebDataset(urls, shardshuffle=False)]
    assert keys == [clip.id for clip in corpus.clips]


@linux
def test_processes_end_when_the_one_that_began_them_is_killed(corpus, encoders, tmp_path):
    run = multiprocessing.get_context("forkserver").Process(
        target=prepare, args=(corpus, tmp_path / "out", partial(shard_faults.noted, tmp_path, encoders)),
        kwargs={"progress": False})
    run.start()
    wait(lambda: any(path.name.isdigit() for path in tmp_path.iterdir()))
    run.kill()
    run.join()
    numbers = [path.name for path in tmp_path.iterdir() if path.name.isdigit()]
    wait(lambda: not any(os.path.exists(f"/proc/{number}/fd/0") for number in numbers))


def wait(until, seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_a_killed_process_of_the_pool_is_told(corpus, encoders, tmp_path):
    with pytest.raises(OSError, match="killed from outside"):
        prepare(corpus, tmp_path, partial(shard_faults.killed, encoders), progress=False)


def test_damaged_and_missing_shards_are_made_anew(made, corpus, encoders, tmp_path, monkeypatch, capsys):
    out = tmp_path / "shards"
    shutil.copytree(made, out)
    whole = (out / "shard-000001.tar").stat()
    damaged = bytearray((out / "shard-000002.tar").read_bytes())
    damaged[3000] ^= 1
    (out / "shard-000002.tar").write_bytes(damaged)
    (out / "shard-000003.tar").write_bytes(damaged[:1000])
    (out / "shard-000004.tar").unlink()
    (out / ".shard-000005.tar.123").write_bytes(b"begun")
    monkeypatch.setattr(shards.tqdm, "write", print)
    prepare(corpus, out, encoders, shard_clips=4)
    assert content(out) == content(made)
    assert (out / "shard-000001.tar").stat().st_mtime_ns == whole.st_mtime_ns
    said = capsys.readouterr().out
    assert [f"shard-00000{i}.tar is made anew" in said for i in range(6)] == [False, False, True, True, True, False]


def test_a_finished_folder_is_left_alone(made, corpus, encoders):
    before = {path.name: path.stat().st_mtime_ns for path in made.iterdir()}
    prepare(corpus, made, encoders, shard_clips=4, progress=False)
    assert {path.name: path.stat().st_mtime_ns for path in made.iterdir()} == before


def test_other_settings_are_refused_by_name(made, corpus, encoders, folders, tmp_path):
    def told(corpus=corpus, encoders=encoders, **options):
        with pytest.raises(ValueError, match="made with other settings") as error:
            prepare(corpus, made, encoders, progress=False, **{"shard_clips": 4, **options})
        return str(error.value)

    before = content(made)
    assert "seed 0 -> 1" in told(seed=1)
    assert "shard_clips 4 -> 5" in told(shard_clips=5)
    assert "peak None -> 0.5" in told(peak=0.5)
    fewer = told(Corpus("bells", corpus.clips[1:], seconds=0.16))
    assert "clips 23 -> 22" in fewer and "corpus" in fewer
    assert "seconds 0.16 -> 0.24" in told(Corpus("bells", corpus.clips, seconds=0.24))
    torch.manual_seed(1)
    components.save(VAE(VAEConfig(channels=3, noise=2, width=12, texture_width=8, blocks=1)), tmp_path / "vae")
    components.save(TextEncoder(TextConfig(WORDS, width=8, heads=2, layers=1)), tmp_path / "text")
    other = told(encoders=partial(load_encoders, str(tmp_path / "vae"), folders[1]))
    assert "vae " in other and "text " not in other
    assert "text " in told(encoders=partial(load_encoders, folders[0], (str(tmp_path / "text"),)))
    assert content(made) == before


def test_a_fingerprint_is_of_what_encodes(encoders):
    (vae, text), (other, _) = encoders(), encoders()
    assert fingerprint(vae) == fingerprint(other) != fingerprint(text)
    with torch.no_grad():
        next(other.texture.parameters()).add_(1)
    assert fingerprint(vae) == fingerprint(other)  # decoders may train on
    assert fingerprint(vae) != fingerprint(other.bfloat16())


def test_unreadable_clips_are_recorded_and_tried_again(corpus, encoders, made, audio, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF no sound")
    broken = changed(corpus, c1=tmp_path / "broken.wav", c13=tmp_path / "gone.wav")
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="2 of 23 clips were skipped, more than the limit of 5.0%.*folder/dir/1%2Ewav"):
        prepare(broken, out, encoders, shard_clips=4, progress=False)
    found = prepare(broken, out, encoders, shard_clips=4, limit=0.1, progress=False)
    assert found.totals["clips"] == 21 and found.totals["skipped"] == 2 and found.whole
    assert [s["kind"] for entry in found.shards.values() for s in entry["skipped"]] == ["corrupt file", "missing file"]
    assert len({i for batch in ShardedLatents(out, 5) for i in batch["ids"]}) == 21
    repaired = changed(corpus, c13=audio / "1.wav", c1=tmp_path / "broken.wav")  # another place is not another corpus
    found = prepare(repaired, out, encoders, shard_clips=4, limit=0.1, progress=False)
    assert found.totals["skipped"] == 1
    assert (out / "shard-000003.tar").read_bytes() == (made / "shard-000003.tar").read_bytes()


def test_refused_captions_and_values_that_float16_lacks_are_skipped(corpus, encoders, tmp_path):
    strange = dataclasses.replace(corpus[2], captions=("xyzzy",))
    found = prepare(Corpus("bells", [*corpus.clips[:2], strange], seconds=0.16), tmp_path, encoders, limit=0.5,
                    progress=False)
    ((skipped,),) = [entry["skipped"] for entry in found.shards.values()]
    assert skipped["kind"] == "caption refused" and "xyzzy" in skipped["reason"]
    vae = SimpleNamespace(parameters=lambda: iter([torch.zeros(1)]), config=SimpleNamespace(steps_per_token=2),
                          scaled_posterior=lambda mel: (torch.full((1, 2, 4), 1e6), torch.ones(1, 2, 4)))
    with pytest.raises(ValueError, match="mean left the range"):
        latent(vae, torch.zeros(2560))


def test_what_an_encoder_warns_of_is_told_once(corpus, encoders, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shards.tqdm, "write", print)
    odd = [dataclasses.replace(clip, captions=("a low gong",)) for clip in corpus.clips]
    prepare(Corpus("bells", odd, seconds=0.16), tmp_path, encoders)
    assert capsys.readouterr().out.count("an encoder warned, first so: left out of 'a low gong'") == 1


def test_peak_removes_the_offset(encoders):
    vae, _ = encoders()
    wave = 0.1 * torch.randn(2560, generator=torch.Generator().manual_seed(0))
    a, b, c = latent(vae, wave, 0.5), latent(vae, 0.3 * wave + 0.1, 0.5), latent(vae, wave)
    torch.testing.assert_close(a["mean"], b["mean"], rtol=0.02, atol=0.02)
    assert not torch.allclose(a["mean"], c["mean"], rtol=0.02, atol=0.02)


def test_a_pooled_vector_is_kept_where_there_is_one(corpus):
    class Both:
        def encode(self, captions):
            return torch.ones(len(captions), 3, 4), torch.ones(len(captions), 3, dtype=torch.bool)

        def pooled(self, captions):
            return torch.full((len(captions), 5), 2.0)

    found = text_vectors(Both(), corpus[1])
    assert {name: tuple(x.shape) for name, x in found.items()} == {"vectors": (2, 3, 4), "mask": (2, 3),
                                                                   "pooled": (2, 5)}
    assert found["pooled"].dtype == torch.float16 and found["mask"].dtype == torch.bool


def test_too_small_a_disk_is_told_before_anything_is_written(corpus, encoders, made, tmp_path, monkeypatch):
    out, size = tmp_path / "out", sum(path.stat().st_size for path in made.glob("*.tar"))
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match="23 clips need about .* GB .* nothing was started") as error:
        prepare(corpus, out, encoders, shard_clips=4, progress=False)
    assert not out.exists()
    told = float(str(error.value).split("(")[1].split(" kB")[0])
    assert 0.95 < 23 * 1e3 * told / size < 1.1
    assert prepare(corpus, out, encoders, shard_clips=4, force=True, progress=False).whole


def test_a_disk_that_fills_up_stops_the_work_and_keeps_whole_shards(corpus, encoders, made, tmp_path):
    with pytest.raises(OSError, match=r"is full; 2 of 6 shards \(8 of 23 clips\) are whole and kept"):
        prepare(corpus, tmp_path, partial(shard_faults.full_after, 10, encoders), shard_clips=4, progress=False)
    assert sorted(content(tmp_path)) == ["manifest.json", "shard-000000.tar", "shard-000001.tar"]
    with pytest.raises(ValueError, match="not finished"):
        ShardedLatents(tmp_path, 4)
    prepare(corpus, tmp_path, encoders, shard_clips=4, progress=False)
    assert content(tmp_path) == content(made)


def test_ctrl_c_tells_how_far_it_is_and_leaves_no_half_shard(corpus, encoders, made, tmp_path, monkeypatch):
    def stop(manifest, limit):
        if len(manifest.shards) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(shards, "_judge", stop)
    with pytest.raises(KeyboardInterrupt, match=r"3 of 6 shards \(12 of 23 clips\) are whole"):
        prepare(corpus, tmp_path, encoders, shard_clips=4, progress=False)
    assert not list(tmp_path.glob(".*")) and len(Manifest.read(tmp_path).shards) == 3
    monkeypatch.undo()
    prepare(corpus, tmp_path, encoders, shard_clips=4, progress=False)
    assert content(tmp_path) == content(made)


def epoch(folder, batch_size: int = 3, at: tuple[int, int] = (0, 0), workers: int = 0, **options) -> list[str]:
    """Ids of what a rank sees of an epoch, in order."""
    data = ShardedLatents(folder, batch_size, **options).seek(*at)
    return [i for batch in DataLoader(data, batch_size=None, num_workers=workers) for i in batch["ids"]]


def test_every_rank_and_worker_together_see_each_clip_once(made, corpus):
    ids = sorted(clip.id for clip in corpus.clips)
    for ranks in (1, 2, 3, 5, 23, 30):
        seen = [epoch(made, rank=rank, ranks=ranks, mixed=2) for rank in range(ranks)]
        assert sorted(i for part in seen for i in part) == ids
        assert max(map(len, seen)) - min(map(len, seen)) <= 1
    for rank in (0, 1):
        assert epoch(made, rank=rank, ranks=2, workers=2) == epoch(made, rank=rank, ranks=2)


def test_the_order_is_a_function_of_seed_and_epoch_and_goes_on_anywhere(made, corpus):
    whole = epoch(made)
    assert whole == epoch(made, batch_size=5) and whole != [clip.id for clip in corpus.clips]
    others = [epoch(made, at=(1, 0)), epoch(made, seed=1), epoch(made, mixed=1)]
    assert len({tuple(order) for order in (whole, *others)}) == 4
    for position in (0, 3, 4, 22, 23):
        assert epoch(made, at=(0, position), workers=2 * (position == 4)) == whole[position:]
    with pytest.raises(ValueError, match="position in 0..23"):
        ShardedLatents(made, 3).seek(0, 24)


def test_shards_are_mixed_within_blocks(made, corpus):
    shard = {clip.id: i // 4 for i, clip in enumerate(corpus.clips)}
    order = [shard[i] for i in epoch(made, mixed=2)]
    sizes, start = [], 0
    while start < len(order):  # each block holds all clips of two shards and of no third
        both = set(order[start : start + 7])
        size = sum(place in both for place in order)
        assert len(both) == 2 and set(order[start : start + size]) == both
        sizes, start = [*sizes, size], start + size
    assert sorted(sizes) == [7, 8, 8]


def test_a_batch_holds_draws_from_the_posterior(made, corpus, encoders):
    (batch,) = ShardedLatents(made, 23)
    assert batch["tokens"].shape == (23, 2, 6) and batch["tokens"].dtype == torch.float32
    assert batch["vectors"].shape[0] == 23 and batch["vectors"].dtype == torch.float32
    assert batch["mask"].shape == batch["vectors"].shape[:2] and "pooled" not in batch
    index, (_, text) = {clip.id: i for i, clip in enumerate(corpus.clips)}, encoders()
    for row, (i, caption) in enumerate(zip(batch["ids"], batch["captions"], strict=True)):
        assert caption in corpus[index[i]].captions
        vectors, mask = text.encode([caption])
        length = int(batch["mask"][row].sum())
        assert length == int(mask.sum())
        torch.testing.assert_close(batch["vectors"][row, :length], vectors[0, :length].detach(), atol=2e-3, rtol=2e-3)
    again, later = (next(iter(ShardedLatents(made, 23).seek(e))) for e in (0, 1))
    assert torch.equal(again["tokens"], batch["tokens"])
    assert len({tuple(next(iter(ShardedLatents(made, 23).seek(e)))["captions"]) for e in range(3)}) == 3
    rows = [later["ids"].index(i) for i in batch["ids"]]
    stds = torch.from_numpy(np.stack([s["std.npy"] for s in webdataset.WebDataset(
        [str(p) for p in sorted(made.glob("*.tar"))], shardshuffle=False).decode()])).float()
    stds = stds[[index[i] for i in batch["ids"]]]
    scaled = (later["tokens"][rows] - batch["tokens"]) / stds / 2**0.5  # of two draws: a standard Gaussian
    assert abs(scaled.mean()) < 0.25 and abs(scaled.std() - 1) < 0.2


def test_any_places_of_all_epochs_give_the_batches_that_ranks_read(made):
    data = ShardedLatents(made, 5, mixed=2)
    read = ShardedLatents(made, 1, mixed=2, rank=1, ranks=3).reader()
    for number in (0, 2):
        for i, batch in enumerate(data.seek(number)):
            places = 23 * number + torch.arange(5 * i, min(5 * i + 5, 23))
            again = read(places)
            assert again["ids"] == batch["ids"] and again["captions"] == batch["captions"]
            assert torch.equal(again["tokens"], batch["tokens"]) and torch.equal(again["vectors"], batch["vectors"])
    across, kept = torch.tensor([45, 20, 25, 22, 1]), epoch(made, mixed=2) + epoch(made, at=(1, 0), mixed=2)
    given = across.clone()
    assert read(across)["ids"] == [kept[place] for place in across.tolist()] and torch.equal(across, given)


def test_several_folders_of_shards_are_read_as_one(made, corpus, encoders, tmp_path):
    shutil.copytree(made, tmp_path / "all" / "one")
    few = Corpus("few", corpus.clips[:6], seconds=corpus.seconds, limit=1.0)
    prepare(few, tmp_path / "all" / "two", encoders, shard_clips=4, progress=False)
    (tmp_path / "all" / "notes").mkdir()
    data = ShardedLatents(tmp_path / "all", 5, mixed=2)
    found = [name for batch in data for name in batch["ids"]]
    assert sorted(found) == sorted([clip.id for clip in corpus.clips] + [clip.id for clip in few.clips])
    assert data.manifest.corpus == f"{corpus.name} + few" and data.manifest.whole
    assert data.manifest.encoders is None
    named = {"vae": "here", "text": ["there"]}
    dataclasses.replace(Manifest.read(tmp_path / "all" / "two"), encoders=named).write()
    assert Manifest.gather(tmp_path / "all").encoders == named  # though the first folder does not say
    file = tmp_path / "all" / "two" / "manifest.json"
    assert data.manifest.fingerprint not in [Manifest.read(path).fingerprint for path in (made, file.parent)]
    told = json.loads(file.read_text())
    for change, why in (({"peak": 0.5}, "peak differs .one None, two 0.5"), ({"clips": 7}, "two is not finished")):
        file.write_text(json.dumps(told | {"settings": told["settings"] | change}))
        with pytest.raises(ValueError, match=why):
            ShardedLatents(tmp_path / "all", 5)
    with pytest.raises(FileNotFoundError, match="has no manifest.json"):
        ShardedLatents(tmp_path / "all" / "notes", 5)


def test_members_are_found_where_tarfile_finds_them(made, tmp_path):
    for mtime in (0, 1.5):  # a time with a fraction has a PAX record of its own
        with webdataset.TarWriter(str(tmp_path / f"{mtime}.tar"), mtime=mtime, format="PAX_FORMAT") as tar:
            for name in ("a/b", "glocke/läuten", 120 * "n", "c"):
                tar.write({"__key__": name, "json": {"x": 1}, "mean.npy": np.zeros((3, 200), np.float16)})
    for path in (*made.glob("*.tar"), *tmp_path.glob("*.tar")):
        with tarfile.open(path) as tar:
            wanted = [(member.name, member.offset_data, member.size) for member in tar]
        assert list(sharded._members(path)) == wanted and wanted


def test_the_manifest_keeps_how_its_encoders_are_found(corpus, encoders, folders, made, tmp_path):
    out, named = tmp_path / "out", {"vae": folders[0], "text": list(folders[1])}
    prepare(corpus, out, encoders, shard_clips=4, progress=False, named=named)
    assert Manifest.read(out).encoders == named
    vae, text = load_encoders(**named)
    assert (fingerprint(vae), fingerprint(text)) == tuple(Manifest.read(out).settings[name] for name in ("vae", "text"))
    old = Manifest.read(made)  # made before the names were kept
    assert old.encoders is None and old.fingerprint == Manifest.read(out).fingerprint
    shutil.copytree(made, tmp_path / "old")
    moved = {"vae": shutil.copytree(folders[0], tmp_path / "vae"), "text": list(folders[1])}
    for names in (named, {**moved, "vae": str(moved["vae"])}):
        before = (tmp_path / "old" / "shard-000000.tar").stat().st_mtime_ns
        prepare(corpus, tmp_path / "old", encoders, shard_clips=4, progress=False, named=names)
        assert Manifest.read(tmp_path / "old").encoders == names
        assert (tmp_path / "old" / "shard-000000.tar").stat().st_mtime_ns == before
    prepare(corpus, tmp_path / "old", encoders, shard_clips=4, progress=False)
    assert Manifest.read(tmp_path / "old").encoders == names


def test_what_cannot_be_read_is_told(made, tmp_path):
    with pytest.raises(FileNotFoundError, match="no manifest.json"):
        ShardedLatents(tmp_path, 4)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="no manifest that can be read"):
        ShardedLatents(tmp_path, 4)
    shutil.copytree(made, tmp_path / "copy")
    (tmp_path / "copy" / "shard-000001.tar").unlink()
    with pytest.raises(ValueError, match="shard-000001.tar is gone or damaged"):
        ShardedLatents(tmp_path / "copy", 4)
    for path in sorted(made.glob("*.tar")):
        content = bytearray(path.read_bytes())
        content[len(content) // 3 : len(content) // 2] = b"\xff" * (len(content) // 2 - len(content) // 3)
        (tmp_path / "copy" / path.name).write_bytes(content)  # as long as it was, so that reading has to notice
    with pytest.raises(ValueError, match=r"shard-00000\d.tar is damaged \(.*prepare` makes it anew"):
        list(ShardedLatents(tmp_path / "copy", 4))
    with pytest.raises(ValueError, match="rank 2 of 2"):
        ShardedLatents(made, 4, rank=2, ranks=2)


@linux
def test_memory_does_not_grow_with_the_number_of_clips(tmp_path):
    few, many = (shard_memory.peaks(count, tmp_path / str(count), "fork") for count in (100, 1000))
    for name in few:
        assert many[name] < few[name] + 8, (few, many)


@pytest.mark.parametrize(("text", "told"), [
    (("t5:a", "t5:b"), "one each"), (("soundworld", "clap:a"), "one each"), ((), "none"), (("t5:",), "one each"),
])
def test_text_encoders_that_do_not_go_together_are_refused(folders, text, told):
    with pytest.raises(ValueError, match=told):
        load_encoders(folders[0], text)


def test_the_command_prepares_with_what_is_shipped(tmp_path):
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", 0.1 * np.random.default_rng(i).standard_normal(50_000), 16_000)
    (tmp_path / "metadata.csv").write_text("file_name,caption\n0.wav,a low bell\n1.wav,a high bird\n2.wav,xyzzy\n")
    command = ["data", "prepare", "folder", str(tmp_path), "--out", str(tmp_path / "shards"), "--seconds", "2.56"]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 1 and "1 of 3 clips were skipped" in found.output and "clips need about" in found.output
    found = CliRunner().invoke(app, [*command, "--limit", "0.4"])
    assert found.exit_code == 0 and "2 clips with 2 captions in 1 shards" in found.output, found.output
    assert Manifest.read(tmp_path / "shards").encoders == {"vae": "soundworld", "text": ["soundworld"]}
    (batch,) = ShardedLatents(tmp_path / "shards", 8)
    assert batch["tokens"].shape == (2, 32, 48) and batch["vectors"].shape[2] == 128
    found = CliRunner().invoke(app, [*command, "--seed", "1"])
    assert found.exit_code == 1 and "seed 0 -> 1" in found.output.replace("\n", " ")


def test_encoders_in_folders_are_found_from_any_working_folder(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "0.wav", 0.1 * np.random.default_rng(0).standard_normal(50_000), 16_000)
    (tmp_path / "metadata.csv").write_text("file_name,caption\n0.wav,a low bell\n")
    shutil.copytree(components.WEIGHTS / "vae", tmp_path / "soundworld" / "vae")
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["data", "prepare", "folder", ".", "--out", "shards", "--vae", "soundworld/vae"])
    assert found.exit_code == 0, found.output  # a path that, where it is no folder, is the name of a model on the hub
    told = Manifest.read(tmp_path / "shards").encoders
    assert told == {"vae": str(tmp_path / "soundworld" / "vae"), "text": ["soundworld"]}  # that which is shipped


def test_a_corpus_of_which_nothing_can_be_read_is_not_started(corpus, encoders, tmp_path):
    gone = changed(corpus, **{f"c{i}": tmp_path / "gone.wav" for i in range(23)})
    with pytest.raises(Unreadable):
        gone.read(0, crop_generator(gone[0], 0))
    with pytest.raises(ValueError, match="none of the clips that were tried"):
        prepare(gone, tmp_path / "out", encoders, progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"processes": 0}, {"shard_clips": 0}, {"limit": 1.1}, {"peak": 0.0}])
def test_settings_out_of_range_are_refused(corpus, encoders, tmp_path, options):
    with pytest.raises(ValueError, match="wanted at least 1 process"):
        prepare(corpus, tmp_path, encoders, **options)


def test_without_webdataset_it_says_what_to_install(corpus, encoders, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(ImportError, match=r"dear\[data\]"):
        prepare(corpus, tmp_path, encoders)


def test_pretrained_encoders_are_found_by_name(folders, monkeypatch, tmp_path):
    class Found(torch.nn.Module):
        def __init__(self, *told):
            super().__init__()
            self.told = [part.told if isinstance(part, Found) else part for part in told]

    for name in ("PretrainedVAE", "FlanT5", "Clap", "FlanT5AndClap"):
        monkeypatch.setattr(encoding, name, type(name, (Found,), {}))
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    assert load_encoders("a/b", ("t5:c/d",))[0].told == ["a/b", "vae"]
    assert load_encoders(str(tmp_path), ("t5:c/d",))[0].told == [str(tmp_path), ""]
    for names, kind, told in [(["t5:c/d"], "FlanT5", ["c/d"]), (["clap:./e"], "Clap", ["./e"]),
                              (["clap:e", "t5:c"], "FlanT5AndClap", [["c"], ["e"]])]:
        text = load_encoders("a/b", names)[1]
        assert (type(text).__name__, text.told) == (kind, told)
