"""dear study rivals | heads: heads on the frozen teacher's hidden states that differ in one thing, in one record.

Every run is one line. Started again, the command does what is missing; started several times, side by side, the
processes share the work, each line made by one of them. Seeds are the outermost loop, so that a record
that was stopped early holds every setting, with fewer seeds. All on the validation split.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from dear import components
from dear.frozen import hidden_states, paired, train_head
from dear.log import Record
from dear.objectives import Rectified
from dear.pipeline import Settings, TextToAudio, fingerprint
from dear.recipes import student_objective
from dear.rivals import METHODS, Method, Try, build, method, sees_both, with_guidance
from dear.study import Judge, judged_by, score_name, workshop
from dear.training import TrainConfig

# AdamW alone: a step of Muon takes twice its seconds here, and in one trial of equal seconds its head was worse.
LONG = TrainConfig(steps=1000, batch_size=512, learning_rate=1.5e-3)
TRY_SHARE = 3  # tries are trained for this part of the steps, with a seed of their own
TRY_SEED = 100  # drawn with seed 0, as the seed of drawing is this one's rest
SCALES = (1.5, 2.0)
TRY_SCALES = (2.0,)
ENERGY = Try({"samples": 2, "noise_dim": 8}, heard=True)  # what the ablations change


@dataclass(frozen=True)
class Job:
    """A head to train and score: `targets` and `sizes` (of HeadConfig) are usual unless an ablation changes them."""

    method: str
    setting: Try
    seed: int
    steps: int
    targets: int = 1
    sizes: dict = field(default_factory=dict)

    def key(self) -> dict:
        """What tells its line from all others."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def name(self) -> str:
        """A folder's name for it."""
        told = json.dumps(self.key(), sort_keys=True)
        return f"{self.method}-{self.seed}-{self.steps}-{components.digest([told])}"


def ablations() -> dict[str, list[tuple[Try, dict]]]:
    """The settings of every ablation of the energy head by name, each a try and what else changes (sizes, targets)."""

    def energy(**arguments) -> Try:
        return dataclasses.replace(ENERGY, arguments=ENERGY.arguments | arguments)

    return {
        "samples": [(energy(samples=m), {}) for m in (1, 2, 3, 4, 8)],
        "exponent": [(energy(**({} if a == 1 else {"exponent": a})), {}) for a in (0.5, 1.0, 1.5, 2.0)],
        "noise_dim": [(energy(noise_dim=d), {}) for d in (2, 8, 48, 192)],
        "main": [(ENERGY, {}), (ENERGY, {"sizes": {"main": "hidden"}})],
        "depth": [(ENERGY, {"sizes": {"depth": d}} if d != 5 else {}) for d in (1, 3, 5)],
        "width": [(ENERGY, {"sizes": {"width": w}} if w != 192 else {}) for w in (96, 192, 384)],
        "targets": [(ENERGY, {"targets": k} if k != 1 else {}) for k in (1, 4)],
        "heard": [(ENERGY, {}), (dataclasses.replace(ENERGY, heard=False), {})],
    }


class Frame:
    """What all runs share: the teacher and its hidden states, the judge, the record; made when first needed."""

    def __init__(self, models: Path, runs: Path, record: Path, *, steps: int, captions: int, data=None,
                 progress: bool = True):
        self.models, self.steps, self.captions, self.progress = models, steps, captions, progress
        self.record, self.teacher, self.data = Record(record), fingerprint(models / "teacher"), data
        self.runs = runs / self.teacher
        self.told = {"batch_size": LONG.batch_size, "captions": captions, "teacher": self.teacher,
                     "judge": judged_by(models)}
        self.ready, self.made = False, {}

    def prepare(self) -> None:
        """Load models, compute hidden states and render the judge's clips, unless that was done."""
        if self.ready:
            return
        shop = workshop(self.models, self.runs, self.data, self.progress)
        self.vae, latents = shop.latents()
        self.master = TextToAudio.from_pretrained(shop.out / "teacher")
        self.weights = student_objective(self.vae, latents).weights
        self.states = hidden_states(self.master, latents, self.runs / "hidden.safetensors", progress=self.progress)
        self.judge, self.ready = Judge(self.models, self.captions), True

    def head(self, job: Job) -> tuple[object, torch.nn.Module]:
        """Objective and trained head of a job, from its checkpoint if that is finished."""
        self.prepare()
        chosen, both = method(job.method), sees_both(job.setting)
        objective, net = build(chosen, job.setting, self.master, self.weights, job.seed, **job.sizes)
        learner, states = objective, self.states
        if chosen.objective is Rectified:
            states = self.pairs(objective, job.setting)
            learner = Rectified(weights=objective.weights)
        config = dataclasses.replace(LONG, steps=job.steps, seed=job.seed, learning_rate=job.setting.learning_rate)
        net = train_head(net, learner, states, config, self.runs / "heads" / job.name(), target=job.setting.target,
                         targets=job.targets, both=both, progress=self.progress, about={"job": job.key()})
        return objective, net.cpu().requires_grad_(False)

    def pairs(self, objective: Rectified, setting: Try):
        """The teacher's pairs, made once for all jobs of a process that ask for the same."""
        kind = json.dumps(setting.arguments, sort_keys=True)
        if kind not in self.made:
            self.made[kind] = paired(self.states, objective, both=sees_both(setting), progress=self.progress)
        return self.made[kind]

    def pipe(self, objective, net, job: Job, scale: float) -> tuple[TextToAudio, float]:
        """A model with this head in the teacher's place, drawing with a guidance scale; and the scale of h.

        A student that learned from a guided teacher takes the scale as an input, and h is left as it is.
        """
        inner = sees_both(job.setting)
        if "guidance" in job.setting.arguments:
            objective = with_guidance(objective, scale)
        m = self.master
        return TextToAudio(m.text, m.backbone, net, m.vae, Settings(), objective=objective), 1.0 if inner else scale

    def seconds_of(self, job: Job) -> float:
        """Seconds that the training of a job took, over all its starts, without what was made before it."""
        lines = (self.runs / "heads" / job.name() / "metrics.jsonl").read_text().splitlines()
        return json.loads(lines[-1])["seconds"]

    def task(self, job: Job, scales: tuple[float, ...]) -> tuple[dict, Callable[[], dict]]:
        """What `Record.make` takes to make a job's line; a head that diverges has no scores."""
        return job.key() | self.told, partial(self._scored, job, scales)

    def do(self, job: Job, scales: tuple[float, ...]) -> dict:
        """The line of a job: from the record, or by training and scoring now."""
        return self.record.make(*self.task(job, scales))

    def _scored(self, job: Job, scales: tuple[float, ...]) -> dict:
        began, found = time.monotonic(), {}
        if self.progress:
            print(f"{job.method}, seed {job.seed}, {job.steps} steps: {job.key()}", flush=True)
        try:
            objective, net = self.head(job)
            found["train_seconds"] = self.seconds_of(job)
            calls = method(job.method).steps if len(scales) > 1 else (1,)  # tries are drawn with one
            for scale in scales_of(job.setting, scales):
                pipe, on_h = self.pipe(objective, net, job, scale)
                for n in calls:
                    found[score_name(scale, n)] = self.judge(pipe, guidance_scale=on_h, sampling_steps=n,
                                                             seed=job.seed % TRY_SEED)
        except FloatingPointError as error:
            found["failed"] = str(error)
        return found | {"seconds": round(time.monotonic() - began, 1)}


def scales_of(setting: Try, scales: tuple[float, ...]) -> tuple[float, ...]:
    """The guidance scales that a try is drawn with: those of its training where its teacher was guided."""
    if "guidance_scale" in setting.arguments:
        return (setting.arguments["guidance_scale"],)
    low, high = setting.arguments.get("guidance", (0, float("inf")))
    return tuple(w for w in scales if low <= w <= high) or (low,)


def scores(line: dict, calls: int = 1) -> dict[float, dict]:
    """The scores of a line by guidance scale, drawn with so many calls a token; none for a head that diverged."""
    start = score_name(0, calls).removesuffix("0")
    return {float(name.removeprefix(start)): value for name, value in line.items() if name.startswith(start)}


def best_scale(line: dict, calls: int = 1) -> float | None:
    """The scale at which a line's Frechet distance is least; None for a head that diverged."""
    found = scores(line, calls)
    return min(found, key=lambda w: found[w]["frechet"]) if found else None


def best(line: dict, calls: int = 1) -> dict | None:
    """The scores of a line at its best scale; None for a head that diverged."""
    scale = best_scale(line, calls)
    return None if scale is None else scores(line, calls)[scale]


def tries(frame: Frame, chosen: Method) -> list[Job]:
    """The short runs that choose a method's setting."""
    return [Job(chosen.name, t, TRY_SEED, max(1, frame.steps // TRY_SHARE)) for t in chosen.tries]


def tuned(frame: Frame, chosen: Method) -> Try:
    """The try with the least Frechet distance; ValueError if the record lacks one, or if all of them diverged."""
    lines = [frame.record.find(job.key() | frame.told) for job in tries(frame, chosen)]
    scored = [(best(line)["frechet"], k) for k, line in enumerate(lines) if line and best(line)]
    if None in lines or not scored:
        raise ValueError(f"{frame.record.path} has no tries of {chosen.name} to choose from, with {frame.captions} "
                         f"captions and {frame.steps} steps: run `dear study rivals` with these first")
    return chosen.tries[min(scored)[1]]


class Noise:
    """The trivial control: tokens that are nothing but noise."""

    @staticmethod
    def sample(net, cond, noise, steps, generator):
        """The noise itself."""
        return noise


def controls(frame: Frame) -> Iterator[dict]:
    """Lines of the rendered clips themselves, the floor, and of tokens of noise."""
    def made(name: str) -> dict:
        frame.prepare()
        m = frame.master
        noise = TextToAudio(m.text, m.backbone, m.head, m.vae, Settings(), objective=Noise())
        return {"guidance 1": frame.judge.floor() if name == "rendered clips" else frame.judge(noise, guidance_scale=1)}

    for name in ("rendered clips", "noise"):
        yield frame.record.make({"method": name, **frame.told, "batch_size": None}, partial(made, name))


def study_rivals(frame: Frame, *, seeds: int) -> Iterator[dict]:
    """Lines of the controls and of all methods: their tries first, then the tuned setting with every seed."""
    yield from controls(frame)
    for m in METHODS:
        for job in tries(frame, m):
            yield frame.do(job, TRY_SCALES)
    jobs = [Job(m.name, tuned(frame, m), seed, frame.steps) for seed in range(seeds) for m in METHODS]
    yield from frame.record.make_all(frame.task(job, SCALES) for job in jobs)


def study_heads(frame: Frame, *, seeds: int) -> Iterator[dict]:
    """Lines of all ablations of the energy head; settings that several share are trained once."""
    settings = [setting for found in ablations().values() for setting in found]
    jobs = [Job("energy", setting, seed, frame.steps, **changes)
            for seed in range(seeds) for setting, changes in settings]
    yield from frame.record.make_all(frame.task(job, SCALES) for job in jobs)
