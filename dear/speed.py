"""Student and teacher against the clock: sizes, batches, iterations, diffusion steps, both ways to decode, in one run.

Weights are random and texts of full length, as in `dear.fullsize`. Both models run in one dtype, with guidance, both
branches in one batch. "plain" is `dear.decoding.decode`, "optimised" is `dear.fast.FastDecoder`, on a GPU with small
operations fused; its preparation, once a size of batch, is not timed.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate, product
from pathlib import Path

import torch
from torch import Tensor, nn

from dear import cost, decoding, fullsize, targets
from dear.backbone import MaskedTransformer
from dear.bench import SPREAD, Timing, clock_of, default_dtype, integrate, materialise, measure, time_calls
from dear.fast import FastDecoder
from dear.head import AdaLNHead
from dear.masking import decoding_schedule
from dear.objectives.diffusion import Diffusion
from dear.objectives.energy import Energy
from dear.stages import LONGEST, stages
from dear.targets import PATHS

ITERATIONS = {"paper": (64, 32, 16, 8, 4), "classroom": (32, 16, 8, 4)}
STEPS = (50, 25, 10, 4, 1)  # of the diffusion, beside 100


@dataclass(frozen=True)
class Case:
    """One decoding; tokens: of a clip, None: those of the size."""

    size: str
    model: str
    path: str
    batch: int
    iterations: int
    steps: int = 1
    tokens: int | None = None


TARGETED = [  # what the targets on a GPU are about
    Case("paper", "student", "plain", 8, 64), Case("paper", "student", "optimised", 8, 64),
    Case("paper", "teacher", "plain", 8, 64, 100), Case("paper", "teacher", "optimised", 8, 64, 100),
    Case("paper", "student", "optimised", 1, 16), Case("paper", "student", "optimised", 32, 64),
]


def grid(gpu: bool, sizes: Sequence[str] = tuple(cost.SIZES), batches: Sequence[int] = ()) -> list[Case]:
    """Cases in order of importance: on a GPU everything, on a CPU the classroom's and a few of the paper's size.

    batches: those wanted in place of 1, 8 and 32; what is measured with 8 clips alone only if 8 is one of them.
    """
    found, last = list(TARGETED) if gpu else [], []
    for size in sizes:
        if not gpu:
            found += _small_grid(size, batches)
            continue
        every = list(product((size,), ("student",), PATHS, batches or (8, 1, 32), ITERATIONS[size]))
        found += [Case(*one) for one in every]
        found += [Case(size, "teacher", path, 8, 16, k) for k, path in product((100, *STEPS), PATHS)]
        found += [Case(size, "student", path, 8, 16, tokens=ITERATIONS[size][0] * k)
                  for path, k in product(PATHS, (1, 2, 8))]
        teacher = [Case(size, "teacher", path, batch, n, 100) for _, _, path, batch, n in every]
        found += [case for case in teacher if case.iterations in (4, 16)]
        last += teacher
    wanted = [case for case in found + last if case.size in sizes and (not batches or case.batch in batches)]
    return list(dict.fromkeys(wanted))


def _small_grid(size: str, batches: Sequence[int]) -> list[Case]:
    if size == "paper":
        return [Case("paper", "student", path, batch, 4) for batch in batches or (1,) for path in PATHS]
    found = [Case(size, "student", path, batch, 16) for path in PATHS for batch in batches]
    for path in PATHS:
        found += [Case(size, "student", path, 1, n) for n in ITERATIONS[size]]
        found += [Case(size, "student", path, 8, n) for n in (16, 4)]
        found += [Case(size, "student", path, 1, 16, tokens=n) for n in (16, 64, 128)]
        found += [Case(size, "teacher", path, 1, n, k) for n, k in ((16, 100), (16, 10), (4, 100), (4, 10), (4, 1))]
        found += [Case(size, "teacher", path, 8, n, 10) for n in (16, 4)] + [Case(size, "student", path, 32, 16)]
    return found


class Lab:
    """A device and a dtype, and the networks of the size that is timed, made when they are asked for."""

    def __init__(self, device: str, dtype: str):
        self.device, self.dtype, self.fuses = device, dtype, device.startswith("cuda")
        self.built, self.nets = None, None

    def networks(self, case: Case) -> nn.ModuleDict:
        """Backbone, student and teacher of a case, with random weights; those of one size are kept."""
        if self.built != (case.size, case.tokens):
            size = cost.SIZES[case.size].of(case.tokens)
            self.nets = None
            with default_dtype(self.dtype):
                self.nets = materialise(lambda: nn.ModuleDict({
                    "backbone": MaskedTransformer(size.backbone), "student": AdaLNHead(size.student),
                    "teacher": AdaLNHead(size.teacher)}), self.device)
            self.built = case.size, case.tokens
        return self.nets

    def decoder(self, case: Case, steps: int | None = None) -> Callable[[], Tensor]:
        """A case as a function without arguments that makes its tokens; steps: in place of the case's."""
        nets, batch, student = self.networks(case), case.batch, case.model == "student"
        net, head = nets["backbone"], nets[case.model]
        with default_dtype(self.dtype):
            text, pooled = (make(net.config, batch, self.device)
                            for make in (fullsize.random_text, fullsize.random_pooled))
        objective = Energy(noise_dim=head.config.noise_dim) if student else Diffusion(prediction="epsilon")
        told = {"num_inference_steps": case.iterations, "guidance": "hidden" if student else "prediction",
                "sampling_steps": steps or case.steps}
        run = partial(decoding.decode, net, head, objective, **told)
        if case.path == "optimised":
            run = FastDecoder(net, head, objective, batch=batch, compiled=self.fuses, **told)
        return lambda: run(*text, pooled=pooled, generator=torch.Generator(self.device).manual_seed(0))

    def measure(self, case: Case, repeats: int = 3) -> dict:
        """A row: the case, its seconds, operations and the most memory that it took."""
        call = self.decoder(case)
        # A few steps warm a plain teacher up; the graphs of an optimised decoding are recorded in its first call.
        warm = self.decoder(case, min(case.steps, 3)) if case.path == "plain" else call
        if not warm().isfinite().all():
            raise FloatingPointError("what comes out is not finite")
        forget_peak(self.device)
        before = peak(self.device)
        if self.device.startswith("cuda"):  # what the recorded graphs hold is part of a decoding
            before = sum(p.numel() * p.element_size() for p in self.networks(case).parameters())
        timing = time_calls(call, repeats, self.device, at_least=0.3, at_most=LONGEST)
        fused = self.fuses and case.path == "optimised"
        return row_of(case, self.dtype, timing, fused=fused) | {"peak_bytes": peak(self.device), "before_bytes": before}


def row_of(case: Case, dtype: str, timing: Timing, how: str = "measured", fused: bool = False) -> dict:
    """What the record keeps of a decoding; real-time factor: seconds of computing for a second of sound."""
    tokens = case.tokens or cost.SIZES[case.size].backbone.tokens
    row = asdict(case) | {"tokens": tokens, "dtype": dtype, "fused": fused}
    sound = cost.SIZES[case.size].of(case.tokens).seconds * case.batch
    return row | {"how": how, "seconds": asdict(timing), "seconds_per_clip": timing.median / case.batch,
                  "real_time_factor": timing.median / sound, "flop": cost.flop(row),
                  "peak_bytes": None, "before_bytes": None}


def extrapolated(batch: int, dtype: str, device: str) -> list[dict]:
    """Rows at paper size, plain, from passes that are timed once each: for a CPU, where a decoding takes minutes."""
    timed = measure(fullsize.masked_systems(cost.SIZES["paper"].backbone, iterations=(64,), whole=()), batch, 1, device)
    return from_passes([p for row in timed for p in row["passes"]], batch, dtype)


def from_passes(passes: Sequence[dict], batch: int, dtype: str, steps: Iterable[int] = (100, 10, 1)) -> list[dict]:
    """Rows at paper size, plain, from the passes of a student and a teacher as `dear.bench.measure` gives them."""
    found, ways = [], [("student", "energy head", 1)] + [("teacher", "diffusion head", k) for k in steps]
    for iterations, (model, head, calls) in product(ITERATIONS["paper"], ways):
        shares = decoding_schedule("cosine", iterations, cost.SIZES["paper"].backbone.tokens)
        known = list(accumulate(shares[:-1], initial=0))
        seconds = [sum(times * integrate(sizes, {p["size"]: p[name] for p in passes if p["name"] == part})
                       for part, sizes, times in (("backbone", known, 1), (head, shares, calls))) for name in SPREAD]
        case = Case("paper", model, "plain", batch, iterations, calls)
        found.append(row_of(case, dtype, Timing(*seconds, repeats=0), "extrapolated"))
    return found


def forget_peak(device: str) -> None:
    """Begin to look for the most memory in use; of a CPU's process, where Linux tells it."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # another system, or not allowed
            Path("/proc/self/clear_refs").write_text("5")


def peak(device: str) -> int | None:
    """Most bytes since `forget_peak`: on a GPU reserved, recorded graphs included, on a CPU of the whole process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_reserved(device)
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)


def probe(device: str, dtype: str) -> cost.Machine:
    """The machine by three small experiments: a kernel without work, a large product of matrices, a large copy."""
    gpu, kind = device.startswith("cuda"), getattr(torch, dtype)
    name = torch.cuda.get_device_name(device) if gpu else f"CPU, {torch.get_num_threads()} thread(s)"
    n, numbers = (8192, 2**28) if gpu else (1024, 2**24)
    tiny, square = torch.ones(8, device=device), torch.ones(n, n, device=device, dtype=kind)
    source, target = torch.ones(2, numbers, device=device)

    def many() -> None:
        for _ in range(1000):
            tiny.add_(1)

    def best(call: Callable[[], object]) -> float:
        call()
        timing = time_calls(call, 5, device)
        return getattr(timing, clock_of(device))

    launch, product_, copy = best(many) / 1000, best(lambda: square @ square), best(lambda: target.copy_(source))
    return cost.Machine(f"{name}, {dtype}", launch, 2 * n**3 / product_, 8 * numbers / copy, overlaps=gpu)


def survey(figures: dict, sizes: Sequence[str], batches: Sequence[int], repeats: int, seconds: float,
           keep: Callable[[], None]) -> None:
    """Time decodings and stages into figures, and conclude from them; keep() is called after every row.

    figures: has "ran_on", "dtype", "batch" and "missing".  seconds: after which no further row begins.
    """
    device, dtype, began = figures["ran_on"], figures["dtype"], time.monotonic()
    gpu, lab, machine = device.startswith("cuda"), Lab(device, dtype), probe(device, dtype)
    if gpu:
        torch.cuda.empty_cache()  # of the probe's matrices, in which networks would be made and count as theirs
    figures |= {"clock": clock_of(device), "machine": asdict(machine), "decodings": [], "stages": []}

    def add(kind: str, row: dict) -> None:
        figures[kind].append(row)
        keep()

    def do(tasks: Iterable, kind: str) -> None:
        figures["missing"] += run(tasks, began + seconds, partial(add, kind))
        targets.conclude(figures, machine)
        keep()

    cases = [(asdict(case), partial(lab.measure, case, repeats)) for case in grid(gpu, sizes, batches)]
    first = [case for case in cases if Case(**case[0]) in TARGETED]
    do(first, "decodings")
    for size, batch in product(sizes, batches or ((1, 8) if gpu else (1,))):
        nets = lab.networks(Case(size, "student", "plain", batch, 16))
        do(stages(nets, size, batch, dtype, repeats, device), "stages")
    do([case for case in cases if case not in first], "decodings")
    if not gpu and "paper" in sizes and time.monotonic() < began + seconds:
        figures["decodings"] += extrapolated(figures["batch"], dtype, device)
        targets.conclude(figures, machine)
        keep()


def run(tasks: Iterable[tuple[dict, Callable[[], dict]]], until: float, keep: Callable[[dict], None]) -> list[str]:
    """Do the tasks that begin before `until`, of time.monotonic(), pass on what they find; returns what is missing.

    A task is what it is about and a function that returns a row; one that fails costs no other row.
    """
    missing = []
    for told, made in tasks:
        name = " ".join(str(value) for value in told.values() if value is not None)
        if time.monotonic() > until:
            missing.append(f"{name}: not begun in time")
            continue
        try:
            row = made()
        except Exception as error:  # whatever a device or a library may raise
            missing.append(f"{name}: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
            print(missing[-1], flush=True)
            continue
        print(f"{name}: {row['seconds']['median']:.4g} s", flush=True)
        keep(row)
    return missing
