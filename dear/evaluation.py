"""Does a clip hold what its caption says? Agreement by the oracle, and Frechet distance in its features."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from dear import components
from dear.data import captions as grammar
from dear.data.cache import rendered
from dear.data.soundworld import KINDS, LOUDNESSES, PITCHES, RELATIONS, combination, combinations
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


@torch.no_grad()
def score(log_mels: torch.Tensor, captions: Sequence[str], oracle: Oracle, reference: torch.Tensor) -> dict:
    """Agreement and Frechet distance of log-mels (n, T, 64) made for captions, against reference (m, T, 64)."""
    features = [torch.cat([oracle.features(x) for x in mels.split(128)]) for mels in (log_mels, reference)]
    labels = torch.cat([oracle.read(x) for x in log_mels.split(128)])
    return {**agreement(labels, captions), "frechet": frechet_distance(*features), "clips": len(captions)}


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
    reference, floor = reference.log_mels(range(len(reference))), clips.log_mels(range(count))
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
    return rows
