"""dear study latency: quality against seconds, for the student, its teacher and heads of every method.

Quality is drawn way by way, a line each, resumable; the seconds of all ways are then measured in one run on one
device, so that they can be compared, and stored with the lines that the study returns.
"""

import time
from pathlib import Path
from statistics import median

import torch

from dear import grid
from dear.log import Record, origin
from dear.pipeline import TextToAudio, fingerprint
from dear.rivals import METHODS

BATCH, REPEATS = 8, 3  # clips at once, as in the paper's table of latencies; and how often each way is timed
ITERATIONS = (1, 2, 4, 8, 16, 32)
CALLS = (1, 2, 4, 10, 25, 50, 100)  # of the teacher's head a token, at its own number of iterations
MORE_CALLS = (10, 100)  # at the others
SHIPPED = ("student", "teacher")


def ways(own: int = 16) -> list[tuple[str, int, int]]:
    """What is drawn with how many iterations and calls of the head a token: (name, iterations, calls)."""
    found = [("student", n, 1) for n in ITERATIONS] + [("teacher", own, calls) for calls in CALLS]
    found += [("teacher", n, calls) for n in ITERATIONS if n != own for calls in MORE_CALLS]
    found += [(m.name, n, 1) for m in METHODS for n in ITERATIONS]
    return found + [(m.name, own, calls) for m in METHODS for calls in m.steps[1:]]


def study_latency(models: Path, runs: Path, record: Path, *, steps: int, captions: int, data=None,
                  progress: bool = True) -> list[dict]:
    """Quality and seconds a clip of every way; the methods' heads are those of `dear study rivals`, seed 0.

    A head that its runs lack is trained. A record that holds the seconds of all these ways keeps them.
    """
    lines = Record(record)
    frame = grid.Frame(models, runs, record.with_name("heads.jsonl"), steps=steps, captions=captions, data=data,
                       progress=progress)
    frame.prepare()
    weights = {name: fingerprint(models / name) for name in SHIPPED}
    pipes, found = {}, []
    for name, iterations, calls in ways():
        if name not in pipes:
            pipes[name] = _pipe(frame, models, name)
        pipe, settings = pipes[name]
        options = settings | {"num_inference_steps": iterations, "sampling_steps": calls}
        key = {"model": name, "weights": weights.get(name, weights["teacher"]), "captions": captions,
               "head_steps": None if name in SHIPPED else steps, **options}
        if not lines.find(key):
            if progress:
                print(f"{name}: {iterations} iterations, {calls} calls a token", flush=True)
            lines.append(key | frame.judge(pipe, **options) | origin())
        found.append((pipe, options, lines.find(key)))
    key = {"timed": len(found), "head_steps": steps, **weights}
    timing = lines.find(key)
    if not timing:
        timing = key | _timed(found, frame.judge.captions[:BATCH]) | origin()
        lines.append(timing)
    return [line | {"seconds_per_clip": told["seconds_per_clip"]}
            for (_, _, line), told in zip(found, timing["ways"], strict=True)]


def _pipe(frame: grid.Frame, models: Path, name: str) -> tuple[TextToAudio, dict]:
    """A model and how it is drawn from: as it is shipped, or with the guidance that its record found best."""
    if name in SHIPPED:
        pipe = TextToAudio.from_pretrained(models / name)
        return pipe, {"guidance_scale": pipe.settings.guidance_scale}
    chosen = grid.method(name)
    job = grid.Job(name, grid.tuned(frame, chosen), 0, frame.steps)
    scale = grid.best_scale(frame.do(job, grid.SCALES))
    pipe, on_h = frame.pipe(*frame.head(job), job, scale)
    return pipe, {"guidance_scale": on_h}


def _timed(found: list, captions: list[str]) -> dict:
    """Seconds a clip of all ways, text to tokens, each the median of REPEATS, in one run."""
    told = []
    for pipe, options, line in found:
        spent = []
        for repeat in range(REPEATS):
            began = time.perf_counter()
            pipe.tokens(captions, torch.Generator().manual_seed(repeat), **options)
            spent.append((time.perf_counter() - began) / len(captions))
        way = {k: line[k] for k in ("model", "num_inference_steps", "sampling_steps")}
        told.append(way | {"seconds_per_clip": round(median(spent), 5)})
    return {"ways": told, "batch": len(captions), "repeats": REPEATS}
