"""The one training loop: any loss, any module, on Accelerate; every step is a function of (seed, step) alone.

Because no state is carried between steps but the weights and the optimiser's moments, a run that was killed and started
again takes, on one process and a CPU, exactly the steps that it would have taken.

The batch of a step falls into parts of `batch_size` items: one for each process (torchrun or `accelerate launch` starts
several), `accumulate` times. Part i of P holds every P-th item from the i-th on and draws its noise from (seed, step, i
of P); the gradient is the mean over parts. So N processes, or one that accumulates N parts, take the same steps but for
the order of sums, and so does one process with a batch N times as large if the loss is a mean over items and draws
nothing. Any of them continues what another began.
"""

import dataclasses
import json
import math
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from tqdm import tqdm

from dear.blocks import fastest_device
from dear.components import write_tensors
from dear.log import Log
from dear.muon import Muon

AHEAD = 2  # parts that are read before their turn: enough for the one that has to look into new shards first
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Figures = dict[str, float | Callable[[], float]]
LossFunction = Callable[[nn.Module, torch.Tensor, torch.Generator], tuple[torch.Tensor, Figures]]
Order = Callable[[int, int], torch.Tensor]  # indices (batch_size,) of a step, given step and batch_size


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to train; betas, decay and clipping as IMPACT (arXiv 2506.00736).

    muon: learning rate of the weight matrices inside residual blocks, which Muon then moves (Jordan et al. 2024; its
    steps are scaled to the size of AdamW's, arXiv 2502.16982), 0: AdamW moves everything. After 1200 steps of a
    classroom teacher, 200 validation captions: AdamW at 1.5e-3 had 60 % of the kinds right and a Frechet distance of
    247, with Muon at 3e-3 77 % and 174, with Muon at 6e-3 76 % and 200. Its step took 1.15 to 1.5 times the seconds.
    With `restart` the schedule of the learning rate ends at that step and begins anew (SGDR, arXiv 1608.03983).
    batch_size: items that a process takes at once; accumulate: how many such batches it takes a step, one after the
    other. precision: of products within the loss (torch.autocast); weights, moments and averages stay float32.
    """

    steps: int = 1000
    batch_size: int = 24
    learning_rate: float = 1e-3
    muon: float = 0.0
    warmup: int = 100
    restart: int = 0
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 3.0
    ema: float = 0.999
    seed: int = 0
    checkpoint_every: int = 200
    log_every: int = 20
    accumulate: int = 1
    precision: str = "float32"

    def __post_init__(self):
        for name in ("steps", "batch_size", "learning_rate", "clip", "checkpoint_every", "log_every", "accumulate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.muon < 0:
            raise ValueError(f"muon must be a learning rate or 0 (none), got {self.muon}")
        if not 0 <= self.ema < 1 or self.warmup < 0:
            raise ValueError(f"ema must lie in [0, 1) and warmup be 0 or more, got {self.ema} and {self.warmup}")
        if not 0 <= self.restart < self.steps:
            raise ValueError(f"restart must be 0 (none) or a step before the last, got {self.restart} of {self.steps}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")


def batch_indices(step: int, batch_size: int, items: int, seed: int) -> torch.Tensor:
    """Indices (batch_size,) of a step: consecutive pieces of one random permutation an epoch, any step by itself."""
    places = torch.arange(step * batch_size, (step + 1) * batch_size)
    epochs = places // items
    found = torch.empty(batch_size, dtype=torch.long)
    for epoch in epochs.unique().tolist():
        order = torch.randperm(items, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        found[epochs == epoch] = order[places[epochs == epoch] % items]
    return found


def rate(step: int, config: TrainConfig) -> float:
    """Learning rate at a step: linear warm-up, then half a cosine down to 1 % of its peak; twice with a restart."""
    steps = config.restart or config.steps
    if config.restart and step >= config.restart:
        step, steps = step - config.restart, config.steps - config.restart
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, steps - config.warmup)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def optimizers(module: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW for what is trained and, with `muon`, Muon for the linear weights inside the blocks of its networks."""
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    # Blocks stand in numbered lists ("encoder.0.qkv.weight"); embeddings, first and last layers stand alone.
    inner = {n for n, p in trained.items()
             if config.muon and p.ndim == 2 and any(part.isdigit() for part in n.split("."))}
    rest = [p for n, p in trained.items() if n not in inner]
    found = [torch.optim.AdamW(rest, config.learning_rate, config.betas, weight_decay=config.weight_decay)]
    if inner:
        blocks = [trained[n] for n in trained if n in inner]
        found.append(Muon(blocks, config.muon, config.weight_decay))
    return found


class Run:
    """Weights, their moving average and the optimiser's moments of one training, saved as one safetensors file."""

    def __init__(self, module: nn.Module, config: TrainConfig, out: Path, accelerator, about: dict):
        from accelerate.utils import broadcast

        self.config, self.path, self.accelerator = config, out / "checkpoint.safetensors", accelerator
        self.parts = accelerator.num_processes * config.accumulate
        # What is stored is the batch of a step, however it is split.
        settings = dataclasses.asdict(config) | {"batch_size": config.batch_size * self.parts} | about
        del settings["accumulate"]
        self.settings = json.loads(json.dumps(settings))
        # Not wrapped for several processes (`combine` does that part), so that a loss may call any method of it.
        self.module = module.to(accelerator.device)
        for tensor in [*module.parameters(), *module.buffers()]:
            broadcast(tensor.detach())  # all start as the first one
        self.optimizers = [accelerator.prepare_optimizer(o) for o in optimizers(module, config)]
        self.parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.ema = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.step = 0

    def is_logged(self, step: int) -> bool:
        """Whether the figures are written once `step` steps are done."""
        return step % self.config.log_every == 0 or step == self.config.steps

    def anywhere(self, flag: bool) -> bool:
        """Whether the flag is set on any process; all must ask."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device), "sum") > 0)

    def everywhere(self, figures: dict[str, float]) -> dict[str, float]:
        """Means of the figures over all processes, each of which must have the same ones."""
        mine = torch.tensor(list(figures.values()), dtype=torch.float64, device=self.accelerator.device)
        return dict(zip(figures, self.accelerator.reduce(mine, "mean").tolist(), strict=True))

    def combine(self, value: torch.Tensor) -> torch.Tensor:
        """Mean of the loss () over all processes, and so of the gradients, which are replaced; in one message.

        A parameter that was used nowhere keeps no gradient, as on one process: optimisers leave it alone.
        """
        if self.accelerator.num_processes == 1:
            return value
        parameters = list(self.parameters.values())
        used = value.new_tensor([p.grad is not None for p in parameters])
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        sent = torch.cat([value.reshape(1), used, *(grad.flatten() for grad in grads)])
        value, used, *grads = self.accelerator.reduce(sent, "mean").split([1, len(used), *(g.numel() for g in grads)])
        for parameter, seen, grad in zip(parameters, used.tolist(), grads, strict=True):
            parameter.grad = grad.view_as(parameter) if seen else None
        return value[0]

    def average(self) -> None:
        """Move the average one step; its memory grows with the run, so that short runs forget their start."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.values()), [p.detach() for p in self.parameters.values()], 1 - decay)

    def _optimizer_state(self, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        """What an optimiser remembers of a parameter, to be read or filled."""
        inner = (getattr(o, "optimizer", o) for o in self.optimizers)
        owner = next(o for o in inner if any(parameter is p for group in o.param_groups for p in group["params"]))
        return owner.state[parameter]

    def save(self) -> None:
        """Write the checkpoint beside, then rename; its metadata holds the step and the settings.

        The main process writes, and the others wait: one that begins another training may read what this one left.
        """
        if self.accelerator.is_main_process:
            self._write()
        self.accelerator.wait_for_everyone()

    def _write(self) -> None:
        state = {f"model.{n}": p for n, p in self.parameters.items()} | {f"ema.{n}": p for n, p in self.ema.items()}
        for name, parameter in self.parameters.items():
            for key, value in self._optimizer_state(parameter).items():
                state[f"optimizer.{key}.{name}"] = value
        write_tensors(self.path, state, {"step": str(self.step), "config": json.dumps(self.settings)})

    def load(self) -> None:
        """Continue from the checkpoint if there is one; one of another configuration or model is a ValueError."""
        if not self.path.exists():
            return
        with _opened(self.path) as file:
            # A setting that the writer did not know yet had what is the default now.
            told = {"precision": TrainConfig.precision} | json.loads(file.metadata()["config"])
            mine = self.settings
            if told != mine:
                keys = [k for k in told | mine if told.get(k) != mine.get(k)]
                other = ", ".join(f"{k} {told.get(k)} -> {mine.get(k)}" for k in keys)
                raise ValueError(f"{self.path} is from a run with other settings ({other}); use the same settings to "
                                 "continue it (batch_size: of a step, over all processes), or another output folder")
            there = set(file.keys())
            shapes = {n: file.get_slice(n).get_shape() for n in there if n.startswith("model.")}
            if shapes != {f"model.{n}": list(p.shape) for n, p in self.parameters.items()}:
                raise ValueError(f"{self.path} holds another model, with other parameters; use another output folder")
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(file.get_tensor(f"model.{name}"))
                    self.ema[name].copy_(file.get_tensor(f"ema.{name}"))
                    for key in ("step", "exp_avg", "exp_avg_sq", "momentum_buffer"):
                        if (moment := f"optimizer.{key}.{name}") in there:  # a parameter without a gradient has none
                            place = "cpu" if key == "step" else parameter.device
                            self._optimizer_state(parameter)[key] = file.get_tensor(moment).to(place)
            self.step = int(file.metadata()["step"])


def _opened(path: Path):
    """The file to read from; a damaged one is a ValueError that says what to do."""
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to begin this training anew") from error


@contextmanager
def held_back_interrupt():
    """Hold back the first ctrl-C, so that the step under way is finished; a second one stops at once.

    Gives a function that says whether there was one. Outside the main thread, which alone gets signals, it holds
    nothing back; nor does it where ctrl-C is ignored, as in the background jobs of a script.
    """
    seen = []
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    if ignored or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(number, frame):
        seen.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)


def train(module: nn.Module, loss: LossFunction, items: int, config: TrainConfig, out: str | Path, *,
          progress: bool = True, stop_after: int | None = None, about: dict | None = None,
          average: nn.Module | None = None, order: Order | None = None,
          read: Callable[[torch.Tensor], object] | None = None) -> nn.Module:
    """Train `module` in place and return it holding the moving average of its weights.

    `loss(module, indices, generator)` gives the mean loss of the items `indices` (of 0..items-1) and figures to log; a
    figure that costs something to know is a function, called before the backward pass of the steps that are logged:
    every `log_every` steps, and the last. The folder `out` gets checkpoint.safetensors (every `checkpoint_every` steps,
    atomically, and on ctrl-C) and metrics.jsonl; calling again with the same `out` and `config` continues. `stop_after`
    ends early after that many steps of the plan (the schedule is kept). `about` (json) says what else makes the run
    what it is, what its loss was built with for example: a run about something else does not continue it. `average`, a
    copy of `module`, becomes the moving average itself, at every step, for a loss that learns from it.

    `order(step, batch_size)` gives the indices of a step in place of `batch_indices`. `read(indices)` makes of the
    indices of a part what the loss gets in their place; a thread does so for the next parts while the loss has this
    one, and an error in it is raised where that part's turn comes.

    Parameters that need no gradient, and buffers, are neither trained nor stored in the checkpoint. Raises ValueError
    if `out` holds a run of other settings or another model, FloatingPointError if loss or gradient are not finite.

    With several processes the loss of each gets the indices of its own parts; `out` is a folder that all of them see,
    and the main one alone writes there. Ctrl-C on any of them stops all after the same step; a second one ends that
    process at once, and whoever launched them has to end the rest, as torchrun does.
    """
    from accelerate import Accelerator

    if items < 1:
        raise ValueError(f"items must be at least 1, got {items}: there is nothing to train on")
    accelerator, out = Accelerator(cpu=fastest_device().type == "cpu"), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    run = Run(module.train(), config, out, accelerator, about or {})
    if accelerator.is_main_process:
        for draft in out.glob(f".{run.path.name}.*"):
            draft.unlink(missing_ok=True)  # what a killed run had begun to write, 3 GB at paper size
    run.load()
    if average is not None:
        for name, parameter in average.requires_grad_(False).named_parameters():
            parameter.data = run.ema.get(name, parameter.data)  # what is not trained is the same in both
    log = Log(out / "metrics.jsonl", run.step, accelerator.is_main_process)
    last = config.steps if stop_after is None else min(config.steps, stop_after)
    hidden = not (progress and accelerator.is_main_process)
    bar = tqdm(initial=run.step, total=last, desc=f"training {out.name}", disable=hidden)
    parts = parts_of(run, order or permuted(items, config), last)
    parts = closing(read_ahead(read, parts) if read else parts)
    with held_back_interrupt() as interrupted, parts as parts, bar:  # an error message then has a line of its own
        while run.step < last and not run.anywhere(interrupted()):
            figures = advance(run, loss, parts)
            run.step += 1
            bar.update()
            if run.is_logged(run.step):
                log.write(run.step, figures)
                bar.set_postfix_str(f"loss {figures['loss']:.3f}")
            if run.step % config.checkpoint_every == 0 or run.step == last:
                run.save()
        stopped = run.anywhere(interrupted())
        if stopped:
            run.save()
    if stopped:
        raise KeyboardInterrupt
    with torch.no_grad():
        for name, parameter in run.parameters.items():
            parameter.copy_(run.ema[name])
    return run.module.eval()


def permuted(items: int, config: TrainConfig) -> Order:
    """The order of `batch_indices` over so many items."""
    return lambda step, batch_size: batch_indices(step, batch_size, items, config.seed)


def parts_of(run: Run, order: Order, last: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Number and indices (batch_size,) of each of this process's parts, from the run's step to that before `last`."""
    mine = range(run.accelerator.process_index, run.parts, run.accelerator.num_processes)
    for step in range(run.step, last):
        whole = order(step, run.config.batch_size * run.parts)
        for i in mine:
            yield i, whole[i :: run.parts]


def read_ahead(read: Callable[[torch.Tensor], object],
               parts: Iterable[tuple[int, torch.Tensor]]) -> Iterator[tuple[int, object]]:
    """Number and read(indices) of each part, in their order; a thread reads the next AHEAD while one is used.

    What `read` raises is raised here, in that part's place. The thread ends with the iterator.
    """
    pool, coming = ThreadPoolExecutor(1, "reading"), deque()
    try:
        for number, indices in parts:
            coming.append((number, pool.submit(read, indices)))
            if len(coming) > AHEAD:
                number, found = coming.popleft()
                yield number, found.result()
        for number, found in coming:
            yield number, found.result()
    finally:
        pool.shutdown(cancel_futures=True)


def step(run: Run, loss: LossFunction, items: int) -> dict[str, float]:
    """One step by itself, on what `batch_indices` gives of so many items; see `advance`."""
    return advance(run, loss, parts_of(run, permuted(items, run.config), run.step + 1))


def advance(run: Run, loss: LossFunction, parts: Iterator[tuple[int, object]]) -> dict[str, float]:
    """One step: loss and gradient of this process's parts of the batch, their mean over all, clipped; the optimiser.

    Returns the figures of the step; nothing has moved if it raises FloatingPointError.
    """
    config, accelerator = run.config, run.accelerator
    share = rate(run.step, config) / config.learning_rate
    for optimizer, peak in zip(run.optimizers, (config.learning_rate, config.muon), strict=False):
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = share * peak
    mine = (part(run, loss, batch, number) for number, batch in islice(parts, config.accumulate))
    values, figures = zip(*mine, strict=True)
    value = run.combine(sum(values) / config.accumulate)
    norm = accelerator.clip_grad_norm_(run.parameters.values(), config.clip)
    if not (torch.isfinite(value) and torch.isfinite(norm)):
        raise FloatingPointError(f"step {run.step} has the loss {value.item()} and a gradient of norm {norm.item()}; "
                                 f"lower learning_rate ({config.learning_rate}) and train in another folder than "
                                 f"{run.path.parent}")
    for optimizer in run.optimizers:
        optimizer.step()
    run.average()
    means = {name: sum(row[name] for row in figures) / len(figures) for name in figures[0]}
    told = {"loss": float(value), "gradient_norm": float(norm), **means}
    return run.everywhere(told) if run.is_logged(run.step + 1) else told


def part(run: Run, loss: LossFunction, batch, number: int) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss () and figures of part `number` of a step, its indices or what was read of them; its gradient is added."""
    config, device = run.config, run.accelerator.device
    seed = (config.seed * 1_000_003 + run.step) * run.parts + number
    # Not Accelerate's mixed precision: it covers `forward` alone, stays on the module and is one for a whole process.
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        value, figures = loss(run.module, batch, torch.Generator(device).manual_seed(seed))
    logged = run.is_logged(run.step + 1)
    figures = {k: v() if callable(v) and logged else v for k, v in figures.items() if logged or not callable(v)}
    run.accelerator.backward(value / config.accumulate)
    return value.detach(), figures
