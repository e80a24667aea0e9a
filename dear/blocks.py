"""What networks share: a seeded start, the device, and of those that see log-mels their scale and a block."""

from contextlib import contextmanager

import torch
from torch import nn

CENTRE, SPREAD = -5.3, 1.7  # mean and standard deviation of SoundWorld's log-mels


@contextmanager
def seeded(seed: int):
    """Draw the first weights of networks made in this block from a seed; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def fastest_device() -> torch.device:
    """The first CUDA device, or the CPU. Not Apple's: it has no float64, which the shares of masks are drawn in."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class ConvBlock(nn.Module):
    """Residual block over time: two dense convolutions with normalisation over channels.

    (B, C, T) -> (B, C, T). Dense, because depthwise convolutions are slow on a CPU.
    """

    def __init__(self, width: int, kernel: int = 3):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, width), nn.GroupNorm(1, width)
        self.conv1 = nn.Conv1d(width, width, kernel, padding=kernel // 2)
        self.conv2 = nn.Conv1d(width, width, kernel, padding=kernel // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the block's change to x."""
        silu = nn.functional.silu
        return x + self.conv2(silu(self.norm2(self.conv1(silu(self.norm1(x))))))
