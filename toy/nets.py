"""The net of the plane: a plain MLP that follows the objectives' protocol, net(x_or_noise, cond, *times)."""

import dataclasses
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}


@dataclass(frozen=True)
class NetConfig:
    """Sizes of an MLP.

    times: scalars a row that the net takes after cond (an objective's `times`).  noise_dim: width of its first
    argument.  data_dim: width of its answer.  cond_dim: width of cond, 0 for none.  width, depth: hidden layers.
    waves: sines and cosines of a time t, up to `waves` half turns over t in [0, 1].
    """

    times: int = 0
    noise_dim: int = 2
    data_dim: int = 2
    cond_dim: int = 0
    width: int = 256
    depth: int = 4
    activation: str = "relu"
    waves: int = 4

    def __post_init__(self):
        for name in ("noise_dim", "data_dim", "width", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("times", "cond_dim", "waves"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")


class MLP(nn.Module):
    """Layers of equal width that see x, cond and slow waves of every time side by side."""

    def __init__(self, config: NetConfig | None = None, generator: torch.Generator | None = None):
        """generator: on the CPU, draws the first weights as torch's own layers do; None: torch's global one."""
        super().__init__()
        self.config = config = config or NetConfig()
        features = config.noise_dim + config.cond_dim + config.times * (1 + 2 * config.waves)
        widths = [features, *[config.width] * config.depth, config.data_dim]
        layers = []
        for inward, outward in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.utils.skip_init(nn.Linear, inward, outward), ACTIVATIONS[config.activation]()]
            for parameter in layers[-2].parameters():
                nn.init.uniform_(parameter, -(inward**-0.5), inward**-0.5, generator=generator)
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor, cond: Tensor, *times: Tensor) -> Tensor:
        """x: (B, noise_dim).  cond: (B, cond_dim).  times: (B,) each, usually in [0, 1].  Returns (B, data_dim)."""
        if len(times) != self.config.times:
            raise ValueError(f"this net takes {self.config.times} times, got {len(times)}")
        return self.layers(torch.cat([x, cond, *(time_features(t, self.config.waves) for t in times)], dim=1))


def time_features(t: Tensor, waves: int) -> Tensor:
    """t, and sin(pi k t) and cos(pi k t) for k = 1..waves: t (B,) -> (B, 1 + 2 waves).

    The waves are slow on purpose: MeanFlow learns from the net's derivative in t, at most pi waves here, which an
    embedding of 1000 t would fill with noise.
    """
    angle = math.pi * t[:, None] * torch.arange(1, waves + 1, device=t.device, dtype=t.dtype)
    return torch.cat([t[:, None], angle.sin(), angle.cos()], dim=1)


def save_net(net: MLP, path: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """Write weights and config as one safetensors file, beside `path` and then renamed; float16 halves its size."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file({k: v.detach().to("cpu", dtype).contiguous() for k, v in net.state_dict().items()}, draft,
                  {"config": json.dumps(dataclasses.asdict(net.config))})
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def load_net(path: str | Path) -> MLP:
    """Net from a file written by `save_net`: float32, on the CPU, in evaluation mode."""
    with safe_open(path, "pt") as file:
        net = MLP(NetConfig(**json.loads(file.metadata()["config"])))
        net.load_state_dict({k: file.get_tensor(k).float() for k in file.keys()})
    return net.eval()
