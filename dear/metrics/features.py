"""Features of clips, which distances between sets of clips are measured in."""

import torch
from torch import Tensor


@torch.no_grad()
def features_of(net, log_mels: Tensor) -> Tensor:
    """Features (n, F) of log-mels (n, T, 64) by a net that has `features` (oracle, listener), 128 clips at a time."""
    return torch.cat([net.features(x) for x in log_mels.split(128)])
