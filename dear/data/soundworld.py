"""SoundWorld: short synthetic sounds whose description is exactly known, a CLEVR for audio.

A clip holds one event, two in a row ("A then B"), or two at once ("A while B"). What a caption can say (kind, pitch
register, loudness, relation) is a label. What it cannot say (exact pitch, rate and phase of a rhythm, brightness,
room) is drawn once a clip and shared over time, so that the parts of an event must agree. Noise, jitter and
reverberation differ everywhere, so that a part stays uncertain even when all the others are known.
"""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from dear.data import captions
from dear.data.synthesis import SAMPLE_RATE, Qualities, add_room, synthesise

VERSION = 5
SAMPLES = 40_960
KINDS = tuple(captions.KINDS)
PITCHES = tuple(captions.PITCHES)
LOUDNESSES = tuple(captions.LOUDNESSES)
RELATIONS = tuple(captions.RELATIONS)
SPLITS = ("train", "validation", "test", "oracle")
HELD_OUT = {"then": 25, "while": 11}  # combinations; a fifth of each relation
# Shares of single, then, while: of all splits, and of the training split, where the hardest is the most frequent.
_SHARES = ((0.25, 0.375, 0.375), (0.2, 0.3, 0.5))
_PEAK = {"quiet": (0.055, 0.075), "loud": (0.34, 0.44)}
_REGISTER = {"low": 150.0, "middle": 500.0, "high": 1700.0}


@dataclass(frozen=True)
class Event:
    """One source of sound: what a caption can say of it, and the qualities that it cannot."""

    kind: str
    pitch: str
    loudness: str
    qualities: Qualities


@dataclass(frozen=True)
class Clip:
    """One item: waveform (40960,) float32 at 16 kHz, caption, and the exact scene that it was made from."""

    waveform: np.ndarray
    caption: str
    relation: str
    events: tuple[Event, ...]

    @property
    def labels(self) -> np.ndarray:
        """Class indices (7,) int64: relation, then kind, pitch, loudness of both slots; -1 for an empty slot.

        Slots are in order of time for "then", in order of pitch for "while" (whose two registers always differ).
        """
        return scene_labels(self.relation, self.events)

    @property
    def qualities(self) -> np.ndarray:
        """Hidden qualities (2, 3) float32 in [0, 1] of both slots: place in the register, rate, brightness."""
        rows = np.full((2, 3), np.nan, np.float32)
        for row, event in zip(rows, ordered(self.relation, self.events), strict=False):
            row[:] = (event.qualities.position, event.qualities.rate, event.qualities.brightness)
        return rows

    @property
    def combination(self) -> tuple[str, ...]:
        """(relation, kind, kind), the kinds sorted where their order does not matter."""
        return combination(self.relation, [event.kind for event in self.events])


def ordered(relation: str, events) -> list:
    """Events in slot order: as they sound for "then", from low to high for "while"."""
    return sorted(events, key=lambda e: PITCHES.index(e.pitch)) if relation == "while" else list(events)


def scene_labels(relation: str, events) -> np.ndarray:
    """Class indices (7,) of a scene; see `Clip.labels`."""
    labels = np.full(7, -1, np.int64)
    labels[0] = RELATIONS.index(relation)
    for slot, event in enumerate(ordered(relation, events)):
        labels[1 + 3 * slot : 4 + 3 * slot] = (
            KINDS.index(event.kind), PITCHES.index(event.pitch), LOUDNESSES.index(event.loudness))
    return labels


def combination(relation: str, kinds) -> tuple[str, ...]:
    """Key of a (relation, kind, kind) combination; "while" does not know an order."""
    return (relation, *(sorted(kinds) if relation == "while" else kinds))


def combinations() -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """(seen, unseen) combinations of two events; a fixed fifth of each relation is held out of training whole."""
    pairs = {"then": list(product(KINDS, KINDS)), "while": [(a, b) for a, b in product(KINDS, KINDS) if a < b]}
    rng, seen, unseen = np.random.default_rng(7), [], []
    for relation, kinds in pairs.items():
        held = set(rng.permutation(len(kinds))[: HELD_OUT[relation]].tolist())
        for i, pair in enumerate(kinds):
            (unseen if i in held else seen).append((relation, *pair))
    return seen, unseen


class SoundWorld:
    """Clips of one split; item i depends on (version, seed, split, i) alone, so any item can be made by itself.

    `split` is "train", "validation", "test" or "oracle". Training and validation hold the seen combinations only; of
    the test split every second item (odd i) is an unseen combination. The oracle is a measuring instrument, not a
    contestant: it learns from a split of its own, which holds all combinations.
    """

    def __init__(self, split: str, size: int, seed: int = 0):
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.split, self.size, self.seed = split, size, seed
        self._seen, self._unseen = combinations()
        self._pool = self._seen + self._unseen if split == "oracle" else self._seen

    def __len__(self) -> int:
        return self.size

    def scene(self, i: int) -> tuple[str, tuple[Event, ...], np.random.Generator]:
        """Relation, events and the generator that goes on to render item i."""
        if not 0 <= i < self.size:
            raise IndexError(f"item {i} of a split with {self.size} items")
        rng = np.random.default_rng([VERSION, self.seed, SPLITS.index(self.split), i])
        if self.split == "test" and i % 2:
            relation, *kinds = self._unseen[rng.integers(len(self._unseen))]
        elif (wanted := str(rng.choice(RELATIONS, p=_SHARES[self.split == "train"]))) == "single":
            relation, kinds = "single", [KINDS[rng.integers(len(KINDS))]]
        else:
            pool = [pair for pair in self._pool if pair[0] == wanted]
            relation, *kinds = pool[rng.integers(len(pool))]
        return relation, draw_events(relation, kinds, rng), rng

    def __getitem__(self, i: int) -> Clip:
        relation, events, rng = self.scene(i)
        text = _caption(relation, events, rng)
        return Clip(render(relation, events, rng), text, relation, events)

    def twin(self, i: int) -> Clip:
        """Another clip with every label of item i: hidden qualities are drawn anew, caption and sound too."""
        relation, events, _ = self.scene(i)
        rng = np.random.default_rng([VERSION, self.seed, SPLITS.index(self.split), i, 1])
        events = tuple(replace(event, qualities=Qualities.draw(rng)) for event in events)
        text = _caption(relation, events, rng)
        return Clip(render(relation, events, rng), text, relation, events)

    def caption(self, i: int) -> str:
        """Caption of item i without the cost of its sound."""
        return _caption(*self.scene(i))


def _caption(relation: str, events, rng) -> str:
    phrases = [captions.describe(e, rng, rng.random() < 0.85, rng.random() < 0.7) for e in events]
    return captions.caption(relation, phrases, rng)


def draw_events(relation: str, kinds, rng) -> tuple[Event, ...]:
    """Events of the given kinds with random attributes that stay tellable apart.

    The two registers of "while" differ (else one would hide the other), and "then" never repeats the same sound.
    """
    while True:
        pitches = [PITCHES[j] for j in rng.integers(len(PITCHES), size=len(kinds))]
        same = len(kinds) == 2 and pitches[0] == pitches[1]
        if not (same and (relation == "while" or kinds[0] == kinds[1])):
            break
    return tuple(Event(kind, pitch, LOUDNESSES[rng.integers(2)], Qualities.draw(rng))
                 for kind, pitch in zip(kinds, pitches, strict=True))


def render(relation: str, events, rng: np.random.Generator) -> np.ndarray:
    """Waveform (40960,) float32 of a scene; its peak stays under 1 without any normalisation."""
    wave = np.zeros(SAMPLES, np.float32)
    cut = SAMPLES // 2 + int(rng.choice((-1280, 0, 1280)))
    spans = [(0, SAMPLES)] * 2 if relation != "then" else [(0, cut - 640), (cut + 640, SAMPLES)]
    for event, (start, stop) in zip(events, spans, strict=False):
        start, stop = start + int(rng.integers(0, 240)), stop - int(rng.integers(400, 1600))
        centre = _REGISTER[event.pitch] * 2.0**event.qualities.position
        sound = synthesise(event.kind, stop - start, centre, event.qualities, rng)
        wave[start:stop] += sound * (rng.uniform(*_PEAK[event.loudness]) / np.abs(sound).max())
    return add_room(wave, rng)


__all__ = ["SAMPLE_RATE", "Clip", "Event", "SoundWorld", "combinations", "render"]
