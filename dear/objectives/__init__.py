"""One file per way to learn a sampler; every objective has `loss` and `sample`, for any net of the right arity."""

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
