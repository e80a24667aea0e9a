"""What a decoding costs: kernels, operations and numbers moved, counted from the sizes, and seconds on a machine.

A pass of a network is launched kernel by kernel, multiplies and adds, and moves weights and activations. With four
figures of a machine its seconds follow:

    launching = kernels x launch
    computing = operations / (rate R / (R + half)) + bytes / bandwidth

A matrix product of few rows R does not reach the rate: of `half` rows, half of it. Products and moving are added, not
compared, as one kernel of a pass does the one while another does the other. A CPU launches and computes in turn, so
the two are added; a GPU computes while more is launched, so of a pass the longer one counts.
Nothing here measures: `dear.speed` does.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from itertools import accumulate

import numpy as np
from scipy.optimize import least_squares

from dear.backbone import BackboneConfig
from dear.head import HeadConfig
from dear.masking import decoding_schedule
from dear.packed import MODULATED

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FEATURES = 256  # of a time, before its embedding
# Small kernels that PyTorch runs beside those of the layers, as counted from one call each.
AROUND_BACKBONE, AROUND_ITERATION, OF_A_TIME, OF_A_STEP = 47, 14, 13, 17
# The same of `dear.fast`, as it is and with small operations fused.
AROUND_FAST, OF_A_WINDOW, OF_A_FAST_STEP = {False: 15, True: 7}, 6, {False: 11, True: 3}


@dataclass(frozen=True)
class Size:
    """Networks of one size: `words` vectors of text that the backbone sees (the pooled one included), `seconds` a clip.

    student: head without a time.  teacher: head with one.
    """

    backbone: BackboneConfig
    student: HeadConfig
    teacher: HeadConfig
    words: int
    seconds: float

    def of(self, tokens: int | None) -> "Size":
        """The same networks for clips of another number of tokens; None: as it is."""
        n = tokens or self.backbone.tokens
        return replace(self, backbone=replace(self.backbone, tokens=n), seconds=self.seconds * n / self.backbone.tokens)


SIZES = {
    "classroom": Size(  # that of the shipped models
        BackboneConfig(token_dim=48, decoder_layers=4), HeadConfig(48, 8, depth=5), HeadConfig(48, depth=5, times=1),
        words=24, seconds=2.56),
    "paper": Size(
        BackboneConfig.paper(), HeadConfig(128, None, 768, 1024), HeadConfig(128, None, 768, 1024, times=1),
        words=78, seconds=10.24),
}


@dataclass(frozen=True)
class Work:
    """Kernels launched, floating-point operations, and numbers of weights and of activations read and written."""

    kernels: float = 0
    flop: float = 0
    weights: float = 0
    activations: float = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: float) -> "Work":
        return Work(*(times * a for a in astuple(self)))


def linear(rows: int, inputs: int, outputs: int) -> Work:
    """A layer on `rows` vectors: a multiplication and an addition for each weight and row."""
    return Work(1, 2 * rows * inputs * outputs, inputs * outputs, rows * (inputs + outputs))


def pointwise(numbers: float, kernels: int = 1) -> Work:
    """Kernels that each read and write so many numbers."""
    return Work(kernels, 0, 0, 2 * kernels * numbers)


def attention_block(lengths: Sequence[int], width: int, fused: bool = False) -> Work:
    """A transformer block on sequences of these lengths L: 24 L width^2 operations each, and 4 L^2 width to attend.

    fused: two kernels attend, of which one makes room, and each norm is made with the sum before it.
    """
    n = sum(lengths)
    layers = linear(n, width, 3 * width) + linear(n, width, width) + linear(n, width, 4 * width)
    attention = Work(2 if fused else 3, 4 * width * sum(length**2 for length in lengths), 0, 4 * n * width)
    between = Work(2 if fused else 4, 0, 0, 8 * n * width) + pointwise(4 * n * width)
    return layers + linear(n, 4 * width, width) + attention + between


def last_block(lengths: Sequence[int], share: int, width: int, fused: bool = False) -> Work:
    """A block that computes `share` positions of each sequence and only looks at the others (see `dear.fast`)."""
    n, asked = sum(lengths), share * len(lengths)
    layers = linear(n, width, 2 * width) + linear(asked, width, width) * 2 + linear(asked, width, 4 * width)
    attention = Work(2 if fused else 3, 4 * width * share * n, 0, (2 * asked + 2 * n) * width)
    between = Work(2 if fused else 4, 0, 0, 8 * asked * width) + pointwise(4 * asked * width)
    return layers + linear(asked, 4 * width, width) + attention + between + pointwise(asked * width, 2)


def backbone(c: BackboneConfig, rows: int, known: int, words: int) -> Work:
    """A pass on `rows` sequences (clips, times two with guidance), of whose tokens `known` are known.

    words: vectors of the text that are seen, the pooled one included; c.pool must be "no".
    """
    seen, w = max(known, 1), c.width
    work = linear(rows * seen, c.token_dim, w) + _text(c, rows, words) + _window(c, rows)
    work += attention_block([words + seen] * rows, w) * c.encoder_layers
    work += attention_block([words + c.tokens] * rows, w) * c.decoder_layers
    return work + Work(AROUND_BACKBONE, 0, 0, 10 * rows * c.tokens * w)


def fast_backbone(c: BackboneConfig, batch: int, known: int, share: int, words: int, fused: bool) -> Work:
    """The same for `batch` clips in `dear.fast`: one position stands for no text, the last block is for new tokens."""
    w, starts = c.width, (words,) * batch + (1,) * batch
    ends = [start + c.tokens for start in starts]
    work = linear(batch * share, c.token_dim, w) + _window(c, batch) + last_block(ends, share, w, fused)
    work += attention_block([start + known for start in starts], w, fused) * c.encoder_layers
    work += attention_block(ends, w, fused) * (c.decoder_layers - 1)
    return work + Work(AROUND_FAST[fused] + OF_A_WINDOW * bool(c.window), 0, 0, 10 * batch * c.tokens * w)


def _text(c: BackboneConfig, rows: int, words: int) -> Work:
    work = linear(rows * (words - bool(c.pooled_dim)), c.text_dim, c.width)
    return work + linear(rows, c.pooled_dim, c.width) if c.pooled_dim else work


def _window(c: BackboneConfig, rows: int) -> Work:
    inputs = (c.token_dim + 1) * (2 * c.window + 1)
    return linear(rows * c.tokens, inputs, c.width) if c.window else Work()


def head(c: HeadConfig, rows: int) -> Work:
    """A pass for `rows` vectors, each a token in one branch of guidance."""
    w = c.width
    block = linear(rows, w, w) * 2 + linear(rows, w, 3 * w) + pointwise(rows * w, 7)
    work = block * c.depth + linear(rows, c.noise_dim or c.token_dim, w) + linear(rows, c.cond_dim, w)
    work += (linear(rows, FEATURES, w) + linear(rows, w, w) + pointwise(rows * w, OF_A_TIME - 2)) * c.times
    return work + linear(rows, w, 2 * w) + linear(rows, w, c.token_dim) + pointwise(rows * w, 4)


def fast_head(c: HeadConfig, rows: int, steered: int, fused: bool) -> Work:
    """A pass of `dear.fast` for noise of `rows` tokens in `steered` rows of all branches, without its modulations."""
    w = c.width
    block = linear(steered, w, w) * 2 + Work(2 if fused else 4, 0, 0, 8 * steered * w)
    work = block * c.depth + linear(rows, c.noise_dim or c.token_dim, w) + linear(steered, w, c.token_dim)
    return work + Work(1 if fused else 2, 0, 0, 4 * steered * w)


def modulations(c: HeadConfig, steered: int, steps: int) -> list[tuple[int, Work]]:
    """The products that make them in `dear.fast`, each for as many steps as have MODULATED rows, and what reads h."""
    def one(at_once: int) -> Work:
        rows = steered * at_once
        return linear(rows, c.width, (3 * c.depth + 2) * c.width) + pointwise(rows * c.width, 2)

    at_once = max(1, MODULATED // steered)
    found = [(1, linear(steered, c.cond_dim, c.width)), (steps // at_once, one(at_once))]
    return found + [(1, one(steps % at_once))] * (steps % at_once > 0)


def decoding(
    size: Size, model: str, batch: int, iterations: int, steps: int, path: str = "plain", fused: bool = False
) -> dict[str, list]:
    """Passes of a whole decoding with guidance, by stage, each with how often it runs: {stage: [(times, Work)]}.

    model: "student" (one call of the head a token, on mixed hidden states) or "teacher" (`steps` calls, in both
    branches, each with a step of the sampler).  path: "plain" is `dear.decoding.decode`, "optimised" `dear.fast`.
    fused: of the latter, with small operations compiled.
    """
    c, fast, diffuses = size.backbone, path == "optimised", model == "teacher"
    shares = decoding_schedule("cosine", iterations, c.tokens)
    passes, calls = [(1, _text(c, batch, size.words))] if fast else [], []
    for known, share in zip(accumulate(shares[:-1], initial=0), shares, strict=True):
        rows, around = batch * share, Work(AROUND_ITERATION, 0, 0, 4 * batch * c.tokens * c.width)
        one = (fast_backbone(c, batch, known, share, size.words, fused) if fast
               else backbone(c, 2 * batch, known, size.words))
        passes.append((1, one if fast else one + around))
        net, steered = (size.teacher, 2 * rows) if diffuses else (size.student, rows)
        call = fast_head(net, rows, steered, fused) if fast else head(net, steered)
        if diffuses:
            call += pointwise(rows * c.token_dim, OF_A_FAST_STEP[fused] if fast else OF_A_STEP)
        calls.append((steps, call))
        calls += modulations(net, steered, steps) if fast else []
    return {"backbone": passes, "head": calls}


def of_row(row: dict) -> dict[str, list[tuple[int, Work]]]:
    """`decoding` of a dict with size, model, path, batch, iterations, steps, and tokens, fused where they differ."""
    told = {name: row[name] for name in ("model", "batch", "iterations", "steps", "path")}
    told["fused"] = row.get("fused", False)
    return decoding(SIZES[row["size"]].of(row.get("tokens")), **told)


def flop(row: dict) -> float:
    """Floating-point operations of the decoding that a row tells of."""
    return total(of_row(row)).flop


def total(stages: dict[str, list[tuple[int, Work]]]) -> Work:
    """The sum of all passes of all stages."""
    return sum((work * times for passes in stages.values() for times, work in passes), Work())


@dataclass(frozen=True)
class Machine:
    """A device as the model sees it.

    launch: seconds a kernel.  rate: operations a second of its matrix units at best.  bandwidth: bytes a second.
    efficiency: share of the rate that products of many rows reach.  half: rows that reach half of that.
    overlaps: whether it computes while it launches.
    """

    name: str
    launch: float
    rate: float
    bandwidth: float
    efficiency: float = 1.0
    half: float = 32.0
    overlaps: bool = True

    def seconds(self, work: Work, bytes_a_number: int) -> float | np.ndarray:
        """Seconds of one pass, or of many whose work is told by arrays."""
        launching = self.launch * work.kernels
        computing = (work.flop + 2 * work.weights * self.half) / (self.rate * self.efficiency)
        computing += bytes_a_number * (work.weights + work.activations) / self.bandwidth
        return np.maximum(launching, computing) if self.overlaps else launching + computing


# Rates and bandwidths are those of NVIDIA's data sheets, dense, the V100's (SXM2) with its tensor cores in float16 and
# without them. No sheet states what a launch costs: 5 us a kernel is usual for PyTorch, 2 us in a recorded graph.
MACHINES = {m.name: m for m in (
    Machine("V100, float16", 5e-6, 125e12, 0.9e12),
    Machine("V100, float32", 5e-6, 15.7e12, 0.9e12),
    Machine("H100, bfloat16", 5e-6, 989e12, 3.35e12),
    Machine("H200, bfloat16", 5e-6, 989e12, 4.8e12),
    Machine("H200, bfloat16, graphs", 2e-6, 989e12, 4.8e12),
)}
# Seconds of 8 clips on a V100 (IMPACT, arXiv 2506.00736: 2.25 + 0.198 n; AudioDEAR, arXiv 2605.00329). Precision is not
# stated there; in float32 the card could not do the operations of 64 passes of the backbone in the 2.25 s.
PUBLISHED = [{"size": "paper", "path": "plain", "batch": 8, "dtype": "float16", "model": model, "iterations": t,
              "steps": n, "seconds": {"median": s}} for model, t, n, s in (
                 ("teacher", 64, 50, 12.1), ("teacher", 64, 100, 22.2), ("teacher", 64, 150, 31.6),
                 ("teacher", 64, 200, 41.9), ("teacher", 16, 100, 5.7), ("teacher", 4, 100, 1.8),
                 ("student", 64, 1, 2.61))]


def predict(machine: Machine, row: dict) -> dict[str, float]:
    """Seconds of the decoding that a row tells of (see `of_row`), by stage and in "all"."""
    found = {stage: _sum(machine, *_stacked(passes), BYTES[row["dtype"]]) for stage, passes in of_row(row).items()}
    return found | {"all": sum(found.values())}


def _stacked(passes: Sequence[tuple[int, Work]]) -> tuple[np.ndarray, Work]:
    """How often each pass runs, and the work of all of them as arrays."""
    columns = np.array([astuple(work) for _, work in passes], dtype=float).T
    return np.array([times for times, _ in passes]), Work(*columns)


def _sum(machine: Machine, times: np.ndarray, works: Work, bytes_a_number: int) -> float:
    return float(times @ machine.seconds(works, bytes_a_number))


def fit(rows: Sequence[dict], start: Machine, clock: str = "median", pull: float = 0.02) -> Machine:
    """The machine whose predictions come nearest to the measured seconds of rows, in squared logarithms.

    Launch, efficiency and half are found, the rest is as in start. What the rows leave open stays there too, for each
    figure is held with `pull`: so small is the error of a row that weighs as much as a factor e of a figure.
    clock: which of a row's seconds is meant, "median" of the wall's or the "processor"'s.
    """
    measured = np.log([row["seconds"][clock] for row in rows])
    passes = [(*_stacked(sum(of_row(row).values(), [])), BYTES[row["dtype"]]) for row in rows]

    def machine(logs: np.ndarray) -> Machine:
        launch, efficiency, half = np.exp(logs).tolist()
        return replace(start, launch=start.launch * launch, efficiency=start.efficiency * efficiency,
                       half=start.half * half)

    def residuals(logs: np.ndarray) -> np.ndarray:
        found = machine(logs)
        told = [_sum(found, *one) for one in passes]
        return np.concatenate([np.log(told) - measured, pull * logs])

    return machine(least_squares(residuals, np.zeros(3)).x)


def errors(machine: Machine, rows: Sequence[dict], clock: str = "median") -> list[float]:
    """Prediction over measurement minus 1, for each row."""
    return [predict(machine, row)["all"] / row["seconds"][clock] - 1 for row in rows]


def growth(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The exponent a of y ~ x^a, by least squares on logarithms."""
    if len(set(xs)) < 2:
        raise ValueError(f"an exponent needs two different sizes, got {list(xs)}")
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])
