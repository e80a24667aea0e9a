"""dear evaluate --out: clips of models as folders of wav files, which other tools read too, and their figures.

    OUT/settings.json                            what the clips were made with; other settings are refused
    OUT/reference/audio/00000.wav ...            the recordings, or rendered clips, one a caption, with captions.csv
    OUT/floor/, OUT/<model>/                     the same names; further clips of a caption in more/00000-1.wav ...
    OUT/<any of these>/<embedder>.safetensors    what an embedder heard there
    OUT/metrics.json, OUT/table.md               the figures

captions.csv and audio/ lie side by side, as `dear data write` has them, since audioldm_eval and fadtk take every file
of the folder that they are given for sound.
"""

import csv
import dataclasses
import io
import json
import re
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dear import audio, components
from dear.data import captions as grammar
from dear.data.folder import AudioFolder
from dear.data.latents import stored
from dear.data.soundworld import VERSION, SoundWorld, draw_events, render
from dear.evaluation import ATTRIBUTES, verdict
from dear.log import origin
from dear.metrics.divergence import CONVENTIONS
from dear.metrics.embedders import ClapEmbedder, OracleEmbedder, load_embedder
from dear.metrics.figures import Figure, measure, of_clips, table
from dear.pipeline import TextToAudio

FLOOR = "floor"


class World:
    """Rendered clips of a SoundWorld split and, as the floor, other clips that their captions fit as well."""

    def __init__(self, split: str, count: int, seed: int):
        self.world = SoundWorld(split, count, seed)
        self.captions = [self.world.caption(i) for i in range(count)]
        self.told = {"data": f"soundworld {VERSION}, {split}"}

    def reference(self, i: int, generator: np.random.Generator) -> Tensor:
        """Waveform (40960,) of item i."""
        return torch.from_numpy(self.world[i].waveform)

    def fresh(self, i: int, generator: np.random.Generator) -> Tensor:
        """A waveform (40960,) that the world draws for the caption of item i: what is not stated is drawn anew."""
        relation, said = grammar.parse(self.captions[i])
        while True:  # one draw in 36 has all that a caption can state of two sounds
            events = draw_events(relation, [e["kind"] for e in said], generator)
            if all(e[k] in (None, getattr(event, k)) for e, event in zip(said, events, strict=True) for k in e):
                return torch.from_numpy(render(relation, events, generator))


class Recordings:
    """The first crop of each recording of a folder; held_out: of those alone whose column `fold` says this."""

    def __init__(self, folder: Path, count: int, held_out: str | None):
        found = AudioFolder(folder, progress=True)
        found = found.split("fold", held_out)[1] if held_out is not None else found
        self.waves = [found[i].waveform for i in range(min(count, len(found)))]
        self.captions = [found[i].caption for i in range(len(self.waves))]
        self.told = {"data": f"recordings {components.digest(self.captions, *self.waves)}"}

    def reference(self, i: int, generator: np.random.Generator) -> Tensor:
        """Waveform (40960,) of crop i."""
        return self.waves[i]


def run(
    models: Sequence[str], source: World | Recordings, out: Path, embedders: Sequence[str], *, copies: int = 1,
    seed: int = 0, convention: str = "audioldm_eval", progress: bool = True, **settings,
) -> dict:
    """Write the folders that `out` lacks, then measure all of them; print the tables and return what metrics.json has.

    copies: clips that a model makes for each caption.  settings: what pipelines are called with.  Each clip has a
    generator of its own, made from (seed, caption, copy), and is drawn alone: stopped and called again, or with more
    models, this gives the clips of one uninterrupted call. The figures of a folder are against `reference`; the floor
    is the world's own clips for the same captions, or one half of the recordings against the other.
    """
    began, count, halves = time.monotonic(), len(source.captions), isinstance(source, Recordings)
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}")
    least = (20 if convention == "audioldm_eval" else 2) * (2 if halves else 1)  # inception scores of 10 parts
    if count < least or copies < 1:
        raise ValueError(f"wanted at least {least} captions and 1 clip a caption, got {count} and {copies}")
    hearing = [load_embedder(spec) for spec in embedders]
    pipes = {_folder_name(name): TextToAudio.from_pretrained(name) for name in models}
    if len(pipes) < len(models) or {"reference", FLOOR} & set(pipes):
        raise ValueError(f"models' folders in --out must differ, and from reference and {FLOOR}; got {list(pipes)}")
    told = source.told | {"captions": count, "clips_per_caption": copies, "seed": seed} | settings
    _agree(out / "settings.json", told, {name: _weights(pipe) for name, pipe in pipes.items()})
    jobs = {"reference": (source.reference, 1)} | ({} if halves else {FLOOR: (source.fresh, copies)})
    jobs |= {name: (_drawer(pipe, source.captions, settings), copies) for name, pipe in pipes.items()}
    drawn = {name: _write(out / name, source.captions, draw, n, seed, progress) for name, (draw, n) in jobs.items()}

    found = {"settings": told | {"convention": convention}, "drawn": drawn, "figures": {}}
    for embedder in hearing:
        mark = components.digest([embedder.name], *embedder.model.state_dict().values())
        heard = {name: _hear(embedder, mark, out / name, count, n, progress) for name, (_, n) in jobs.items()}
        text = embedder.text(source.captions) if isinstance(embedder, ClapEmbedder) else None
        rows, reference = {}, heard.pop("reference")
        if halves:
            parts = torch.from_numpy(np.random.default_rng(seed).permutation(count)).chunk(2)
            first, second = ([None if x is None else x[part] for x in (*reference, text)] for part in parts)
            rows[f"{FLOOR}: half against half, {len(parts[0])} clips each"] = measure(
                first[:2], second[:2], paired=False, text=first[2], convention=convention)
        for name in tqdm(heard, f"figures in the features of {embedder.name}", disable=not progress):
            rows[name] = measure(heard[name], reference, copies=jobs[name][1], text=text, convention=convention)
        found["figures"][embedder.name] = rows
    if not halves:
        oracle = OracleEmbedder().model
        found["figures"]["what the oracle hears of what is stated"] = {
            name: _agreement(oracle, _read(out / name, count, 1), source.captions) for name in jobs}
    tables = "\n".join(f"## {name}\n\n{table(rows)}" for name, rows in found["figures"].items())
    found = origin() | {"seconds": round(time.monotonic() - began, 1)} | found
    found["figures"] = {name: {row: {k: dataclasses.astuple(v) for k, v in figures.items()}
                               for row, figures in rows.items()} for name, rows in found["figures"].items()}
    components.write_json(out / "metrics.json", found)
    components.write_text(out / "table.md", tables)
    print(f"{count} captions; values with 95 % bootstrap intervals; KL and inception score as {convention} has them\n")
    print(tables)
    print(f"{found['seconds']:.0f} s; figures in {out / 'metrics.json'} and {out / 'table.md'}")
    return found


def _agree(path: Path, settings: dict, models: dict[str, str]) -> None:
    """Write settings and models' weights; ValueError if others are there, which models that are new are not."""
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        known = there.pop("models")
        changed = sorted(k for k in settings.keys() | there.keys() if settings.get(k) != there.get(k))
        changed += [f"weights of {name}" for name, mark in models.items() if known.get(name, mark) != mark]
        if changed:
            raise ValueError(f"{path} was written with other {', '.join(changed)}: choose another --out")
        models = known | models
    components.write_json(path, settings | {"models": models})


def _folder_name(name: str) -> str:
    """The name of a model's folder in OUT: a path or a hub name in one word."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")


def _weights(pipe: TextToAudio) -> str:
    parts = [part for part in (pipe.text, pipe.backbone, pipe.head, pipe.vae, pipe.vocoder)
             if isinstance(part, torch.nn.Module)]
    return components.digest([repr(pipe.settings)], *(v for part in parts for v in part.state_dict().values()))


def _drawer(pipe: TextToAudio, captions: Sequence[str], settings: dict) -> Callable[..., Tensor]:
    def draw(i: int, generator: np.random.Generator) -> Tensor:
        noise = torch.Generator().manual_seed(int(generator.integers(2**63)))
        return pipe(captions[i], generator=noise, **settings).audios[0]

    return draw


def _paths(folder: Path, count: int, copies: int) -> list[Path]:
    return [folder / (f"more/{i:05d}-{k}.wav" if k else f"audio/{i:05d}.wav")
            for i in range(count) for k in range(copies)]


def _write(folder: Path, captions: Sequence[str], draw: Callable, copies: int, seed: int, progress: bool) -> dict:
    """Draw the clips that the folder lacks; captions.csv comes last, so that half a folder has none."""
    began, paths = time.monotonic(), _paths(folder, len(captions), copies)
    lacking, loud = [place for place, path in enumerate(paths) if not path.is_file()], 0
    for place in tqdm(lacking, f"{folder.name}: clips", disable=not progress or not lacking):
        i, copy = divmod(place, copies)
        paths[place].parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            audio.write(paths[place], draw(i, np.random.default_rng([seed, i, copy])))
        loud += any("leaves [-1, 1]" in str(w.message) for w in told)  # a note a clip would bury the bar
        for w in told:
            if "leaves [-1, 1]" not in str(w.message):
                warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)
    if loud:
        print(f"{folder.name}: {loud} of {len(lacking)} clips left [-1, 1] and were scaled down to peak 1")
    text = io.StringIO()
    csv.writer(text).writerows([("filename", "caption"), *((f"{i:05d}.wav", c) for i, c in enumerate(captions))])
    components.write_text(folder / "captions.csv", text.getvalue())
    return {"clips": len(lacking), "seconds": round(time.monotonic() - began, 1)}


def _read(folder: Path, count: int, copies: int) -> Tensor:
    return torch.stack([audio.read(path) for path in _paths(folder, count, copies)])


def _hear(embedder, mark: str, folder: Path, count: int, copies: int, progress: bool) -> tuple[Tensor, Tensor | None]:
    """What the embedder hears, read from the folder if the same weights, of this `mark`, have heard the same waves."""
    path, waves = folder / f"{_folder_name(embedder.name)}.safetensors", _read(folder, count, copies)
    mark = components.digest([mark], waves)
    if not (found := stored(path, mark)):
        features, classes = embedder.hear(waves, progress)
        found = {"features": features} | ({} if classes is None else {"classes": classes})
        components.write_tensors(path, found, {"fingerprint": mark})
    return found["features"], found.get("classes")


@torch.no_grad()
def _agreement(oracle, waves: Tensor, captions: Sequence[str]) -> dict[str, Figure]:
    """Share of what captions state that the oracle hears, by attribute, and of clips in which it hears all of it."""
    labels = torch.cat([oracle.read(audio.log_mel(batch)) for batch in waves.split(128)]).tolist()
    verdicts = [verdict(row, caption) for row, caption in zip(labels, captions, strict=True)]
    found = {}
    for name in ATTRIBUTES:
        stated = [v.right[name] for v in verdicts if v.right[name]]
        if len(stated) > 1:
            found[name] = of_clips([np.mean(right) for right in stated], [len(right) for right in stated])
    return found | {"everything": of_clips([v.agrees for v in verdicts])}
