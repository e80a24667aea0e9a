"""How long a training step takes on G GPUs: steps that were measured on one, and the arithmetic of sending gradients.

A step on a batch of B clips, of which each GPU takes B / G in `accumulate` parts of b clips, lasts

    T = accumulate t(b) + update + moving the gradients + 2 (G - 1) / G x bytes / bandwidth + 2 (G - 1) x latency

t(b), the update and the speed of memory are measured on one device (`dear.train_cost`). The rest is the ring all-reduce
of `dear.training.Run.combine`: all gradients in float32, in one message after the backward pass, so that nothing of it
is hidden, through the slowest link of the ring. Nothing here measures a network.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dear.bench import integrate

COMMAND = "dear bench --what training --size paper --device cuda --record training.json"
SENT = 4  # bytes a parameter: float32
MOVED = 6  # times that a gradient is read or written to be sent: all are joined, copied, and divided
REACHED = 0.8  # of a sheet's rate that messages of this size reach (assumed)
GPUS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Link:
    """A way between GPUs: bytes a second in one direction, as its sheet says, and seconds a hop, which are assumed."""

    rate: float
    latency: float


INSIDE = {"NVLink 4": Link(450e9, 5e-6), "NVLink 3": Link(300e9, 5e-6), "PCIe 5": Link(64e9, 1e-5),
          "PCIe 4": Link(32e9, 1e-5)}
# All adapters of a machine together.
BETWEEN = {"100 Gb/s": Link(12.5e9, 2e-5), "200 Gb/s": Link(25e9, 2e-5), "400 Gb/s": Link(50e9, 2e-5),
           "8 x 400 Gb/s": Link(400e9, 2e-5)}


@dataclass(frozen=True)
class Plan:
    """Where and how long to train: `gpus` of each of `machines`, links by name, `batch` clips a step.

    steps: of pretrain, teacher and student; not published, so assumed: those of `dear train --config paper`.
    """

    gpus: int = 8
    machines: int = 1
    inside: str = "NVLink 4"
    between: str = "400 Gb/s"
    batch: int = 2048
    steps: tuple[int, int, int] = (60_000, 120_000, 60_000)

    def __post_init__(self):
        if min(self.gpus, self.machines, self.batch, *self.steps) < 1:
            raise ValueError(f"GPUs, machines, batch and steps must be at least 1, got {self.gpus}, {self.machines}, "
                             f"{self.batch} and {', '.join(map(str, self.steps))}")
        for name, choice, links in (("--inside", self.inside, INSIDE), ("--network", self.between, BETWEEN)):
            if choice not in links:
                raise ValueError(f"{name} must be one of {', '.join(links)}, got {choice!r}")
        if self.batch % self.all:
            raise ValueError(f"a batch of {self.batch} clips cannot be shared evenly by {self.all} GPUs; choose a "
                             "number of GPUs that divides it")

    @property
    def all(self) -> int:
        """GPUs of all machines."""
        return self.gpus * self.machines

    def link(self) -> Link:
        """The slowest rate and the longest latency on the ring."""
        links = [INSIDE[self.inside]] * (self.gpus > 1) + [BETWEEN[self.between]] * (self.machines > 1)
        return Link(REACHED * min(link.rate for link in links), max(link.latency for link in links))


@dataclass(frozen=True)
class Step:
    """Seconds of a step: computing (all parts), updating, sending.  part: clips that a GPU takes at once."""

    computing: float
    update: float
    sending: float
    part: int
    accumulate: int

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.computing + self.update + self.sending


def traffic(parameters: int, gpus: int) -> float:
    """Bytes that each of so many GPUs sends in a step: of a ring's 2 (G - 1) messages, each a G-th of the gradients."""
    return 2 * (gpus - 1) / gpus * SENT * parameters


def steps_of(figures: dict, kind: str) -> list[dict]:
    """Rows of a record of `dear.train_cost`, of steps of a kind at the paper's size; ValueError if there is none."""
    rows = [row for row in figures["steps"] if (row["size"], row["model"]) == ("paper", kind)]
    if not rows:
        raise ValueError(f"the record has no step of {kind} at the paper's size; `{COMMAND}` measures it")
    return rows


def step_of(figures: dict, kind: str, plan: Plan) -> Step:
    """A step of a plan, in the parts that are quickest; between measured batches t(b) is taken as linear.

    ValueError if a GPU's share does not fall into equal parts between the least and the largest that were measured.
    """
    rows, clock, each = steps_of(figures, kind), figures["clock"], plan.batch // plan.all
    update = statistics.median(row["update"][clock] for row in rows)  # the same for any batch
    known = {row["batch"]: row["seconds"][clock] - update for row in rows}
    parts = [b for b in range(min(known), min(max(known), each) + 1) if each % b == 0]
    if not parts:
        more = " ".join(f"--batch {b}" for b in (each, *sorted(known)))  # a record holds what one command measures
        raise ValueError(f"each of {plan.all} GPUs takes {each} of {plan.batch} clips, which do not fall into parts as "
                         f"they were measured, of {min(known)} to {max(known)}; `{COMMAND} {more}` measures it")
    part = min(parts, key=lambda b: each // b * integrate([b], known))
    sending, parameters = 0.0, rows[0]["parameters"]
    if plan.all > 1:
        link = plan.link()
        sending = MOVED * SENT * parameters / figures["machine"]["bandwidth"]
        sending += traffic(parameters, plan.all) / link.rate + 2 * (plan.all - 1) * link.latency
    return Step(each // part * integrate([part], known), update, sending, part, each // part)


def efficiency(figures: dict, kind: str, plan: Plan) -> float:
    """Seconds of one GPU over those of all GPUs of a plan together, for the same batch."""
    alone = step_of(figures, kind, replace(plan, gpus=1, machines=1))
    return alone.seconds / (plan.all * step_of(figures, kind, plan).seconds)


def table(figures: dict, kind: str, plan: Plan) -> list[Sequence[str]]:
    """Lines of cells: for 1 to 64 GPUs in machines as the plan's, efficiency with each network."""
    lines = [("GPUs", "parts a GPU", *BETWEEN)]
    for gpus in (g for g in GPUS if g <= plan.gpus or g % plan.gpus == 0):
        try:
            one = replace(plan, gpus=min(gpus, plan.gpus), machines=max(1, gpus // plan.gpus))
            step = step_of(figures, kind, one)
        except ValueError:
            lines.append((str(gpus), "not measured", *[""] * len(BETWEEN)))
            continue
        found = (efficiency(figures, kind, replace(one, between=name)) for name in BETWEEN)
        lines.append((str(gpus), f"{step.accumulate} x {step.part}", *(f"{share:.0%}" for share in found)))
    return lines
