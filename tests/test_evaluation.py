"""Verdicts and their counts, by sentences and labels whose answer is plain."""

import math

import pytest
import torch

from dear import evaluation
from dear.audio import log_mel
from dear.data.cache import rendered
from dear.data.soundworld import KINDS, LOUDNESSES, PITCHES, RELATIONS, SoundWorld, combinations
from dear.evaluation import agreement, generate, is_unseen, score, signals, verdict
from dear.metrics.features import features_of


def labels(relation, *events):
    """Labels (7,) in slot order; an event is "loud low bell"."""
    row = [RELATIONS.index(relation)]
    for event in events:
        loudness, pitch, kind = event.split()
        row += [KINDS.index(kind), PITCHES.index(pitch), LOUDNESSES.index(loudness)]
    return torch.tensor(row + [-1] * (7 - len(row)))


THEN = "a loud low bell then a quiet high bird"


def test_all_right():
    found = verdict(labels("then", "loud low bell", "quiet high bird"), THEN)
    assert found.agrees and found.right == {"relation": [True], "kind": [True] * 2, "pitch": [True] * 2,
                                            "loudness": [True] * 2}
    assert str(found) == "heard loud low bell then quiet high bird: all right"
    assert verdict(labels("then", "loud low bell", "quiet high bird").tolist(), THEN) == found
    assert verdict(labels("then", "loud low bell", "quiet high bird").numpy(), THEN) == found


def test_what_is_wrong_is_named():
    found = verdict(labels("then", "loud middle bell", "quiet high siren"), THEN)
    assert found.right == {"relation": [True], "kind": [True, False], "pitch": [False, True], "loudness": [True, True]}
    assert not found.agrees and str(found).endswith(": wrong kind, pitch")


def test_the_order_of_then_counts():
    found = verdict(labels("then", "quiet high bird", "loud low bell"), THEN)
    assert not any(sum((found.right[a] for a in ("kind", "pitch", "loudness")), []))
    assert verdict(labels("then", "quiet high bird", "loud low bell"),
                   "a loud low bell after a quiet high bird").agrees


def test_the_order_of_while_does_not_count():
    heard = labels("while", "loud low bell", "quiet high bird")  # slots from low to high
    assert verdict(heard, "a loud low bell while a quiet high bird").agrees
    assert verdict(heard, "a quiet high bird while a loud low bell").agrees
    assert verdict(heard, "a bird and a bell together").agrees
    assert verdict(heard, "a high bell while a low bird").right == {
        "relation": [True], "kind": [True, True], "pitch": [False, False], "loudness": []}


def test_a_missing_event_is_wrong_in_all_that_was_stated_of_it():
    found = verdict(labels("single", "loud low bell"), THEN)
    assert found.right == {"relation": [False], "kind": [True, False], "pitch": [True, False],
                           "loudness": [True, False]}
    assert str(found) == "heard loud low bell: wrong relation, kind, pitch, loudness"
    # Of two at once either may be the one that was heard.
    found = verdict(labels("single", "quiet high bird"), "a loud low bell while a quiet high bird")
    assert found.right == {"relation": [False], "kind": [False, True], "pitch": [False, True],
                           "loudness": [False, True]}


def test_one_event_too_many_is_a_wrong_relation():
    found = verdict(labels("then", "loud low bell", "quiet high bird"), "a low bell")
    assert found.right == {"relation": [False], "kind": [True], "pitch": [True], "loudness": []}


def test_what_is_not_stated_does_not_count():
    heard = labels("then", "loud low bell", "quiet high bird")
    assert verdict(heard, "a bell then a bird").right == {"relation": [True], "kind": [True, True], "pitch": [],
                                                          "loudness": []}
    assert verdict(heard, "a bell then a low bird").right["pitch"] == [False]


def test_labels_of_the_world_agree_with_its_own_captions():
    world = SoundWorld("test", 40)
    for i in range(40):
        clip = world[i]
        assert verdict(clip.labels, clip.caption).agrees, clip.caption
        assert is_unseen(clip.caption) == (clip.combination in combinations()[1]) == bool(i % 2)


def test_agreement_counts_stated_attributes():
    (seen, _), unseen = combinations(), combinations()[1]
    known = next(c for c in seen if c[0] == "then" and "bell" not in c)
    novel = next(c for c in unseen if c[0] == "then" and "bell" not in c)
    words = {"rise": "rising chirp", "fall": "falling chirp"}
    texts = [f"a low {words.get(c[1], c[1])} then a {words.get(c[2], c[2])}" for c in (known, novel)] + ["a loud bell"]
    rows = torch.stack([
        labels("then", f"loud low {known[1]}", f"loud low {known[2]}"),  # all right
        labels("then", f"loud high {novel[1]}", f"loud low {novel[1]}"),  # pitch wrong; is the second kind right?
        labels("single", "quiet low bell"),  # loudness wrong
    ])
    same = novel[1] == novel[2]
    found = agreement(rows, texts)
    assert set(found) == {"all", "seen", "unseen"}
    assert found["all"]["relation"] == 1
    assert found["all"]["kind"] == pytest.approx((2 + 1 + same + 1) / 5)
    assert found["all"]["pitch"] == pytest.approx(1 / 2) and found["all"]["loudness"] == 0
    assert found["all"]["everything"] == pytest.approx(1 / 3)
    assert found["seen"]["pitch"] == 1 and found["unseen"]["pitch"] == 0
    assert found["seen"]["kind"] == 1 and found["unseen"]["kind"] == (1 + same) / 2
    assert found["seen"]["everything"] == 1 / 2 and math.isnan(found["unseen"]["loudness"])
    assert set(agreement(rows[2:], texts[2:])) == {"all", "seen"}
    with pytest.raises(ValueError):
        agreement(rows, texts[:2])


class Ear:
    """An oracle that hears the same in every clip and whose features are two numbers of the clip."""

    def features(self, log_mels):
        return log_mels[:, 0, :2]

    def read(self, log_mels):
        return labels("single", "loud low bell").expand(len(log_mels), 7)


def test_score_joins_agreement_and_distance():
    generator = torch.Generator().manual_seed(0)
    here, there = torch.randn(300, 4, 3, generator=generator), torch.randn(300, 4, 3, generator=generator) + 2
    found = score(here, ["a low bell"] * 299 + ["rain"], Ear(), features_of(Ear(), there))
    assert found["clips"] == 300 and found["all"]["kind"] == pytest.approx(299 / 300)
    # Two unit Gaussians whose means are 2 apart in both dimensions: 8; 0.3 is 2 standard deviations of the estimate.
    assert found["frechet"] == pytest.approx(8, abs=1)


def test_report_measures_floor_reconstructions_and_models_against_other_clips(monkeypatch, capsys):
    asked = []

    def few(split, count, seed):
        asked.append((split, count, seed))
        return rendered(split, 70 if count == 2000 else count, seed, progress=False)

    monkeypatch.setattr(evaluation, "rendered", few)
    monkeypatch.setattr(evaluation, "generate", lambda pipe, texts, seed, **told: asked.append((texts, seed, told))
                        or torch.full((len(texts), 256, 64), -8.0))
    rows = evaluation.report(["soundworld"], 66, "validation", 3, num_inference_steps=4)
    assert asked[:2] == [("validation", 66, 3), ("validation", 2000, 4)]  # the reference is of other clips
    texts, seed, told = asked[2]
    assert texts == rendered("validation", 66, 3, progress=False).captions
    assert (seed, told) == (3, {"num_inference_steps": 4})
    names = ["rendered clips", "VAE reconstructions", "soundworld"]
    assert [row["model"] for row in rows] == names
    floor, rebuilt, silent = rows
    assert floor["all"]["kind"] > 0.95 and rebuilt["all"]["kind"] > 0.9 > 0.5 > silent["all"]["kind"]
    assert 0 < floor["frechet"] < silent["frechet"] and rebuilt["frechet"] != floor["frechet"]
    said = capsys.readouterr().out
    assert said.startswith("66 captions of the validation split") and all(said.count(name) == 2 for name in names)


class Pipe:
    """Draws one random number a prompt and keeps what it was asked."""

    def __init__(self):
        self.backbone, self.vae, self.asked = torch.nn.Linear(1, 1), self, []

    def tokens(self, prompts, generator, **settings):
        self.asked.append((list(prompts), settings))
        return torch.rand(len(prompts), 1, 1, generator=generator)

    def decode(self, tokens, generator):
        return tokens.expand(-1, 4, 3)


def test_generate_goes_through_the_captions_in_batches_with_generators_of_their_own():
    pipe, captions = Pipe(), list("abcde")
    mels = generate(pipe, captions, batch=2, progress=False, guidance_scale=2.0)
    assert mels.shape == (5, 4, 3)
    assert pipe.asked == [(["a", "b"], {"guidance_scale": 2.0}), (["c", "d"], {"guidance_scale": 2.0}),
                          (["e"], {"guidance_scale": 2.0})]
    assert torch.equal(generate(Pipe(), captions, batch=2, progress=False), mels)
    # The first batches do not depend on what follows, and no two batches share their noise.
    assert torch.equal(generate(Pipe(), captions[:2], batch=2, progress=False), mels[:2])
    assert mels[:, 0, 0].unique().numel() == 5
    assert not torch.equal(generate(Pipe(), captions, seed=1, batch=2, progress=False), mels)


def two_tones(first_hz, second_hz, first_level=0.3, second_level=0.3):
    seconds = torch.arange(40_960) / 16_000
    early = seconds < 1.28
    frequency = torch.where(early, float(first_hz), float(second_hz))
    level = torch.where(early, first_level, second_level)
    return log_mel((level * torch.sin(2 * math.pi * torch.cumsum(frequency / 16_000, 0)))[None])[0]


def test_signals_read_pitch_and_order_from_the_spectrum():
    single = torch.stack([two_tones(f, f) for f in (200, 700, 2500)])
    captions = ["a loud low tone", "a middle tone", "a high tone"]
    assert signals(single, captions)["pitch"] == 1
    assert signals(single, captions[::-1])["pitch"] == pytest.approx(1 / 3)
    assert math.isnan(signals(single, captions)["order by pitch"])
    up = torch.stack([two_tones(200, 2500, 0.3, 0.05), two_tones(2500, 700, 0.05, 0.3)])
    right = ["a loud low tone then a quiet high tone", "a quiet high tone then a loud middle tone"]
    assert signals(up, right) == {"pitch": pytest.approx(math.nan, nan_ok=True), "order by pitch": 1,
                                  "order by level": 1}
    found = signals(up.flip(1), right)  # the same clips backwards
    assert found["order by pitch"] == found["order by level"] == 0
    assert math.isnan(signals(up[:1], ["a low tone then a tone"])["order by pitch"])
