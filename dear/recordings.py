"""Real recordings: their log-mels for the trainings, and a report of what the models trained on them have learned."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dear.audio import log_mel
from dear.blocks import seeded
from dear.data.folder import AudioFolder
from dear.evaluation import generate
from dear.head import AdaLNHead
from dear.listener import LISTENER, hear, train_listener
from dear.metrics.features import features_of
from dear.metrics.frechet import frechet_distance
from dear.oracle import blur
from dear.pipeline import TextToAudio
from dear.vocoder import griffin_lim

CROPS = 4  # of each recording, for the trainings as for the report
CONFUSIONS = ("held-out recordings", "teacher", "student")  # the rows whose confusion is kept


class RecordedMels:
    """Log-mels (size, 256, 64) and captions of an AudioFolder, with `log_mels(indices)` as RenderedSplit has it.

    `names` and `meta` hold the filename and the other columns of each crop.
    """

    def __init__(self, folder: AudioFolder):
        clips = [folder[i] for i in range(len(folder))]
        self.mels = torch.cat([log_mel(torch.stack([c.waveform for c in clips[i : i + 64]]))
                               for i in range(0, len(clips), 64)])
        self.captions = [c.caption for c in clips]
        self.names = [c.name for c in clips]
        self.meta = [c.meta for c in clips]

    def __len__(self) -> int:
        return len(self.captions)

    def log_mels(self, indices) -> torch.Tensor:
        """Log-mels (B, 256, 64) float32 of the given crops."""
        return self.mels[torch.as_tensor(indices)]

    def column(self, name: str) -> list[str]:
        """Cells of a column of captions.csv, one a crop; ValueError if it is not there or a cell is empty."""
        cells = [row.get(name) for row in self.meta]
        for cell, file in zip(cells, self.names, strict=True):
            if not cell:
                there = ", ".join(self.meta[0]) or "none but filename and caption"
                raise ValueError(f"captions.csv must have a {name} for every file, {file} has none; columns: {there}")
        return cells


def report(folder: Path, models: Path, runs: Path, held_out: str, *, label: str = "label",
           steps: int = LISTENER.steps, progress: bool = True) -> dict:
    """Compare held-out recordings, VAE, teacher and student, as heard by listeners trained on the other folds.

    Needs the columns `fold` and `label` in captions.csv. Each model makes one clip for the caption of every held-out
    crop, and all of them count. Three listeners differ by their seed alone: "frechet" is the mean, the least and the
    most of the three; classes are heard by the three together. `steps` is the length of their training, in `runs`.
    Prints a line a row and returns the record.
    """
    started = time.perf_counter()
    data = RecordedMels(AudioFolder(folder, crops_per_clip=CROPS, progress=progress))
    labels, known, test = _split(data, label, held_out)
    listeners = [train_listener(data.mels[known], [labels[i] for i in known], runs / f"listener{seed}",
                                replace(LISTENER, steps=steps, seed=seed), progress) for seed in range(3)]
    classes = listeners[0].config.classes
    wanted = torch.tensor([classes.index(labels[i]) for i in test])
    features = [features_of(net, data.mels) for net in listeners]
    rows = {name: {"frechet": _frechet(pairs)} for name, pairs in _floors(features, data.names, known, test).items()}
    for name, mels in clips(data, test, models, progress).items():
        answers = hear(listeners, mels)
        pairs = [(features_of(net, mels), every[test]) for net, every in zip(listeners, features, strict=True)]
        right = round((answers == wanted).double().mean().item(), 3)
        rows[name] = {"frechet": _frechet(pairs), "heard as wanted": right}
        if name in CONFUSIONS:
            rows[name]["confusion"] = _confusion(wanted.tolist(), answers.tolist(), classes)
    _tell(rows, classes)
    trainings = {path.parent.name: _training(path) for path in sorted(runs.glob("*/metrics.jsonl"))}
    return {
        "seconds": round(time.perf_counter() - started),
        "data": {"recordings": len(set(data.names)), "held out": len({data.names[i] for i in test}),
                 "training crops": len(known), "held-out crops": len(test)},
        "trainings": trainings, "classes": classes, "clips": rows,
    }


def _split(data: RecordedMels, label: str, held_out: str) -> tuple[list[str], Tensor, Tensor]:
    """Labels of all crops, and the indices of the known and of the held-out ones."""
    labels, folds = data.column(label), data.column("fold")
    out = torch.tensor([fold == str(held_out) for fold in folds])
    if out.all() or not out.any():
        raise ValueError(f"holding out fold {held_out} leaves one part empty; folds are {sorted(set(folds))}")
    known, test = (~out).nonzero()[:, 0], out.nonzero()[:, 0]
    if missing := {labels[i] for i in test} - {labels[i] for i in known}:
        raise ValueError(f"only fold {held_out} has the {label} {', '.join(sorted(missing))}; no listener can learn it")
    return labels, known, test


def _floors(features: Sequence[Tensor], names: Sequence[str], known: Tensor, test: Tensor) -> dict[str, list]:
    """Pairs of features that differ by nothing but the recordings they come from.

    The other folds are what the listeners were trained on, where they tell classes apart more clearly than in new
    recordings. The halves of the held-out recordings are new, but few, which makes the distance larger.
    """
    generator = torch.Generator().manual_seed(0)
    some = known[torch.randperm(len(known), generator=generator)[: len(test)]]
    files, halves = sorted({names[i] for i in test}), []
    for _ in range(10):
        first = {files[i] for i in torch.randperm(len(files), generator=generator)[: len(files) // 2]}
        half = torch.tensor([names[i] in first for i in test])
        halves += [(every[test[half]], every[test[~half]]) for every in features]
    return {"recordings of the other folds": [(every[some], every[test]) for every in features],
            "held-out recordings, half against half": halves}


@torch.no_grad()
def clips(data: RecordedMels, test: Tensor, models: Path, progress: bool = True) -> dict[str, Tensor]:
    """Log-mels (n, T, 64) by name: the held-out crops `test` (n,) as they are and changed, both models, and controls.

    The student's start has the teacher's backbone and a fresh head, as its training has.
    """
    student, teacher = (TextToAudio.from_pretrained(models / name) for name in ("student", "teacher"))
    captions, real, generator = [data.captions[i] for i in test], data.mels[test], torch.Generator().manual_seed(0)
    with seeded(0):
        head = AdaLNHead(student.head.config)
    start = TextToAudio(teacher.text, teacher.backbone, head, teacher.vae, student.settings)
    vae, made = student.vae, generate(student, captions, progress=progress)
    tokens = vae.encode(real, generator)
    return {
        "held-out recordings": real,
        "... blurred over 5 frames x 3 bins": blur(real, torch.ones(len(real))),
        "... through the vocoder": _vocoded(real, generator),
        "... through the VAE": vae.decode(tokens, generator),
        "teacher": generate(teacher, captions, progress=progress),
        "student": made,
        "student, through the vocoder": _vocoded(made, generator),
        "student before its training": generate(start, captions, progress=progress),
        "noise as tokens": vae.decode(torch.randn(tokens.shape, generator=generator), generator),
    }


def _vocoded(mels: Tensor, generator: torch.Generator) -> Tensor:
    return torch.cat([log_mel(griffin_lim(part, generator).clamp(-1, 1)) for part in mels.split(50)])


def _frechet(pairs) -> list[float]:
    """Mean, least and most."""
    found = [frechet_distance(x, y) for x, y in pairs]
    return [round(float(value), 2) for value in (np.mean(found), min(found), max(found))]


def _confusion(wanted: Sequence[int], heard: Sequence[int], classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Number of clips by the class that was wanted, then by the class that was heard; zeros are left out."""
    counts = Counter(zip(wanted, heard, strict=True))
    return {row: {column: counts[i, j] for j, column in enumerate(classes) if counts[i, j]}
            for i, row in enumerate(classes)}


def _tell(rows: dict, classes: Sequence[str]) -> None:
    print(f"{'':40}{'Frechet distance to held-out':>30}{'heard as wanted':>18}")
    for name, row in rows.items():
        mean, least, most = row["frechet"]
        heard = f"{row['heard as wanted']:>18.3f}" if "heard as wanted" in row else ""
        print(f"{name:40}{f'{mean:.2f} ({least:.2f} to {most:.2f})':>30}{heard}")
    print("student's clips: a row for each class wanted, a column for each class heard")
    for name, line in rows["student"]["confusion"].items():
        print(f"{name:>16}", "".join(f"{line.get(heard, 0):>5}" for heard in classes))


def _training(log: Path) -> dict:
    """Steps, seconds, and the figures of a training: at its first logged step, and the mean of its last five."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    first, last = lines[0], lines[-5:]
    names = [name for name in first if name not in ("step", "seconds", "gradient_norm", "gradient_ratio")]
    return {"steps": last[-1]["step"], "seconds": last[-1]["seconds"],
            f"at step {first['step']}": {name: first[name] for name in names},
            f"at steps {last[0]['step']} to {last[-1]['step']}":
                {name: round(float(np.mean([line[name] for line in last])), 4) for name in names}}
