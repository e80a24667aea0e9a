"""One file per way to learn a sampler; every objective has `loss` and `sample`, for any net of the right arity."""

from dear.objectives.diffusion import Diffusion
from dear.objectives.energy import Energy, EnergyAllPairs, energy_score, energy_score_all_pairs
from dear.objectives.flow import Flow
from dear.objectives.meanflow import MeanFlow
from dear.objectives.shortcut import Shortcut

__all__ = [
    "Diffusion",
    "Energy",
    "EnergyAllPairs",
    "Flow",
    "MeanFlow",
    "Shortcut",
    "energy_score",
    "energy_score_all_pairs",
]
