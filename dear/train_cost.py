"""What training the student and its teacher costs on one device: steps of the real loop, timed with random weights.

How long a step takes does not depend on what weights and clips are, so nothing is trained or downloaded. A step is
`dear.training.step`: the batch goes to the device, loss and gradient, clipping, the optimiser (AdamW), the moving
average. Texts are of full length, which real captions, padded to the longest of a batch, seldom reach. Steps that write
figures, checkpoints, and waiting for data are left out; `dear.prepare_cost` times how fast shards are made and read.
"""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from dear import cost, fullsize, prepare_cost
from dear.bench import UNCOUNTED, aligned, clock_of, spread, time_calls
from dear.blocks import seeded
from dear.generator import Generator, training_loss
from dear.masking import CLASSROOM_LAW
from dear.objectives.diffusion import Diffusion
from dear.objectives.energy import Energy
from dear.speed import forget_peak, peak, probe, run
from dear.training import LossFunction, Run, TrainConfig, step

MODELS = ("teacher", "student", "pretraining")
LAWS = {"paper": (0.7, 1.0, 0.25), "classroom": CLASSROOM_LAW}
# Largest first: the whole batch of 2048 falls into 256 on each of 8 GPUs, and into 32 on each of 64.
BATCHES = {True: {"paper": (256, 32, 128, 64), "classroom": (32, 256)}, False: {"paper": (2,), "classroom": (32,)}}
LONGEST = 20.0  # seconds spent on one row, unless a single step takes longer


@dataclass(frozen=True)
class Case:
    """A step to time, on `batch` clips at once.

    model: "teacher", "student" (with its frozen teacher), or "pretraining" (the teacher before it sees a text).
    """

    size: str
    model: str
    batch: int


def grid(gpu: bool, size: str, batches: Sequence[int] = ()) -> list[Case]:
    """Cases of a size in order of importance; batches: those wanted in place of `BATCHES`."""
    return [Case(size, model, batch) for batch in batches or BATCHES[gpu][size] for model in MODELS]


def begin(case: Case, device: str, precision: str) -> tuple[Run, LossFunction]:
    """A training that has taken no step, and its loss on one batch of random clips, which waits on the CPU.

    As IMPACT and AudioDEAR: the teacher's diffusion of 4 noise levels a token; the student's energy score of 2 samples
    a token and 1000 times the distance to its teacher's hidden states. The classroom has a mask law of its own.
    """
    from accelerate import Accelerator

    size, student = cost.SIZES[case.size], case.model == "student"
    c, head = size.backbone, size.student if student else size.teacher
    gpu = device.startswith("cuda")
    if gpu:  # Accelerate works on the current one
        torch.cuda.set_device(torch.device(device).index or 0)
    with torch.device(device), seeded(0):
        model = Generator(None, c, head)
        teacher = Generator(None, c, size.teacher).requires_grad_(False).eval() if student else None
    objective = Energy(noise_dim=head.noise_dim) if student else Diffusion(prediction="epsilon")
    batch = (fullsize.noise("cpu", case.batch, c.tokens, c.token_dim), *fullsize.random_text(c, case.batch, "cpu"))
    pooled = fullsize.random_pooled(c, case.batch, "cpu")

    def loss(module: torch.nn.Module, indices: torch.Tensor, generator: torch.Generator):
        inputs = (part.to(generator.device) for part in batch)
        one_more = None if pooled is None else pooled.to(generator.device)
        return training_loss(module, objective, *inputs, generator, teacher=teacher, mask_law=LAWS[case.size],
                             pooled=one_more, text_drop=1.0 if case.model == "pretraining" else 0.1)

    config = TrainConfig(batch_size=case.batch, precision=precision)
    return Run(model.train(), config, Path(), Accelerator(cpu=not gpu), {}), loss  # nothing is saved: no folder


def least(module: torch.nn.Module, *_) -> tuple[torch.Tensor, dict]:
    """A loss that costs a few small kernels a parameter and gives each a gradient: the rest of a step is the update."""
    return 0 * sum(p.sum() for p in module.parameters() if p.requires_grad), {}


def measure(case: Case, device: str, precision: str, repeats: int, rate: float) -> dict:
    """A row: the case, seconds of a step and of its update alone, operations, their share of a rate, most memory.

    The step that counts operations is also the one that warms up. rate: operations a second of the device's large
    matrix products.
    """
    gc.collect()  # of the case before, which may hold most of a card's memory
    forget_peak(device)
    training, loss = begin(case, device, precision)
    with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
        step(training, loss, case.batch)
    forget_peak(device)
    whole = time_calls(partial(step, training, loss, case.batch), repeats, device, at_most=LONGEST)
    most = peak(device)
    update = partial(step, training, least, case.batch)
    update()
    alone = time_calls(update, repeats, device, at_most=LONGEST)
    return row_of(case, precision, asdict(whole), asdict(alone), counter.get_total_flops(), rate, clock_of(device)) | {
        "parameters": sum(p.numel() for p in training.parameters.values()), "peak_bytes": most}


def row_of(case: Case, precision: str, seconds: dict, update: dict, flop: float, rate: float, clock: str) -> dict:
    """What the record keeps of a step; share_of_rate: of the device's rate that the step's operations reach."""
    took = seconds[clock]
    return asdict(case) | {"precision": precision, "seconds": seconds, "update": update, "flop": flop,
                           "clips_per_second": case.batch / took, "share_of_rate": flop / took / rate}


def survey(figures: dict, sizes: Sequence[str], batches: Sequence[int], repeats: int, seconds: float,
           keep: Callable[[], None]) -> None:
    """Time steps and, with the paper's size, the preparation, into figures; keep() is called after every row.

    figures: has "ran_on", "dtype" and "missing".  seconds: after which no further row begins.
    """
    device, dtype, until = figures["ran_on"], figures["dtype"], time.monotonic() + seconds
    gpu, machine = device.startswith("cuda"), probe(device, dtype)
    figures |= {"clock": clock_of(device), "machine": asdict(machine), "steps": [], "preparation": []}

    def add(kind: str, row: dict) -> None:
        figures[kind].append(row)
        keep()

    for size in sizes:
        timed = partial(measure, device=device, precision=dtype, repeats=repeats, rate=machine.rate)
        tasks = [(asdict(case), partial(timed, case)) for case in grid(gpu, size, batches)]
        figures["missing"] += run(tasks, until, partial(add, "steps"))
        if size == "paper":
            with prepare_cost.tasks(device, repeats) as more:
                figures["missing"] += run(more, until, partial(add, "preparation"))
    keep()


def report(figures: dict) -> str:
    """The record as text: a line a step, then a line for each part of the preparation."""
    clock = figures["clock"]
    lines = [("size", "model", "batch", "s a step [min, max]", "update s", "clips/s", "TFLOP", "of matrix rate", "GB")]
    for r in figures["steps"]:
        lines.append((r["size"], r["model"], str(r["batch"]), spread(r["seconds"]), f"{r['update'][clock]:.3g}",
                      f"{r['clips_per_second']:.4g}", f"{r['flop'] / 1e12:.3g}", f"{r['share_of_rate']:.0%}",
                      f"{r['peak_bytes'] / 1e9:.3g}" if r["peak_bytes"] else ""))
    text = aligned(lines)
    for r in figures["preparation"]:
        size = f", {r['bytes_per_clip']} bytes a clip" if "bytes_per_clip" in r else ""
        text.append(f"{r['stage']}: {spread(r['seconds'])} s for {r['clips']} clip(s), "
                    f"{r['clips'] / r['seconds'][clock]:.4g} clips/s{size}")
    return "\n".join([*text, *(f"left out: {name}" for name in figures["missing"])])
