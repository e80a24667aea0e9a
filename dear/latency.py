"""dear study latency: quality against seconds, for the student, its teacher and heads of every method.

Quality is drawn way by way, a line each, resumable; the seconds of all ways are then measured in one run on one
device, so that they can be compared, and stored with the lines that the study returns.
"""

from functools import partial
from pathlib import Path

import torch

from dear import grid
from dear.bench import clock_of, time_calls
from dear.blocks import fastest_device
from dear.log import Record
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
    lines, weights = Record(record), {name: fingerprint(models / name) for name in SHIPPED}
    frame = grid.Frame(models, runs, record.with_name("heads.jsonl"), steps=steps, captions=captions, data=data,
                       progress=progress)
    pipes, found = {}, []

    def pipe_of(name: str, scale: float) -> TextToAudio:
        if (name, scale) not in pipes:
            if name in SHIPPED:
                pipes[name, scale] = TextToAudio.from_pretrained(models / name)
            else:
                job = _job(frame, name)
                pipes[name, scale] = frame.pipe(*frame.head(job), job, scale)[0]
        return pipes[name, scale]

    def drawn(name: str, scale: float, options: dict) -> dict:
        frame.prepare()
        if progress:
            print(f"{name}: {options}", flush=True)
        return frame.judge(pipe_of(name, scale), **options)

    for name, iterations, calls in ways():
        scale, on_h = _scales(frame, models, name, calls)
        options = {"num_inference_steps": iterations, "sampling_steps": calls, "guidance_scale": on_h}
        key = {"model": name, "weights": weights.get(name, weights["teacher"]), "captions": captions,
               "head_steps": None if name in SHIPPED else steps, "scale": scale, **options}
        found.append((name, scale, options, lines.make(key, partial(drawn, name, scale, options))))
    key = {"timed": [[name, scale, *options.values()] for name, scale, options, _ in found], **weights}
    timing = lines.make(key, lambda: _timed(found, pipe_of, frame))
    return [line | {"seconds_per_clip": told["seconds_per_clip"]}
            for (*_, line), told in zip(found, timing["ways"], strict=True)]


def _job(frame: grid.Frame, name: str) -> grid.Job:
    """The head of a method that stands for it: its tuned setting, seed 0."""
    return grid.Job(name, grid.tuned(frame, grid.method(name)), 0, frame.steps)


def _scales(frame: grid.Frame, models: Path, name: str, calls: int) -> tuple[float, float]:
    """Guidance scale, and what of it acts on h: as shipped, or what the record found best for so many calls."""
    if name in SHIPPED:
        own = TextToAudio.from_pretrained(models / name).settings.guidance_scale
        return own, own
    job = _job(frame, name)
    scale = grid.best_scale(frame.do(job, grid.SCALES), calls)
    if scale is None:
        raise ValueError(f"the head of {name} diverged in the record: it cannot be drawn from")
    return scale, 1.0 if grid.sees_both(job.setting) else scale


def _timed(found: list, pipe_of, frame: grid.Frame) -> dict:
    """Seconds a clip of all ways, text to tokens, each the median of REPEATS, in one run.

    Which seconds: see `clock_of`.
    """
    frame.prepare()
    captions, told, device = frame.judge.captions[:BATCH], [], fastest_device()
    for name, scale, options, line in found:
        pipe = pipe_of(name, scale).to(device)
        timing = time_calls(lambda pipe=pipe, options=options: pipe.tokens(
            captions, torch.Generator(device).manual_seed(0), **options), REPEATS, str(device), at_least=0)
        seconds = getattr(timing, clock_of(str(device))) / len(captions)
        way = {k: line[k] for k in ("model", "num_inference_steps", "sampling_steps")}
        told.append(way | {"seconds_per_clip": round(seconds, 5)})
    return {"ways": told, "batch": len(captions), "repeats": REPEATS}
