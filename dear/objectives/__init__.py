"""One file per way to learn a sampler; every objective has `loss` and `sample`, for any net of the right arity.

    loss(net, x, cond, generator, target=None) -> (B,)      rows, whose mean is the loss
    sample(net, cond, noise, steps, generator) -> (B, D)    steps: of the sampler, its default the usual number

net(x_or_noise, cond, *times) -> (B, D) takes as many times as the objective's `times` says, (B,) each; a guidance
weight is one more. Where `needs_target` is true, target is a moving average of net, which the training loop keeps.
x: (B, D), data.  cond: (B, C), C may be 0.  noise: (B, D), N(0, I), as wide as net takes.

A new objective is a file here, a name in `__all__` and a line in `PLAIN` of tests/test_objectives.py, which holds it
to this protocol. Nothing is inherited.
"""

from dear.objectives.consistency import ConsistencyDistillation, ConsistencyTraining
from dear.objectives.diffusion import Diffusion
from dear.objectives.energy import Energy, EnergyAllPairs, energy_score, energy_score_all_pairs
from dear.objectives.flow import Flow, as_velocity
from dear.objectives.latent_consistency import LatentConsistency
from dear.objectives.meanflow import MeanFlow
from dear.objectives.rectified import Rectified
from dear.objectives.shortcut import Shortcut
from dear.objectives.trajectory import Trajectory

__all__ = [
    "ConsistencyDistillation",
    "ConsistencyTraining",
    "Diffusion",
    "Energy",
    "EnergyAllPairs",
    "Flow",
    "LatentConsistency",
    "MeanFlow",
    "Rectified",
    "Shortcut",
    "Trajectory",
    "as_velocity",
    "energy_score",
    "energy_score_all_pairs",
]
