"""Shards of a few short clips of noise, and a recipe for them that a step of takes milliseconds."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from dear import components, paper
from dear.backbone import BackboneConfig
from dear.data import shard_pool
from dear.data.corpus import Clip, Corpus
from dear.data.encoding import load_encoders
from dear.data.shards import prepare
from dear.head import HeadConfig
from dear.text import TextConfig, TextEncoder
from dear.training import TrainConfig
from dear.vae import VAE, VAEConfig

CLIPS, BATCH, STEPS = 18, 4, 18  # four epochs
CAPTIONS = (("a low bell",), ("then some rain", "a loud bell then rain"), ("some bell", "rain", "low rain"))
PLAN = TrainConfig(steps=STEPS, batch_size=BATCH, learning_rate=1.5e-3, muon=3e-3, warmup=3, checkpoint_every=4,
                   log_every=1)
TINY = replace(
    paper.SMALL, pretrain=PLAN, teacher=PLAN, student=PLAN, at_once=2, mixed=2,
    head=HeadConfig(width=16, depth=1, times=1),
    backbone=BackboneConfig(width=16, heads=2, encoder_layers=1, decoder_layers=2, window=1),
)  # fmt: skip


def small_encoders(home: Path) -> dict:
    """A random small VAE and text encoder in folders, named as `load_encoders` takes them."""
    torch.manual_seed(0)
    components.save(VAE(VAEConfig(channels=3, noise=2, width=12, texture_width=8, blocks=1)), home / "vae")
    words = tuple("a bell loud low rain some then".split())
    components.save(TextEncoder(TextConfig(words, length=6, width=8, heads=2, layers=1)), home / "text")
    return {"vae": str(home / "vae"), "text": [str(home / "text")]}


def make_shards(home: Path, named: dict) -> Path:
    """Folder of CLIPS clips of 0.32 s, five a shard, encoded by the named encoders."""
    soundfile.write(home / "noise.wav", 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    clips = [Clip(f"clip/{i}", str(home / "noise.wav"), 0.02 * i, 0.02 * i + 0.32, CAPTIONS[i % 3])
             for i in range(CLIPS)]
    with pytest.MonkeyPatch.context() as patch:
        if sys.platform == "linux":  # a fork has the libraries of the encoders, which take most of the time, already
            patch.setattr(shard_pool, "METHOD", "fork")
        prepare(Corpus("noise", clips, seconds=0.32), home / "shards", partial(load_encoders, **named), shard_clips=5,
                progress=False, named=named)
    return home / "shards"
