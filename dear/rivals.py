"""Every way to learn a head that this course compares, each with the settings it is tried in, and heads for them.

The frame is the paper's: same backbone, same tokens, same data, only the head's objective changes (rectified flow alone
has fewer data, the pairs that its teacher made once, as its paper has them). ConsistencyTTA, SoundCTM, AudioLCM and
AudioTurbo stand in it by their method: a head that is distilled from the teacher's.
"""

import copy
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from dear.blocks import seeded
from dear.head import AdaLNHead
from dear.objectives import (
    ConsistencyDistillation,
    Energy,
    Flow,
    LatentConsistency,
    MeanFlow,
    Rectified,
    Shortcut,
    Trajectory,
    as_velocity,
)


@dataclass(frozen=True)
class Try:
    """One setting of a method.

    arguments: what the objective is built with.  heard: the coordinates of its loss are weighted by how much each is
    heard.  target: "average" or "itself", see `train_head`.  time_scale: of the head's times.
    start: "scratch", or "teacher": the head begins as the teacher's.  learning_rate: of AdamW.
    """

    arguments: dict = field(default_factory=dict)
    heard: bool = False
    target: str = "average"
    time_scale: float = 1000.0
    start: str = "scratch"
    learning_rate: float = 1.5e-3


@dataclass(frozen=True)
class Method:
    """A way to learn a head; the first try is the published setting where it can be had here, the last is weighted.

    steps: calls of the head a token that it is drawn with, the first being its own.  distilled: learns from the
    teacher's head.  of: the system it stands for.
    """

    name: str
    objective: type
    tries: tuple[Try, ...]
    steps: tuple[int, ...] = (1,)
    distilled: bool = False
    of: str = ""


METHODS = (
    Method("energy", Energy, (
        Try({"samples": 2}),
        Try({"samples": 2, "noise_dim": 8}),
        Try({"samples": 4, "noise_dim": 8}, heard=True),
        Try({"samples": 2, "noise_dim": 8}, heard=True),
    ), of="AudioDEAR"),
    Method("flow", Flow, (
        Try(),
        Try(learning_rate=3e-3),
        Try(time_scale=10.0),
        Try(learning_rate=3e-3, heard=True),
    ), (1, 4, 16)),
    Method("shortcut", Shortcut, (
        Try({"finest": 128, "share": 0.25}),
        Try({"finest": 32, "share": 0.5}),
        Try({"finest": 16, "share": 0.5}, target="itself"),
        Try({"finest": 16, "share": 0.5}, target="itself", heard=True),
    ), (1, 4, 16)),
    # A loss with a time derivative in it: the scale of the times counts, see HeadConfig.
    Method("meanflow", MeanFlow, (
        Try({"share": 0.25, "power": 1.0, "sampling": "lognormal"}, time_scale=10.0),
        Try({"share": 0.5, "power": 0.5, "sampling": "uniform"}, time_scale=10.0),
        Try({"share": 0.5, "power": 0.0, "sampling": "uniform"}, time_scale=3.0),
        Try({"share": 0.25, "power": 1.0, "sampling": "lognormal"}, time_scale=10.0, heard=True),
    ), (1, 4, 16)),
    Method("consistency", ConsistencyDistillation, (
        Try({"intervals": 18, "guidance": (0.0, 6.0)}, start="teacher"),
        Try({"intervals": 18}, start="teacher"),
        Try({"intervals": 18}, start="teacher", target="itself"),
        Try({"intervals": 18}, start="teacher", heard=True),
    ), (1, 4), distilled=True, of="ConsistencyTTA"),
    Method("trajectory", Trajectory, (
        Try({"guidance": (2.0, 5.0), "most": 3}, start="teacher"),
        Try({"most": 3}, start="teacher"),
        Try({"most": 3, "denoising": 0.1}, start="teacher", target="itself"),
        Try({"most": 3, "denoising": 0.1}, start="teacher", target="itself", heard=True),
    ), (1, 4), distilled=True, of="SoundCTM"),
    Method("latent_consistency", LatentConsistency, (
        Try({"guidance": (5.0, 13.0)}, start="teacher"),
        Try({"skip": 50, "guidance": (1.0, 3.0)}, start="teacher"),
        Try({"skip": 50, "huber": 0.1}, start="teacher", target="itself"),
        Try({"skip": 50, "guidance": (1.0, 3.0)}, start="teacher", heard=True),
    ), (1, 2), distilled=True, of="AudioLCM"),
    Method("rectified", Rectified, (
        Try({"guidance_scale": 2.0}, start="teacher"),
        Try(start="teacher"),
        Try(),
        Try(start="teacher", heard=True),
    ), (1, 5), distilled=True, of="AudioTurbo"),
)


def method(name: str) -> Method:
    """The method of a name; ValueError with all names for another."""
    found = {m.name: m for m in METHODS}
    if name not in found:
        raise ValueError(f"the method must be one of {', '.join(found)}, got {name!r}")
    return found[name]


class VelocityHead(nn.Module):
    """A diffusion head read as a velocity net on the clock of flow.py, trainable: net(x, cond, t, *more) -> (R, D)."""

    def __init__(self, diffusion, head: AdaLNHead):
        super().__init__()
        self.diffusion, self.head = diffusion, head
        self.velocity = as_velocity(diffusion, head)

    def __deepcopy__(self, memo) -> "VelocityHead":
        """A copy whose velocity is that of its own head."""
        return type(self)(self.diffusion, copy.deepcopy(self.head, memo))

    def forward(self, x: Tensor, cond: Tensor, *times: Tensor) -> Tensor:
        """x: (R, D).  cond: (R, C).  times: each (R,), t first.  Returns n - x as the head sees it, (R, D)."""
        return self.velocity(x, cond, *times)


def build(chosen: Method, setting: Try, master, weights: Tensor, seed: int, **sizes) -> tuple[object, nn.Module]:
    """Objective and new head of a try; sizes: changes of HeadConfig, whose default here is the teacher's head.

    master: the teacher, a TextToAudio.  weights: (D,), how much each coordinate is heard.  A head that starts as the
    teacher's has its size, reads it as a velocity, and further times and guidance weights that do nothing at first.
    """
    arguments = dict(setting.arguments)
    if chosen.distilled:
        teacher = copy.deepcopy(master.head).eval().requires_grad_(False)
        arguments["teacher"] = as_velocity(master.objective, lambda x, *given: teacher.to(x.device)(x, *given))
    if setting.heard:
        arguments["weights"] = weights
    objective = chosen.objective(**arguments)
    config = replace(master.head.config, times=objective.times, time_scale=setting.time_scale,
                     noise_dim=setting.arguments.get("noise_dim"), **sizes)
    with seeded(seed):
        head = AdaLNHead(config)
    if setting.start == "scratch":
        return objective, head
    head.load_state_dict(master.head.state_dict(), strict=False)
    for embedding in head.times[1:]:
        nn.init.zeros_(embedding.mlp[-1].weight)
    return objective, VelocityHead(master.objective, head)


def sees_both(setting: Try) -> bool:
    """Whether the loss of a try takes h with and without the caption, because it guides its teacher."""
    return "guidance" in setting.arguments or "guidance_scale" in setting.arguments


def with_guidance(objective, scale: float):
    """The objective of a student that takes the guidance weight as an input, drawing with this weight."""
    drawn = copy.copy(objective)
    drawn.teacher = copy.copy(objective.teacher)
    drawn.teacher.guidance_scale = scale
    return drawn
