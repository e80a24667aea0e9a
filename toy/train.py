"""The training loop of the plane: any objective, any net, Adam with one cycle, and a moving average of the weights."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to train.

    learning_rate: the peak of the cycle.  ema: decay of the moving average, which is what training returns.
    target_ema: decay of the average that objectives learn from, None: the same one. A slow one holds back those that
    hand on what they know from interval to interval; consistency models have 0.95.
    cpu_seconds: None, or a limit in CPU seconds of this process: training then ends with whichever comes first, this
    or `steps`, its cycle completed.
    """

    steps: int = 4000
    batch_size: int = 1024
    learning_rate: float = 2e-3
    ema: float = 0.999
    target_ema: float | None = None
    seed: int = 0
    cpu_seconds: float | None = None

    def __post_init__(self):
        for name in ("steps", "batch_size", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("ema", "target_ema"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.cpu_seconds is not None and self.cpu_seconds <= 0:
            raise ValueError(f"cpu_seconds must be positive or None, got {self.cpu_seconds}")


@dataclass(frozen=True)
class Trained:
    """What a training gave: net (the moving average), steps done, CPU seconds, and the loss of every step."""

    net: nn.Module
    steps: int
    cpu_seconds: float
    losses: list[float]


class Average:
    """The moving average of a net's weights, as a net of its own."""

    def __init__(self, net: nn.Module, decay: float):
        self.net, self.decay = copy.deepcopy(net).eval().requires_grad_(False), decay

    def follow(self, net: nn.Module, step: int) -> None:
        """Move towards net after its step 1, 2, ...; a short training forgets the first weights too."""
        decay = min(self.decay, step / (9 + step))
        torch._foreach_lerp_(list(self.net.parameters()), [p.detach() for p in net.parameters()], 1 - decay)


def one_cycle(done: float, peak: float) -> float:
    """Learning rate when the share `done` in [0, 1] of a training is over, as torch's OneCycleLR has it.

    Half a cosine from peak / 25 up to peak over the first 30 %, half a cosine down to almost 0 over the rest.
    """
    start, share = (peak / 25, 1 - done / 0.3) if done < 0.3 else (peak / 25e4, (done - 0.3) / 0.7)
    return start + (peak - start) * (1 + math.cos(math.pi * share)) / 2


def train(objective, net: nn.Module, draw: Callable, config: TrainConfig | None = None, *,
          progress: bool | str = False) -> Trained:
    """Train a copy of `net` on fresh data of every step; `net` itself stays as it was.

    objective: has loss(net, x, cond, generator, target) -> (B,); where `needs_target` is true, target is a moving
    average.  draw: (n, generator) -> x (n, D), as the shapes of toy.data, or a pair of x and cond (n, C); cond is
    (n, 0) otherwise.  progress: show a bar, under this name if it is a string. All randomness comes from config.seed,
    on the device of the net. Raises FloatingPointError if the loss is not finite.
    """
    config = config or TrainConfig()
    device = next(net.parameters()).device
    generator = torch.Generator(device).manual_seed(config.seed)
    net = copy.deepcopy(net).train()
    average = Average(net, config.ema)
    target = None
    if getattr(objective, "needs_target", False):
        target = average if config.target_ema in (None, config.ema) else Average(net, config.target_ema)
    optimizer = torch.optim.Adam(net.parameters(), config.learning_rate, fused=True)
    name = progress if isinstance(progress, str) else "training"
    losses, started = [], time.process_time()
    with tqdm(total=config.steps, desc=name, leave=False, disable=not progress) as bar:
        while len(losses) < config.steps:
            spent = (time.process_time() - started) / config.cpu_seconds if config.cpu_seconds else 0.0
            if spent >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = one_cycle(max(len(losses) / config.steps, spent), config.learning_rate)
            drawn = draw(config.batch_size, generator)
            x, cond = drawn if isinstance(drawn, tuple) else (drawn, drawn.new_zeros(len(drawn), 0))
            loss = objective.loss(net, x, cond, generator, target and target.net).mean()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(f"the loss of step {len(losses)} is {losses[-1]}: lower learning_rate "
                                         f"({config.learning_rate})")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for follower in {average, target} - {None}:
                follower.follow(net, len(losses))
            bar.update()
            if len(losses) % 100 == 0:
                bar.set_postfix_str(f"loss {sum(losses[-100:]) / 100:.3f}", refresh=False)
    return Trained(average.net, len(losses), time.process_time() - started, losses)


@torch.no_grad()
def sample(objective, net: nn.Module, n: int, generator: torch.Generator, steps: int | None = None, *,
           cond: Tensor | None = None) -> Tensor:
    """n samples (n, D) by `steps` steps of the objective, from noise N(0, I) as wide as the net's first argument.

    steps: None: the objective's own default, 1 for those that draw in one step, 50 for Flow.
    """
    noise = torch.randn(n, net.config.noise_dim, generator=generator, device=generator.device)
    given = {} if steps is None else {"steps": steps}
    return objective.sample(net, noise.new_zeros(n, 0) if cond is None else cond, noise, generator=generator, **given)


def trace(objective, net: nn.Module, noise: Tensor, steps: int, generator: torch.Generator | None = None, *,
          cond: Tensor | None = None) -> Tensor:
    """Where samples pass on their way, (calls + 1, n, D): what the net was given at every call, and the samples.

    noise: (n, D), as wide as the data. One call a step is one point of the path: with a sampler of Euler steps,
    steps + 1 points.
    """
    seen = []

    def watched(x, cond, *times):
        seen.append(x)
        return net(x, cond, *times)

    cond = noise.new_zeros(len(noise), 0) if cond is None else cond
    with torch.no_grad():
        ends = objective.sample(watched, cond, noise, steps, generator)
    return torch.stack([*seen, ends])
