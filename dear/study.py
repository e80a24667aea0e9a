"""dear study: short students that differ in one thing, and the shipped models drawn from in many ways.

Every run is one line of a record. Started again, the command does what is missing; settings that two studies share
are run once. All on the validation split, so that the test split stays unseen by whoever chooses from these records.
"""

import dataclasses
import json
import shutil
import time
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from dear import components
from dear.blocks import fastest_device
from dear.data.cache import rendered
from dear.data.soundworld import VERSION
from dear.evaluation import generate, score
from dear.log import Record
from dear.metrics.features import features_of
from dear.metrics.similarity import mean_distance
from dear.oracle import Oracle, OracleConfig
from dear.pipeline import TextToAudio, fingerprint
from dear.recipes import STUDENT, Workshop, soundworld_clips, train_student

_BASE = {"distillation_weight": 1000.0, "layers": "last", "from_scratch": False, "freeze": False}
_SCRATCH = {"from_scratch": True}
STUDENTS = {  # what each student of a study has other than _BASE
    "lambda": [{"distillation_weight": float(w)} for w in (0, 10, 100, 1000, 5000)],
    "initialisation": [{}, {"distillation_weight": 0.0}, _SCRATCH, _SCRATCH | {"distillation_weight": 0.0},
                       {"freeze": True, "distillation_weight": 0.0}],
    "layers": [{}, {"layers": "all"}],
}
SHORT = dataclasses.replace(STUDENT, batch_size=16)  # of their trainings; half of the shipped student's batch
GUIDANCES = (1.0, 2.0, 3.0)
ITERATIONS = (1, 2, 4, 8, 16, 32)
SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
MODELS = {"student": {}, "teacher": {"sampling_steps": 25}}
SAMPLES = 4  # clips a caption, for the spread


class Judge:
    """Scores a model on `captions` captions of the validation split; it draws, and stays, on the fastest device."""

    def __init__(self, models: Path, captions: int):
        self.oracle = components.load(Oracle, OracleConfig, models / "oracle")
        self.clips, others = rendered("validation", captions), rendered("validation", 2000, seed=1)
        self.captions = self.clips.captions
        self.reference = features_of(self.oracle, others.log_mels(range(len(others))))

    def __call__(self, pipe: TextToAudio, **settings) -> dict:
        """Shares of stated attributes that the oracle hears, Frechet distance to 2000 other clips, seconds to draw."""
        began = time.monotonic()
        mels = generate(pipe.to(fastest_device()), self.captions, progress=False, **settings).cpu()
        return {"draw_seconds": round(time.monotonic() - began, 1)} | self._scores(mels)

    def floor(self) -> dict:
        """The same of the clips that were rendered with the captions, which no model can beat but by chance."""
        return self._scores(self.clips.log_mels(range(len(self.clips))))

    def _scores(self, mels: Tensor) -> dict:
        found = score(mels, self.captions, self.oracle, self.reference)
        return found["all"] | {"frechet": found["frechet"], "captions": len(self.captions)}

    @torch.no_grad()
    def spread(self, pipe: TextToAudio, captions: int, **settings) -> float:
        """How far clips of one caption lie apart: mean distance of their oracle features, `SAMPLES` clips each."""
        prompts = [c for c in self.captions[:captions] for _ in range(SAMPLES)]
        settings |= {"seed": 1 + settings.get("seed", 0)}
        mels = generate(pipe.to(fastest_device()), prompts, progress=False, **settings).cpu()
        return mean_distance(features_of(self.oracle, mels).unflatten(0, (-1, SAMPLES)))


def judged_by(models: Path) -> str:
    """First 12 hex digits of the hash of what decides a score besides the model: the oracle and the world's version."""
    oracle = components.load(Oracle, OracleConfig, models / "oracle")
    return components.digest([f"soundworld {VERSION}"], *oracle.state_dict().values())


def score_name(scale: float, calls: int = 1) -> str:
    """What a line calls the scores of a model drawn with a guidance scale and so many calls of the head a token."""
    return (f"{calls} calls " if calls > 1 else "") + f"guidance {scale:g}"


def settings_of(study: str, steps: int, seeds: int, captions: int) -> list[dict]:
    """The keys of a study's students: settings, length, seed, and on how many captions they are scored."""
    told = {"steps": steps, "batch_size": SHORT.batch_size, "captions": captions}
    return [_BASE | changes | told | {"seed": seed} for changes in STUDENTS[study] for seed in range(seeds)]


def study_students(study: str, models: Path, runs: Path, record: Path, *, steps: int, seeds: int, captions: int,
                   data=None, progress: bool = True) -> list[dict]:
    """Train and score the students of a study that the record lacks; returns the lines of all of them.

    models: folder with oracle, vae, text and teacher, which is copied into `runs`.  data: clips to train on, None:
    SoundWorld's training split.
    """
    lines, teacher = Record(record), fingerprint(models / "teacher")
    keys = [key | {"teacher": teacher} for key in settings_of(study, steps, seeds, captions)]

    @cache
    def tools() -> tuple[Workshop, Judge]:
        return workshop(models, runs / teacher, data, progress), Judge(models, captions)

    def made(key: dict) -> dict:
        if progress:
            print(f"student {keys.index(key) + 1} of {len(keys)}: {key}", flush=True)
        return _student(*tools(), key)

    list(lines.make_all((key, partial(made, key)) for key in keys))
    return [lines.find(key) for key in keys]


def workshop(models: Path, runs: Path, data, progress: bool) -> Workshop:
    out = runs / "models"
    for part in ("vae", "text", "teacher"):
        if not (out / part).exists():
            try:
                with components.beside(out / part) as draft:
                    shutil.copytree(models / part, draft)
            except OSError:  # another process copied the same part first
                if not (out / part).exists():
                    raise
    return Workshop(soundworld_clips() if data is None else data, runs, out, progress)


def _student(shop: Workshop, judge: Judge, key: dict) -> dict:
    """Train one student and score it: the end of its log, and what the oracle hears at each guidance."""
    began = time.monotonic()
    chosen = {name: key[name] for name in _BASE}
    name = "-".join(str(value) for value in (*chosen.values(), key["steps"], key["seed"]))
    config = dataclasses.replace(SHORT, steps=key["steps"], seed=key["seed"])
    folder = train_student(shop, config, name=name, **chosen)
    log = [json.loads(line) for line in (shop.runs / name / "metrics.jsonl").read_text().splitlines()]
    tail = log[-max(1, len(log) // 10) :]
    figures = {k: sum(row[k] for row in tail) / len(tail) for k in tail[0] if k not in ("step", "seconds")}
    pipe = TextToAudio.from_pretrained(folder)
    scores = {score_name(w): judge(pipe, guidance_scale=w) for w in GUIDANCES}
    return {"log": figures, **scores, "seconds": round(time.monotonic() - began, 1)}


def ways_to_draw() -> list[dict]:
    """The settings of the study of guidance: a grid of iterations and scale, then one change at a time.

    The last ones change the seed alone: how far figures differ by chance.
    """
    usual = {"num_inference_steps": 16, "decoding_schedule": "cosine", "guidance": "own",
             "guidance_schedule": "constant", "temperature": 1.0, "temperature_schedule": "constant", "seed": 0}
    grid = [usual | {"num_inference_steps": n, "guidance_scale": w} for n in ITERATIONS for w in SCALES]
    for change in ({"guidance": "other"}, {"guidance_schedule": "linear"}):
        grid += [usual | change | {"guidance_scale": w} for w in SCALES[1:]]
    usual |= {"guidance_scale": 2.0}
    grid += [usual | {"decoding_schedule": "linear", "num_inference_steps": n} for n in (4, 8, 16)]
    for schedule in ("constant", "linear"):
        grid += [usual | {"temperature": t, "temperature_schedule": schedule} for t in (0.0, 0.5, 0.7)]
    return grid + [usual | {"seed": seed} for seed in (1, 2)]


def study_guidance(models: Path, record: Path, *, captions: int, names: tuple[str, ...] = tuple(MODELS),
                   progress: bool = True) -> list[dict]:
    """Draw from student and teacher in every way of `ways_to_draw` that the record lacks; returns all lines.

    "own" guidance acts where the model's was chosen to, on h for the student, on the prediction for the teacher;
    "other" is the other place. The first line is of the rendered clips themselves. "draw_seconds" is the time to draw
    the captions' clips, "seconds" that of everything.
    """
    lines, judge = Record(record), cache(lambda: Judge(models, captions))

    def drawn(name: str, pipe: TextToAudio, way: dict) -> dict:
        began, own = time.monotonic(), pipe.settings.guidance
        place = own if way["guidance"] == "own" else {"hidden": "prediction", "prediction": "hidden"}[own]
        options = MODELS[name] | way | {"guidance": place}
        found = judge()(pipe, **options) | {"spread": judge().spread(pipe, max(1, captions // 8), **options)}
        if progress:
            print(f"{name}: {way} Frechet distance {found['frechet']:.0f}, kinds {found['kind']:.2f}", flush=True)
        return {"place": place} | found | {"seconds": round(time.monotonic() - began, 1)}

    tasks = [({"model": "rendered clips", "captions": captions}, lambda: judge().floor())]
    for name in names:
        pipe = TextToAudio.from_pretrained(models / name)
        told = {"model": name, "weights": fingerprint(models / name), "captions": captions, **MODELS[name]}
        tasks += [(told | way, partial(drawn, name, pipe, way)) for way in ways_to_draw()]
    list(lines.make_all(tasks))
    return [lines.find(key) for key, _ in tasks]
