"""SoundWorld: its splits and labels, and signal checks that know the physics of a sound but nothing of any network."""

from collections import Counter
from itertools import combinations as pairs
from itertools import product

import numpy as np
import pytest
import torch

from dear.audio import HOP, log_mel
from dear.data.soundworld import (
    HELD_OUT,
    KINDS,
    LOUDNESSES,
    PITCHES,
    RELATIONS,
    SAMPLE_RATE,
    SAMPLES,
    SPLITS,
    Clip,
    Event,
    SoundWorld,
    combination,
    combinations,
    render,
    scene_labels,
)
from dear.data.synthesis import TOKEN, Qualities, synthesise
from dear.vae import VAEConfig

REGISTER = {"low": (150, 300), "middle": (500, 1000), "high": (1700, 3400)}  # Hz: an octave each, gaps between them
MIDDLE = Qualities(0.5, 0.5, 0.5, 0.5)


def scenes(split: str, count: int, seed: int = 0):
    """(relation, events) of the first items of a split, without their sound."""
    world = SoundWorld(split, count, seed)
    return [world.scene(i)[:2] for i in range(count)]


@pytest.fixture(scope="module")
def clips():
    return list(SoundWorld("test", 60))


# --- splits -----------------------------------------------------------------------------------------------------------


def test_an_item_by_itself_equals_the_item_in_sequence(clips):
    for i in (0, 7, 33):
        alone = SoundWorld("test", 5000)[i]  # the size of the split does not matter either
        np.testing.assert_array_equal(alone.waveform, clips[i].waveform)
        assert (alone.caption, alone.relation, alone.events) == (clips[i].caption, clips[i].relation, clips[i].events)
        assert SoundWorld("test", 60).caption(i) == clips[i].caption


def test_splits_seeds_and_twins_share_no_clip():
    worlds = [SoundWorld(split, 20, seed) for split in SPLITS for seed in (0, 1)]
    waves = [clip.waveform.tobytes() for world in worlds for clip in world]
    waves += [world.twin(i).waveform.tobytes() for world in worlds for i in range(20)]
    assert len(set(waves)) == len(waves) == 4 * 2 * 20 * 2  # splits, seeds, items, and a twin of each


def test_a_fifth_of_the_combinations_at_least_is_held_out_whole():
    seen, unseen = combinations()
    # 11 x 11 ordered pairs for "then", 55 unordered ones of two different kinds for "while".
    assert len(set(seen) | set(unseen)) == len(seen) + len(unseen) == 121 + 55
    for relation, count in (("then", 121), ("while", 55)):
        assert sum(key[0] == relation for key in unseen) == HELD_OUT[relation] >= 0.2 * count
    assert {relation for relation, *_ in unseen} == {"then", "while"}
    for split in ("train", "validation"):
        drawn = {combination(relation, [e.kind for e in events]) for relation, events in scenes(split, 3000)}
        assert not drawn & set(unseen)
        assert drawn & set(seen) == set(seen)  # and every other one occurs


def test_the_oracle_learns_from_a_split_of_its_own_with_all_combinations():
    drawn = {combination(relation, [e.kind for e in events]) for relation, events in scenes("oracle", 3000)}
    assert drawn >= set(sum(combinations(), []))


def test_half_of_the_test_split_is_unseen():
    unseen = set(combinations()[1])
    held = [combination(relation, [e.kind for e in events]) in unseen for relation, events in scenes("test", 200)]
    assert held == [False, True] * 100


def test_every_single_attribute_occurs_in_training_in_both_slots():
    labels = np.stack([scene_labels(*scene) for scene in scenes("train", 1500)])
    for column, size in enumerate((3, 11, 3, 2, 11, 3, 2)):
        assert set(labels[:, column]) - {-1} == set(range(size)), column
    other = np.stack([scene_labels(*scene) for scene in scenes("validation", 1500)])
    # Singles, "then", "while"; training has more of the hardest. 5 standard deviations of 1500 draws are 0.06.
    for found, shares in ((labels, (0.2, 0.3, 0.5)), (other, (0.25, 0.375, 0.375))):
        np.testing.assert_allclose(np.bincount(found[:, 0]) / 1500, shares, atol=0.06)


def test_two_events_stay_tellable_apart():
    for relation, events in scenes("train", 1500):
        if relation == "while":
            assert events[0].pitch != events[1].pitch and events[0].kind != events[1].kind
        if relation == "then":
            assert (events[0].kind, events[0].pitch) != (events[1].kind, events[1].pitch)


# --- items ------------------------------------------------------------------------------------------------------------


def test_waveforms_have_rate_length_and_head_room(clips):
    assert (SAMPLE_RATE, SAMPLES) == (16_000, 40_960) and SAMPLES / SAMPLE_RATE == 2.56
    for clip in clips:
        assert clip.waveform.shape == (SAMPLES,) and clip.waveform.dtype == np.float32
        assert 0.03 < np.abs(clip.waveform).max() < 1


def test_two_loud_sounds_at_once_do_not_clip():
    rng = np.random.default_rng(0)
    for a, b in pairs(KINDS, 2):
        events = (Event(a, "low", "loud", Qualities.draw(rng)), Event(b, "middle", "loud", Qualities.draw(rng)))
        assert np.abs(render("while", events, rng)).max() < 1, (a, b)


def test_labels_count_classes_in_the_order_of_the_slots():
    low, high = Event("bell", "low", "loud", MIDDLE), Event("bird", "high", "quiet", Qualities(0.1, 0.2, 0.3, 0.4))
    wave = np.zeros(SAMPLES, np.float32)
    bell, bird = [KINDS.index("bell"), 0, 1], [KINDS.index("bird"), 2, 0]
    assert Clip(wave, "", "single", (high,)).labels.tolist() == [0, *bird, -1, -1, -1]
    assert Clip(wave, "", "then", (high, low)).labels.tolist() == [1, *bird, *bell]  # in order of time
    assert Clip(wave, "", "while", (high, low)).labels.tolist() == [2, *bell, *bird]  # in order of pitch
    hidden = Clip(wave, "", "while", (high, low)).qualities
    np.testing.assert_allclose(hidden, [[0.5, 0.5, 0.5], [0.1, 0.2, 0.4]], rtol=1e-6)
    alone = Clip(wave, "", "single", (high,)).qualities
    assert np.isnan(alone[1]).all() and not np.isnan(alone[0]).any()
    assert Clip(wave, "", "while", (high, low)).combination == ("while", "bell", "bird")
    assert Clip(wave, "", "then", (high, low)).combination == ("then", "bird", "bell")


def test_a_twin_has_the_labels_and_qualities_of_its_own(clips):
    world, same = SoundWorld("test", 60), []
    for i in range(30):
        twin = world.twin(i)
        np.testing.assert_array_equal(twin.labels, clips[i].labels)
        here = ~np.isnan(clips[i].qualities)
        assert (np.isnan(twin.qualities) == ~here).all()
        same += (twin.qualities == clips[i].qualities)[here].tolist()
        np.testing.assert_array_equal(twin.waveform, world.twin(i).waveform)
    assert 0.35 < np.mean(same) < 0.65  # two values each, some 150 draws: three standard errors are 0.12


def test_hidden_qualities_take_their_values_equally_often():
    values = np.array([(q.position, q.rate, q.phase, q.brightness) for _, events in scenes("train", 800)
                       for q in (e.qualities for e in events)])
    for column, allowed in zip(values.T, ((0.0, 0.4), (0.0, 1.0), (0.0, 0.5), (0.2, 0.8)), strict=True):
        found, counts = np.unique(column, return_counts=True)
        assert found.tolist() == list(allowed)
        # 1400 draws: a share of one half has a standard error of 0.013.
        np.testing.assert_allclose(counts / len(column), 0.5, atol=0.05)
    # And independently: any two columns agree in half of the rows.
    high = values > values.mean(axis=0)
    for i, j in pairs(range(4), 2):
        assert abs((high[:, i] == high[:, j]).mean() - 0.5) < 0.05


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"split must be one of .*'train'.* got 'dev'"):
        SoundWorld("dev", 10)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        SoundWorld("train", 0)
    for i in (-1, 10):
        with pytest.raises(IndexError, match="of a split with 10 items"):
            SoundWorld("train", 10)[i]
    with pytest.raises(ValueError, match="kind must be one of tone, .* got 'cat'"):
        synthesise("cat", 8000, 440.0, MIDDLE, np.random.default_rng(0))


# --- signals ----------------------------------------------------------------------------------------------------------


def spectrum(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE), np.abs(np.fft.rfft(wave)) ** 2


def dominant(wave: np.ndarray) -> float:
    frequency, power = spectrum(wave)
    return frequency[power.argmax()]


def centroid(wave: np.ndarray) -> float:
    frequency, power = spectrum(wave)
    audible = (frequency > 100) & (frequency < 7500)
    return (frequency * power)[audible].sum() / power[audible].sum()


def decibels(wave: np.ndarray) -> float:
    return 10 * np.log10((wave.astype(np.float64) ** 2).mean())


def sound(kind: str, pitch: str, loudness: str, rng) -> np.ndarray:
    return render("single", (Event(kind, pitch, loudness, Qualities.draw(rng)),), rng)


def test_the_dominant_frequency_of_the_splits_own_tones_lies_in_the_stated_register():
    world, found = SoundWorld("train", 600), Counter()
    for i in range(len(world)):
        relation, events, _ = world.scene(i)
        if relation == "single" and events[0].kind in ("tone", "bell"):
            low, high = REGISTER[events[0].pitch]
            # 5 %: the jitter of a tone is 0.012 of an octave a standard deviation, which is under 1 %.
            assert 0.95 * low < dominant(world[i].waveform) < 1.05 * high, world.caption(i)
            found[events[0].pitch] += 1
    assert len(found) == 3 and min(found.values()) >= 3


@pytest.mark.parametrize("kind", ["tone", "bell", "knock", "hiss", "engine", "bird"])
def test_the_dominant_frequency_lies_in_the_register(kind):
    rng = np.random.default_rng(1)
    for pitch, (low, high) in REGISTER.items():
        # A bird's whistle falls through 0.45 octaves (1.37) to both sides of its pitch, engine and hiss are as wide.
        assert low / 1.4 < dominant(sound(kind, pitch, "loud", rng)) < high * 1.4, pitch


def test_chirps_go_up_and_down():
    rng = np.random.default_rng(2)
    for pitch, _ in product(PITCHES, range(4)):
        for kind, low, high in (("rise", 0.62, 1.0), ("fall", 0.0, 0.38), ("siren", 0.38, 0.62)):
            wave = sound(kind, pitch, "loud", rng)
            places = [np.log2(centroid(piece)) for piece in np.split(wave[: 40 * 960], 40)]  # of 60 ms
            # A glide of an octave takes 480 or 640 ms, then it jumps back: one step in eight or ten goes the other way.
            assert low <= (np.diff(places) > 0).mean() <= high, (kind, pitch)


def test_the_energy_of_the_halves_shows_the_order():
    rng, half = np.random.default_rng(3), SAMPLES // 2
    for kind in KINDS:
        loud, quiet = (Event(kind, "middle", level, Qualities.draw(rng)) for level in ("loud", "quiet"))
        first, second = render("then", (loud, quiet), rng), render("then", (quiet, loud), rng)
        # Peaks differ by 13 dB at least; 7 leave room for the crest of a rhythm and a late cut.
        assert decibels(first[:half]) - decibels(first[half:]) > 7, kind
        assert decibels(second[half:]) - decibels(second[:half]) > 7, kind


def test_while_sounds_in_both_halves_and_then_leaves_a_gap():
    rng, half = np.random.default_rng(4), SAMPLES // 2
    low, high = Event("tone", "low", "loud", MIDDLE), Event("tone", "high", "loud", MIDDLE)

    def bands(wave):
        frequency, power = spectrum(wave)
        return np.array([power[(frequency > a / 1.1) & (frequency < 1.1 * b)].sum() for a, b in REGISTER.values()])

    for _ in range(5):
        first, second = (bands(part)[[0, 2]] for part in np.split(render("while", (low, high), rng), [half]))
        assert (first / first.sum() > 0.1).all() and (second / second.sum() > 0.1).all()
        wave = render("then", (low, high), rng)
        # The cut is at most 1600 samples from the middle; leave these out.
        first, second = bands(wave[: half - 2400])[[0, 2]], bands(wave[half + 2400 :])[[0, 2]]
        assert first[0] > 50 * first[1] and second[1] > 50 * second[0]
        frames = np.abs(wave[half - 3200 : half + 3200]).reshape(-1, 160).max(1)
        assert frames.min() < 0.25 * 0.34  # some frame around the middle holds the tail of the room only


def test_loud_is_13_to_18_decibels_above_quiet():
    # Peaks before the room are drawn from 0.055..0.075 and 0.34..0.44: 20 log10 gives 13.1 to 18.1 dB, 15.6 on average.
    rng = np.random.default_rng(5)
    for kind in ("tone", "siren", "hiss"):  # steady ones: the peak tells their power
        loud, quiet = ([decibels(sound(kind, "middle", level, rng)) for _ in range(8)] for level in LOUDNESSES[::-1])
        assert min(loud) > max(quiet) + 5 and np.mean(loud) - np.mean(quiet) == pytest.approx(15.6, abs=2.5), kind


def test_the_order_of_the_classes_is_what_stored_weights_and_labels_mean():
    assert " ".join(KINDS) == "tone rise fall siren hiss wind rain knock bell engine bird"
    assert RELATIONS == ("single", "then", "while")
    assert PITCHES == ("low", "middle", "high") and LOUDNESSES == ("quiet", "loud")


# --- rhythm and brightness --------------------------------------------------------------------------------------------


def beats_hz(kind: str, rate: float) -> float:
    """Rate of the strongest repetition of a kind's spectrogram between 0.8 and 14 Hz, at a rate quality of 0 or 1."""
    found = []
    for seed in range(4):
        quality = Qualities(0.5, rate, 0.0, 0.5)
        wave = synthesise(kind, 2 * SAMPLES, 700.0, quality, np.random.default_rng(seed))
        mel = log_mel(torch.from_numpy(wave)[None])[0]
        x = (mel - mel.mean(0)).numpy()
        lags = np.arange(7, 126)  # frames of 10 ms
        agree = np.array([(x[:-lag] * x[lag:]).mean() for lag in lags])
        peaks = [i for i in range(1, len(lags) - 1) if agree[i] >= max(agree[i - 1], agree[i + 1])]
        near = [i for i in peaks if agree[i] > 0.9 * max(agree[peaks])]
        found.append(100 / lags[near[0]])  # the first of equal peaks: its multiples repeat as well
    return float(np.median(found))


@pytest.mark.parametrize(("kind", "slow", "fast"), [
    ("knock", 3.125, 6.25), ("bird", 12.5 / 3, 6.25), ("siren", 12.5 / 6, 3.125), ("rise", 12.5 / 8, 12.5 / 6),
    ("fall", 12.5 / 8, 12.5 / 6), ("bell", 1.25, 12.5 / 6),
])  # fmt: skip
def test_the_rate_of_a_rhythm_is_a_whole_number_of_tokens(kind, slow, fast):
    assert beats_hz(kind, 0.0) == pytest.approx(slow, rel=0.08)
    assert beats_hz(kind, 1.0) == pytest.approx(fast, rel=0.08)


def test_a_token_of_the_world_is_a_token_of_the_models():
    config = VAEConfig()
    assert TOKEN == config.patch * config.steps_per_token * HOP


@pytest.mark.parametrize("kind", ["tone", "siren", "bell", "knock", "wind"])
def test_brightness_moves_the_centroid_up(kind):
    def centroid(brightness):
        wave = synthesise(kind, SAMPLES, 400.0, Qualities(0.5, 0.5, 0.0, brightness), np.random.default_rng(0))
        power = np.abs(np.fft.rfft(wave)) ** 2
        return (power * np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)).sum() / power.sum()

    assert centroid(0.8) > 1.03 * centroid(0.2)
