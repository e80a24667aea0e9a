"""The cache of rendered sounds: read the second time, whole or not there at all."""

import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch

from dear.audio import log_mel
from dear.data import cache
from dear.data.cache import cache_folder, rendered
from dear.data.soundworld import VERSION, SoundWorld

SIZE = 5


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Two items a block, so that five items are three blocks."""
    monkeypatch.setattr(cache, "_BLOCK", 2)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def make(folder, split="train", **options):
    return rendered(split, SIZE, folder=folder, progress=False, **options)


def test_what_is_stored_is_what_the_world_gives(folder):
    data, world = make(folder), SoundWorld("train", SIZE)
    assert len(data) == SIZE and data.captions == [world.caption(i) for i in range(SIZE)]
    np.testing.assert_array_equal(data.labels, np.stack([c.labels for c in world]))
    np.testing.assert_array_equal(data.qualities, np.stack([c.qualities for c in world]))
    assert data.mels.shape == (SIZE, 256, 64) and data.mels.dtype == np.float16
    expected = log_mel(torch.from_numpy(np.stack([c.waveform for c in world])))
    got = data.log_mels(range(SIZE))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)  # float16 has 11 bits: 0.004 at 8 and 11.5
    for some in ([3, 1], np.array([3, 1]), torch.tensor([3, 1])):
        assert torch.equal(data.log_mels(some), got[[3, 1]])


def test_the_second_call_reads(folder, monkeypatch):
    first = make(folder)

    def refuse(*args):
        raise AssertionError("rendered again")

    monkeypatch.setattr(cache, "_render", refuse)
    second = make(folder)
    assert second.captions == first.captions
    np.testing.assert_array_equal(second.mels, first.mels)


def test_version_split_seed_size_and_twins_are_kept_apart(folder, monkeypatch):
    names = set()
    for options in ({}, {"seed": 1}, {"split": "test"}, {"twins": True}):
        make(folder, **options)
        names.add(tuple(sorted(p.name for p in folder.iterdir())))
    rendered("train", SIZE + 1, folder=folder, progress=False)
    monkeypatch.setattr(cache, "VERSION", VERSION + 1)
    make(folder)
    found = {p.name for p in folder.iterdir()}
    old, new = f"soundworld-v{VERSION}", f"soundworld-v{VERSION + 1}"
    assert found == {f"{old}-train-seed0-5", f"{old}-train-seed1-5", f"{old}-test-seed0-5",
                     f"{old}-train-twins-seed0-5", f"{old}-train-seed0-6", f"{new}-train-seed0-5"}
    assert len(names) == 4


def test_twins_are_twins(folder):
    world, twins = SoundWorld("train", SIZE), make(folder, twins=True)
    assert twins.captions == [world.twin(i).caption for i in range(SIZE)]
    np.testing.assert_array_equal(twins.qualities, np.stack([world.twin(i).qualities for i in range(SIZE)]))


def test_two_workers_give_what_one_gives(folder):
    one, two = make(folder / "one"), make(folder / "two", processes=2)
    assert two.captions == one.captions
    for name in ("mels", "labels", "qualities"):
        np.testing.assert_array_equal(getattr(two, name), getattr(one, name))


def broken_clip(self, i):
    if i == 3:
        raise RuntimeError("no more memory")
    return SoundWorld.twin(self, i)


def test_a_block_that_fails_leaves_nothing(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(SoundWorld, "__getitem__", broken_clip)
        with pytest.raises(RuntimeError, match="no more memory"):
            make(folder)
        assert list(folder.iterdir()) == []
    assert len(make(folder)) == SIZE


def hang(self, i):
    if i == 3:
        time.sleep(600)
    return SoundWorld.twin(self, i)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, so that the child sees the patched sound")
def test_a_killed_process_leaves_nothing_that_could_be_taken_for_a_whole(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(SoundWorld, "__getitem__", hang)
        process = multiprocessing.get_context("fork").Process(target=make, args=(folder,))
        process.start()
        deadline = time.monotonic() + 30
        while not (folder.exists() and list(folder.iterdir())) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(folder.glob("soundworld-*")) == [] and len(list(folder.glob(".soundworld-*"))) == 1
    assert make(folder).captions == [SoundWorld("train", SIZE).caption(i) for i in range(SIZE)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, to start both at once")
def test_two_processes_that_render_the_same_split_both_get_it(folder):
    context = multiprocessing.get_context("fork")
    results, barrier = context.Queue(), context.Barrier(2)
    both = [context.Process(target=_meet, args=(folder, barrier, results)) for _ in range(2)]
    for process in both:
        process.start()
    found = [results.get(timeout=60) for _ in both]
    for process in both:
        process.join()
    assert found[0] == found[1] == [SoundWorld("train", SIZE).caption(i) for i in range(SIZE)]
    assert [p.name for p in folder.iterdir()] == [f"soundworld-v{VERSION}-train-seed0-5"]


def _meet(folder, barrier, results):
    render = cache._render

    def both_at_once(*args):
        barrier.wait()
        render(*args)

    cache._render = both_at_once
    results.put(make(folder).captions)


def test_captions_are_json(folder):
    make(folder)
    assert len(json.loads((folder / f"soundworld-v{VERSION}-train-seed0-5" / "captions.json").read_text())) == SIZE


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DEAR_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    assert len(rendered("train", SIZE, progress=False)) == SIZE and len(list(tmp_path.iterdir())) == 1
    monkeypatch.delenv("DEAR_CACHE")
    assert cache_folder().parts[-2:] == (".cache", "dear")


def test_bad_arguments_write_nothing(folder):
    with pytest.raises(ValueError, match="split must be one of"):
        make(folder, split="dev")
    with pytest.raises(ValueError, match="size must be at least 1"):
        rendered("train", 0, folder=folder)
    with pytest.raises(ValueError, match="processes must be at least 1"):
        make(folder, processes=0)
    assert not folder.exists()


def test_progress_is_shown_when_wanted(folder, capsys):
    make(folder)
    assert capsys.readouterr().err == ""
    rendered("train", 2, folder=folder)
    assert "rendering into" in capsys.readouterr().err
