"""Does a clip hold what its caption says? Agreement by the oracle, and Frechet distance in its features."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from dear import components
from dear.audio import SAMPLE_RATE, mel_filters
from dear.data import captions as grammar
from dear.data.cache import rendered
from dear.data.soundworld import KINDS, LOUDNESSES, PITCHES, RELATIONS, combination, combinations
from dear.metrics.features import features_of
from dear.metrics.frechet import frechet_distance
from dear.oracle import Oracle, OracleConfig
from dear.pipeline import TextToAudio

ATTRIBUTES = ("relation", "kind", "pitch", "loudness")
_VALUES = {"kind": KINDS, "pitch": PITCHES, "loudness": LOUDNESSES}


@dataclass(frozen=True)
class Verdict:
    """What the oracle heard against what the caption states: `right` holds one bool for every stated attribute."""

    heard: str
    right: dict[str, list[bool]]

    @property
    def agrees(self) -> bool:
        """Whether everything that the caption states was heard."""
        return all(all(values) for values in self.right.values())

    def __str__(self) -> str:
        missed = [name for name, values in self.right.items() if not all(values)]
        return f"heard {self.heard}: " + ("all right" if self.agrees else f"wrong {', '.join(missed)}")


def verdict(labels: Sequence[int], caption: str) -> Verdict:
    """Compare labels (7,) that the oracle read with a caption of the grammar.

    Events of "while" are matched in the order that fits better, since both orders say the same. An event that is
    missing counts as wrong in all that was stated of it.
    """
    relation, events = grammar.parse(caption)
    heard = [_event(labels[i : i + 3]) for i in (1, 4) if labels[i] >= 0]
    slots = [*heard, {}][:2]  # an event that is missing was heard as nothing
    orders = [slots, slots[::-1]] if relation == "while" else [slots]
    best = max((_compare(events, order) for order in orders), key=lambda found: sum(map(sum, found.values())))
    told = f" {RELATIONS[labels[0]]} ".join(f"{e['loudness']} {e['pitch']} {e['kind']}" for e in heard)
    return Verdict(told, {"relation": [RELATIONS[labels[0]] == relation], **best})


def _event(classes) -> dict[str, str]:
    return {name: values[int(c)] for (name, values), c in zip(_VALUES.items(), classes, strict=True)}


def _compare(events, heard) -> dict[str, list[bool]]:
    return {
        name: [got.get(name) == event[name] for event, got in zip(events, heard, strict=False) if event[name]]
        for name in _VALUES
    }


def is_unseen(caption: str) -> bool:
    """Whether the caption's combination of kinds and relation was held out of training."""
    relation, events = grammar.parse(caption)
    return combination(relation, [e["kind"] for e in events]) in set(combinations()[1])


def agreement(labels, captions: Sequence[str]) -> dict[str, dict[str, float]]:
    """Share of stated attributes that the oracle heard, for "all", "seen" and "unseen" combinations.

    labels: (n, 7), as `Oracle.read` gives them.  "everything" is the share of clips in which all that is stated was
    heard. A group without a clip is left out; an attribute that no caption of a group states is NaN.
    """
    rows = [(is_unseen(c), verdict(row, c)) for row, c in zip(labels.tolist(), captions, strict=True)]
    groups = {"all": rows, "seen": [r for r in rows if not r[0]], "unseen": [r for r in rows if r[0]]}
    found = {}
    for name, group in groups.items():
        if group:
            found[name] = {a: _share([ok for _, v in group for ok in v.right[a]]) for a in ATTRIBUTES}
            found[name]["everything"] = _share([v.agrees for _, v in group])
    return found


def _share(right: list[bool]) -> float:
    return sum(right) / len(right) if right else float("nan")


def signals(log_mels: torch.Tensor, captions: Sequence[str]) -> dict[str, float]:
    """Checks of log-mels (n, T, 64) that know nothing of the oracle; shares of the captions that state enough.

    "pitch": single events whose strongest band lies in the stated register.  "order by pitch", "order by level": of
    "A then B" with two stated, different pitches or loudnesses, those whose first and last two fifths differ the same
    way in their strongest band, or in power. Rendered clips give what such plain checks can reach. NaN: none states it.
    """
    found = {"pitch": [], "order by pitch": [], "order by level": []}
    for mel, caption in zip(log_mels, captions, strict=True):
        relation, events = grammar.parse(caption)
        pitches, levels = ([names.index(e[k]) if e[k] else None for e in events]
                           for k, names in (("pitch", PITCHES), ("loudness", LOUDNESSES)))
        power, part = (2 * mel).exp(), 2 * len(mel) // 5
        first, last = power[:part].mean(0), power[-part:].mean(0)
        if relation == "single" and pitches[0] is not None:
            found["pitch"].append(_register(power.mean(0)) == pitches[0])
        if relation == "then" and None not in pitches and pitches[0] != pitches[1]:
            found["order by pitch"].append(bool(first.argmax() < last.argmax()) == (pitches[0] < pitches[1]))
        if relation == "then" and None not in levels and levels[0] != levels[1]:
            found["order by level"].append(bool(first.sum() < last.sum()) == (levels[0] < levels[1]))
    return {name: _share(right) for name, right in found.items()}


def _register(power: torch.Tensor) -> int:
    """The pitch (0 low, 1 middle, 2 high) whose register is nearest to the strongest of 64 mel bands."""
    filters = mel_filters()
    strongest = float(filters[power.argmax()].argmax()) * SAMPLE_RATE / 2 / (filters.shape[1] - 1)
    return sum(strongest > (high * low) ** 0.5 for high, low in ((300, 500), (1000, 1700)))  # gaps of the registers


@torch.no_grad()
def score(log_mels: torch.Tensor, captions: Sequence[str], oracle: Oracle, reference: torch.Tensor) -> dict:
    """Agreement and Frechet distance of log-mels (n, T, 64) made for captions, against other clips' features (m, F)."""
    labels = torch.cat([oracle.read(x) for x in log_mels.split(128)])
    distance = frechet_distance(features_of(oracle, log_mels), reference)
    found = {"signals": signals(log_mels, captions), "frechet": distance, "clips": len(captions)}
    return agreement(labels, captions) | found


@torch.no_grad()
def generate(
    pipe, captions: Sequence[str], seed: int = 0, batch: int = 50, progress: bool = True, **settings
) -> torch.Tensor:
    """Log-mels (n, T, 64) of a model for captions; batch k of the list draws from a generator of its own."""
    found = []
    for start in tqdm(range(0, len(captions), batch), "generating", disable=not progress):
        generator = torch.Generator(next(pipe.backbone.parameters()).device).manual_seed(seed * 1_000_003 + start)
        tokens = pipe.tokens(captions[start : start + batch], generator, **settings)
        found.append(pipe.vae.decode(tokens, generator))
    return torch.cat(found)


def report(models: Sequence[str], count: int = 500, split: str = "test", seed: int = 0, **settings) -> list[dict]:
    """Score rendered clips (the floor), their VAE reconstructions and models on the same captions; print as it goes.

    The Frechet distance is against 2000 other rendered clips of the split.
    """
    oracle = components.load(Oracle, OracleConfig, components.WEIGHTS / "oracle")
    clips = rendered(split, count, seed)
    reference = rendered(split, 2000, seed + 1)
    reference, floor = features_of(oracle, reference.log_mels(range(len(reference)))), clips.log_mels(range(count))
    pipes = {name: TextToAudio.from_pretrained(name) for name in models}
    vae = next(iter(pipes.values())).vae
    rows, generator = [], torch.Generator().manual_seed(seed)
    print(f"{count} captions of the {split} split; share of stated attributes heard; all / unseen combinations")
    print(f"{'':36}{'relation':>16}{'kind':>16}{'pitch':>16}{'loudness':>16}{'Frechet':>9}")
    with torch.no_grad():
        rebuilt = torch.cat([vae.decode(vae.encode(x, generator), generator) for x in floor.split(50)])
    for name, mels in (("rendered clips", floor), ("VAE reconstructions", rebuilt), *((name, None) for name in pipes)):
        start = time.perf_counter()
        if mels is None:
            mels = generate(pipes[name], clips.captions, seed, **settings)
        row = {"model": name, **score(mels, clips.captions, oracle, reference), "seconds": time.perf_counter() - start}
        other = row.get("unseen", row["all"])
        cells = "".join(f"{row['all'][a]:>9.3f} /{other[a]:>5.3f}" for a in ATTRIBUTES)
        print(f"{name:36}{cells}{row['frechet']:>9.2f}", flush=True)
        rows.append(row)
    print("\nwithout the oracle: strongest band in the stated register; order of two events by pitch, by level")
    for row in rows:
        print(f"{row['model']:36}" + "".join(f"{value:>16.3f}" for value in row["signals"].values()))
    return rows
