"""The world's measures on signals whose pitch and rhythm are known, and what counts as a property that holds."""

import math

import pytest
import torch

from dear.audio import log_mel
from dear.data import captions as grammar
from dear.data.soundworld import KINDS
from dear.worldcheck import Mean, coherence, holds, pitch_spread, rhythm_agreement, singles

SECONDS = torch.arange(40_960) / 16_000


def tone(frequency):
    return 0.3 * torch.sin(2 * math.pi * torch.cumsum(frequency.expand(len(SECONDS)) / 16_000, 0))


def test_the_pitch_of_a_tone_stays_and_that_of_two_tones_spreads():
    steady = tone(torch.tensor(800.0))
    jump = tone(torch.where(SECONDS < 1.28, 600.0, 1200.0))  # an octave: half the pieces 6 semitones to either side
    spread = pitch_spread(log_mel(torch.stack([steady, jump])))
    assert spread[0] < 0.1
    assert spread[1] == pytest.approx(6, rel=0.15)


def test_a_clip_of_one_short_sound_has_no_spread_and_does_not_spoil_the_median():
    short = torch.where(SECONDS < 0.08, tone(torch.tensor(800.0)), torch.zeros(()))
    mel = log_mel(torch.stack([short, tone(torch.tensor(800.0)), tone(torch.tensor(400.0))]))
    assert pitch_spread(mel)[0].isnan()
    found = coherence({"tone": mel, "knock": mel, "bird": mel, "siren": mel})
    assert found["pitch spread, semitones"] < 0.1


def test_a_regular_beat_repeats_itself_and_noise_does_not():
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(len(SECONDS), generator=generator)
    beat = noise * (SECONDS * 5 % 1 < 0.3)  # 5 a second, other noise in every beat
    agreement = rhythm_agreement(log_mel(torch.stack([beat, noise])), 4, 6)
    assert agreement[0] > 0.8 and agreement[1] < 0.3
    assert rhythm_agreement(log_mel(beat[None]), 6.8, 8) < 0.5  # no beat at this rate


def test_captions_of_single_events_say_what_they_should():
    for kind in KINDS:
        for caption, pitch in zip(singles(kind, 3), ("low", "middle", "high"), strict=True):
            assert grammar.parse(caption) == ("single", [{"kind": kind, "pitch": pitch, "loudness": "loud"}])


def test_the_mean_head_answers_the_mean():
    x = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
    assert torch.equal(Mean().loss(lambda noise, cond: 0 * noise + cond, x, torch.zeros(2, 2), None),
                       x.square().sum(1))
    noise = torch.randn(2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Mean().sample(lambda noise, cond: noise + cond, x, noise), x)
    Mean(noise_dim=5).loss(lambda noise, cond: x + 0 * noise.view(2, 5)[:, :2], x, x, None)


def test_a_property_that_does_not_hold_is_told():
    good = {"rendered clips": 10.0, "blurred": 100.0, "spliced 0.25": 50.0, "teacher, 1 iterations": 90.0,
            "teacher, 16 iterations": 30.0, "mean head, guidance 1": 60.0, "energy head, guidance 1": 40.0}
    assert all(holds(good).values())
    for name, value in (("blurred", 15.0), ("spliced 0.25", 15.0), ("teacher, 1 iterations", 40.0),
                        ("mean head, guidance 1", 50.0)):
        assert sum(not held for held in holds(good | {name: value}).values()) == 1
