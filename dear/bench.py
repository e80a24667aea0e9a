"""Seconds a clip of the paper's student, its teacher and its rivals: full-size networks with random weights, one run.

How long a forward pass takes does not depend on what the weights are, so nothing is trained or downloaded. A clip is
10.24 s at 16 kHz, a latent of 8 x 256 x 16 or 256 tokens of 128; all is of one dtype. Text encoder, VAE and vocoder are
left out: they are the same for all but AudioLCM and AudioTurbo, which have their own.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

SPREAD = ("median", "minimum", "maximum", "processor")
# torch counts the attention of every GPU kernel, and misses that of the CPU's.
UNCOUNTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)),
}


@dataclass(frozen=True)
class Timing:
    """Seconds of a call, over `repeats` calls after one to warm up.

    processor: median of the seconds that this process computed, all threads together. Where other work slows a CPU
    down, with one thread, this is what a free core would take; where a GPU computes, it says little.
    """

    median: float
    minimum: float
    maximum: float
    processor: float
    repeats: int


@dataclass(frozen=True)
class Pass:
    """A kind of forward pass.

    part: name of the submodule that runs, "" for the whole network.  prepare(net, size, batch, device) returns the
    pass as a function without arguments.  sizes: ascending, where it is timed; a pass of another size is interpolated.
    What a size counts is the pass's own, nothing for a pass that always costs the same.
    """

    name: str
    part: str
    prepare: Callable[[nn.Module, int, int, str], Callable[[], object]]
    sizes: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class System:
    """A way to make a clip.

    build: makes its network; systems with the same function share one.  clip: the passes of one clip, each with the
    size of every time it runs.  paper_seconds: AudioDEAR's table, 8 clips on a V100.  whole(net, batch, device) makes
    the clips from beginning to end, where that is quick enough to check the sum of the passes against.
    """

    name: str
    build: Callable[[], nn.Module]
    clip: tuple[tuple[Pass, tuple[int, ...]], ...]
    note: str
    paper_seconds: float | None = None
    whole: Callable[[nn.Module, int, str], object] | None = None

    def forwards(self) -> dict[str, int]:
        """How often each pass runs; a pass with guidance runs once for both branches."""
        return {kind.name: len(sizes) for kind, sizes in self.clip}

    def parameters(self, net: nn.Module) -> int:
        """Number of parameters of the parts that the system uses."""
        return sum(p.numel() for kind, _ in self.clip for p in net.get_submodule(kind.part).parameters())


def materialise(build: Callable[[], nn.Module], device: str = "cpu") -> nn.Module:
    """Network with weights from N(0, 0.02^2), ready to run; drawn in one go, as 866 M take long layer by layer.

    Left uninitialised, memory may hold denormal numbers, with which a CPU is many times slower.
    """
    with torch.device("meta"):
        net = build()
    if any(True for _ in net.buffers()):
        raise ValueError("a network with buffers cannot be filled with random numbers")
    net, generator = net.to_empty(device=device).eval().requires_grad_(False), torch.Generator(device).manual_seed(0)
    for parameter in net.parameters():
        parameter.normal_(std=0.02, generator=generator)
    return net


@contextmanager
def default_dtype(name: str) -> Iterator[None]:
    """Make what is made in this block, networks and noise, of a dtype such as "bfloat16"."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, name))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def time_calls(
    call: Callable[[], object], repeats: int = 3, device: str = "cpu", at_least: float = 0.5, at_most: float = math.inf
) -> Timing:
    """Time `repeats` calls, or more until `at_least` seconds are spent, up to 100; the caller warms up.

    at_most: seconds after which no further call begins.
    """
    seconds, computed = [], []
    while not seconds or sum(seconds) < at_most and (
        len(seconds) < repeats or sum(seconds) < at_least and len(seconds) < 100
    ):
        _wait(device)
        began, busy = time.perf_counter(), time.process_time()
        call()
        _wait(device)
        seconds.append(time.perf_counter() - began)
        computed.append(time.process_time() - busy)
    middle = statistics.median
    return Timing(middle(seconds), min(seconds), max(seconds), middle(computed), len(seconds))


def clock_of(device: str) -> str:
    """Which of a Timing's seconds to believe: on one thread of a CPU its own, whatever else runs beside."""
    return "processor" if device == "cpu" and torch.get_num_threads() == 1 else "median"


def integrate(sizes: Sequence[int], known: dict[int, float]) -> float:
    """Sum of a cost over passes of these sizes, from its value at some sizes, linear between neighbours."""
    at = sorted(known)
    if min(sizes) < at[0] or max(sizes) > at[-1]:
        raise ValueError(f"sizes must lie in {at[0]}..{at[-1]}, where the cost is known, got {sizes}")
    return float(np.interp(sizes, at, [known[size] for size in at]).sum())


def measure(systems: Sequence[System], batch: int = 1, repeats: int = 3, device: str = "cpu") -> list[dict]:
    """A row for each system, in their order; networks are built one after the other and never two at a time."""
    found = [row for group in by_network(systems) for row in _measure_network(group, batch, repeats, device)]
    rows = {row["system"]: row for row in found}
    return [rows[system.name] for system in systems]


def survey(figures: dict, systems: Sequence[System], repeats: int, seconds: float, keep: Callable[[], None]) -> None:
    """Measure into figures["rows"], network by network; keep() is called after each.

    figures: has "ran_on", "dtype", "batch" and "missing", which gets what failed or was not begun within `seconds`.
    ValueError if nothing at all was timed.
    """
    figures["rows"], began = [], time.monotonic()
    for group in by_network(systems):
        try:
            if time.monotonic() - began > seconds:
                raise ValueError(f"{'; '.join(system.name for system in group)}: not begun within {seconds:.0f} s")
            with default_dtype(figures["dtype"]):
                figures["rows"] += measure(group, figures["batch"], repeats, figures["ran_on"])
        except ValueError as error:
            figures["missing"].append(str(error))
            print(error, flush=True)
        keep()
    if not figures["rows"] and "decodings" not in figures:
        raise ValueError("; ".join(figures["missing"]))


def by_network(systems: Sequence[System]) -> list[list[System]]:
    """The systems, those together that share a network."""
    builds = dict.fromkeys(system.build for system in systems)
    return [[system for system in systems if system.build is build] for build in builds]


def choose(systems: Sequence[System], only: Sequence[str]) -> list[System]:
    """Systems whose name holds one of `only`, capitals or not; all, if `only` is empty."""
    for wanted in only:
        if not any(wanted.lower() in system.name.lower() for system in systems):
            raise ValueError(f"no system is called {wanted!r}; there are {'; '.join(s.name for s in systems)}")
    return [s for s in systems if not only or any(wanted.lower() in s.name.lower() for wanted in only)]


def table(rows: Sequence[dict]) -> str:
    """The rows as text, seconds as median [minimum, maximum], and the notes below.

    Seconds a forward are those of the first pass, at its middle size. CPU seconds are a clip's (see Timing).
    """
    head = ("system", "M", "forwards", "s a forward", "s a clip", "CPU s", "how", "GFLOP", "paper: 8 clips, V100")
    lines, remarks = [head], []
    for row in rows:
        counts, clip, paper = row["forwards"], row["seconds_per_clip"], row["paper_seconds"]
        first = [timed for timed in row["passes"] if timed["name"] == next(iter(counts))]
        lines.append((
            row["system"], f"{row['parameters'] / 1e6:.0f}", ", ".join(f"{n} {name}" for name, n in counts.items()),
            spread(first[len(first) // 2]), spread(clip), f"{clip['processor']:.3g}", row["how"],
            f"{row['gflop_per_clip']:.0f}", "" if paper is None else f"{paper:g}",
        ))
        remarks.append(f"{row['system']}: {row['note']}")
        if "relative_difference" in row:
            wall, cpu = (100 * row["relative_difference"][name] for name in ("median", "processor"))
            remarks[-1] += f"; the sum of its passes is {wall:+.1f} % off the whole, in CPU seconds {cpu:+.1f} %"
    return "\n".join([*aligned(lines), *remarks])


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells as text in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


@torch.no_grad()
def _measure_network(group: list[System], batch: int, repeats: int, device: str) -> list[dict]:
    """Rows of the systems that share a network; each kind of pass is timed once for all of them."""
    rows, times, gflop, where = [], {}, {}, "building the network"
    try:
        net = materialise(group[0].build, device)
        for system in group:
            for at in ((kind, size) for kind, _ in system.clip for size in kind.sizes):
                if at not in times:
                    where = f"{at[0].name}, size {at[1]}"
                    times[at], gflop[at] = _time_pass(net, *at, batch, repeats, device)
                    print(f"{system.name}: {where}: {times[at].median:.4g} s", flush=True)
            where, whole = "making the clip whole", None
            if system.whole:
                whole = time_calls(partial(system.whole, net, batch, device), repeats, device)
                print(f"{system.name}: {where}: {whole.median:.4g} s", flush=True)
            rows.append(_row(system, system.parameters(net), times, gflop, whole, batch))
    except Exception as error:
        names = "; ".join(system.name for system in group)
        raise ValueError(f"{names}: failed at: {where}: {type(error).__name__}: {error}") from error
    return rows


def _time_pass(net, kind: Pass, size: int, batch: int, repeats: int, device: str) -> tuple[Timing, float]:
    """Seconds and GFLOP of a pass; the pass that counts operations is also the one that warms up."""
    call = kind.prepare(net, size, batch, device)
    with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
        out = call()
    if not (out if isinstance(out, Tensor) else out[0]).isfinite().all():
        raise FloatingPointError("what comes out is not finite")
    return time_calls(call, repeats, device), counter.get_total_flops() / 1e9


def _row(system: System, parameters: int, times: dict, gflop: dict, whole: Timing | None, batch: int) -> dict:
    """One line of the record. Minimum and maximum of a sum are those of passes that are all quick, or all slow."""
    def total(value: Callable[[Pass, int], float]) -> float:
        return sum(integrate(sizes, {s: value(kind, s) for s in kind.sizes}) for kind, sizes in system.clip)

    found = {name: total(lambda kind, s, name=name: getattr(times[kind, s], name)) for name in SPREAD}
    row = {"system": system.name, "parameters": parameters, "forwards": system.forwards(),
           "how": "measured" if whole or sum(system.forwards().values()) == 1 else "extrapolated"}
    if whole:
        row |= {"extrapolated": {name: value / batch for name, value in found.items()},
                "relative_difference": {name: value / getattr(whole, name) - 1 for name, value in found.items()}}
        found = {name: getattr(whole, name) for name in SPREAD}
    return row | {
        "seconds_per_clip": {name: value / batch for name, value in found.items()},
        "gflop_per_clip": total(lambda kind, s: gflop[kind, s]) / batch,
        "paper_seconds": system.paper_seconds,
        "note": system.note,
        "passes": [{"name": kind.name, "size": s, **asdict(times[kind, s]), "gflop": gflop[kind, s]}
                   for kind, _ in system.clip for s in kind.sizes],
    }


def spread(seconds: dict) -> str:
    """The seconds of a Timing as text: median [minimum, maximum]."""
    return "{median:.3g} [{minimum:.3g}, {maximum:.3g}]".format(**seconds)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
