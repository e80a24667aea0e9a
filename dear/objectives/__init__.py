"""One file per way to learn a sampler; every objective has `loss` and `sample`, for any net of the right arity."""

from dear.objectives.diffusion import Diffusion
from dear.objectives.energy import Energy, energy_score

__all__ = ["Diffusion", "Energy", "energy_score"]
