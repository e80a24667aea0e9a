"""python -m toy.compare: every way to learn a sampler, on the same data, with the same net, measured alike.

Stages, each run one line of json appended to the record: `controls` (data against fresh data, and trivial samplers),
`tuning` (four tries a method, MeanFlow eight, on the Swiss roll, a seed of its own, a quarter of the steps), `steps`
(the published and the tuned setting, equal steps), `time` (the tuned setting, equal CPU time, on the Swiss roll).
Started again, the command does what is missing; a run that was killed leaves nothing behind.
"""

import copy
import dataclasses
import json
import platform
import shlex
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from tqdm import tqdm

from dear.log import Record
from dear.metrics.energy import energy_distance, mmd2
from dear.objectives import (
    ConsistencyDistillation,
    Energy,
    EnergyAllPairs,
    Flow,
    LatentConsistency,
    MeanFlow,
    Rectified,
    Shortcut,
    Trajectory,
)
from toy.data import SHAPES
from toy.distances import in_mode_share, mode_coverage, sliced_wasserstein, wasserstein
from toy.nets import MLP, NetConfig, load_net, save_net
from toy.train import TrainConfig, sample, train

TUNING_SEED, TUNING_SHAPE, TUNING_SHARE = 1000, "swiss_roll", 4  # tries take a quarter of the steps
SAMPLES = 2000  # on both sides of every distance
PAIRS = 100_000  # noise and sample, made once by Rectified's teacher
COMPARED = ("swiss_roll", "eight_gaussians", "checkerboard")
METRICS = ("w1", "w2", "sliced_w2", "mmd2", "energy_distance", "in_mode", "coverage")


@dataclass(frozen=True)
class Try:
    """One setting of a method: what its objective is built with, how its net is trained, and the waves of its times."""

    arguments: dict = field(default_factory=dict)
    learning_rate: float = 2e-3
    target_ema: float | None = None
    waves: int = NetConfig.waves


@dataclass(frozen=True)
class Method:
    """A way to learn; the first try is the published setting, where there is one, at this arena's learning rate.

    evaluations: steps of sampling.  distilled: learns from a flow, and starts from it if it is a net of the same kind.
    """

    name: str
    objective: type
    tries: tuple[Try, ...]
    evaluations: int = 1
    distilled: bool = False
    published: bool = True


METHODS = (
    Method("flow", Flow, (Try(), Try({}, 4e-3), Try({}, 1e-3), Try({}, 5e-4)), evaluations=50),
    Method("energy", Energy, (
        Try({"samples": 2}),
        Try({"samples": 4}),
        Try({"samples": 2, "noise_dim": 8}),
        Try({"samples": 2}, 1e-3),
    )),
    Method("energy_all_pairs", EnergyAllPairs, (
        Try(),
        Try({"noise_dim": 8}),
        Try({}, 1e-3),
        Try({}, 4e-3),
    ), published=False),
    Method("shortcut", Shortcut, (
        Try({"share": 0.25}, target_ema=0.999),
        Try({"share": 0.25}, target_ema=0.95),
        Try({"share": 0.5}, target_ema=0.95),
        Try({"share": 0.5, "finest": 32}, target_ema=0.95),
    )),
    # MeanFlow alone learns from the net's derivative in time, to which every wave adds. With the four waves of all
    # others none of its tries came near them, so it has its tries with one wave as well: eight, where they have four.
    Method("meanflow", MeanFlow, tuple(
        Try({"share": share, "power": power, "sampling": sampling}, waves=waves)
        for waves in (1, NetConfig.waves)
        for share, power, sampling in ((0.25, 1.0, "lognormal"), (0.5, 0.5, "uniform"), (0.75, 0.5, "uniform"),
                                       (0.5, 0.0, "uniform"))
    )),
    Method("consistency", ConsistencyDistillation, (
        Try({"intervals": 18}, target_ema=0.95),
        Try({"intervals": 36}, target_ema=0.95),
        Try({"intervals": 18}, target_ema=0.99),
        Try({"intervals": 18}, 1e-3, target_ema=0.95),
    ), distilled=True),
    Method("trajectory", Trajectory, (
        Try({"denoising": 1.0}, target_ema=0.999),
        Try({"denoising": 1.0}, target_ema=0.95),
        Try({"denoising": 0.1}, target_ema=0.95),
        Try({"denoising": 1.0}, 1e-3, target_ema=0.95),
    ), distilled=True),
    Method("latent_consistency", LatentConsistency, (
        Try({"skip": 20, "huber": 0.001}, target_ema=0.95),
        Try({"skip": 50, "huber": 0.001}, target_ema=0.95),
        Try({"skip": 20, "huber": 0.1}, target_ema=0.95),
        Try({"skip": 20, "huber": 0.001}, 1e-3, target_ema=0.95),
    ), distilled=True),
    Method("rectified", Rectified, (
        Try({"teacher_steps": 25}),
        Try({"teacher_steps": 50}),
        Try({"teacher_steps": 25}, 4e-3),
        Try({"teacher_steps": 25}, 1e-3),
    ), distilled=True),
)
FLOW = METHODS[0]
NAMES = ", ".join(method.name for method in METHODS)


@dataclass(frozen=True)
class Run:
    """One line to be: a method in one setting on one shape with one seed, for `steps` or for `cpu_seconds`."""

    stage: str
    method: Method
    setting: str
    choice: Try
    data: str
    seed: int
    steps: int
    cpu_seconds: float | None = None

    def key(self) -> dict:
        """What tells its line from all others; waves as in every other net are not named."""
        choice = dataclasses.asdict(self.choice)
        if choice["waves"] == NetConfig.waves:
            del choice["waves"]
        return {"stage": self.stage, "method": self.method.name, "setting": self.setting, "data": self.data,
                "seed": self.seed, "steps_planned": None if self.cpu_seconds else self.steps,
                "cpu_seconds_planned": self.cpu_seconds, **choice}

    def file(self) -> str:
        """Name of its net; the last part tells settings apart that go by the same name."""
        budget = f"{self.cpu_seconds:g}s" if self.cpu_seconds else self.steps
        setting = self.setting.replace(", ", "+").replace(" ", "_")
        choice = zlib.crc32(json.dumps(dataclasses.asdict(self.choice), sort_keys=True).encode())
        return f"{self.stage}-{self.method.name}-{setting}-{self.data}-{self.seed}-{budget}-{choice:08x}.safetensors"


class Comparison:
    """What all runs share: where lines and nets go, on what device, and under which command."""

    def __init__(self, record: Record, nets: Path, steps: int, device: str = "cpu", command: str = "",
                 progress: bool = False):
        self.record, self.nets, self.steps, self.progress = record, nets, steps, progress
        self.device = torch.device(device)
        self.origin = {"command": command, "date": date.today().isoformat(), "commit": commit(),
                       "device": device_name(self.device)}

    def do(self, run: Run) -> dict:
        """The line of a run: from the record, or by training, sampling and measuring now."""
        key = run.key()
        if line := self.record.find(key):
            return line
        began, outcome = time.monotonic(), {}
        try:
            net, spent = self.trained(run)
            save_net(net, self.nets / run.file())
            outcome = spent | self.measured(run)
        except FloatingPointError as error:  # a try that diverges is a result too
            outcome = {name: None for name in METRICS} | {"failed": str(error)}
        self.record.append(key | outcome | {"seconds": round(time.monotonic() - began, 1)} | self.origin)
        return self.record.lines[-1]

    def trained(self, run: Run) -> tuple[MLP, dict]:
        """The net of a run and what it cost."""
        config = TrainConfig(steps=10**9 if run.cpu_seconds else run.steps, seed=run.seed,
                             learning_rate=run.choice.learning_rate, target_ema=run.choice.target_ema,
                             cpu_seconds=run.cpu_seconds)
        teacher = self.teacher(run) if run.method.distilled else None
        started = time.process_time()
        objective, draw = self.objective(run, teacher), SHAPES[run.data]
        if run.method.objective is Rectified:
            generator = torch.Generator(self.device).manual_seed(run.seed)
            objective, draw = Rectified(), pool(objective, generator)
        sizes = NetConfig(times=objective.times, noise_dim=run.choice.arguments.get("noise_dim", 2),
                          waves=run.choice.waves)
        net = MLP(sizes, torch.Generator().manual_seed(run.seed)).to(self.device)
        if teacher and teacher.config == sizes:
            net = copy.deepcopy(teacher).requires_grad_(True)
        name = f"{run.method.name}, {run.setting}, {run.data}, seed {run.seed}"
        trained = train(objective, net, draw, config, progress=name if self.progress else False)
        return trained.net, {"steps": trained.steps, "cpu_seconds": round(time.process_time() - started, 2),
                             "started_from_teacher": bool(teacher and teacher.config == sizes)}

    def teacher(self, run: Run) -> MLP:
        """The flow of the same data and seed, in its tuned setting, trained now if its net is not there."""
        flow = self.chosen(FLOW, run.data, run.seed)
        path = self.nets / flow.file()
        if not path.exists():
            save_net(self.trained(flow)[0], path)
        return load_net(path).to(self.device).requires_grad_(False)

    def measured(self, run: Run) -> dict:
        """Samples of the saved net, drawn and measured on the CPU, and the calls of the net that they took."""
        net, calls = load_net(self.nets / run.file()), []
        net.register_forward_hook(lambda *_: calls.append(1))
        generator = torch.Generator().manual_seed(2 * TUNING_SEED + run.seed)
        objective = self.objective(run, net if run.method.distilled else None)
        x = sample(objective, net, SAMPLES, generator, run.method.evaluations)
        return {"evaluations": len(calls), **measure(run.data, x, run.seed)}

    @staticmethod
    def objective(run: Run, teacher: MLP | None):
        """The objective of a run; sampling needs no teacher."""
        arguments = run.choice.arguments
        return run.method.objective(teacher, **arguments) if run.method.distilled else run.method.objective(**arguments)

    def tries(self, method: Method) -> list[Run]:
        """The tuning runs of a method."""
        return [Run("tuning", method, f"try {k}", choice, TUNING_SHAPE, TUNING_SEED,
                    max(1, self.steps // TUNING_SHARE)) for k, choice in enumerate(method.tries, 1)]

    def best(self, method: Method) -> Try:
        """The try with the least Wasserstein-2 distance; without a record of them, the first."""
        lines = [self.record.find(run.key()) for run in self.tries(method)]
        scored = [(line["w2"], k) for k, line in enumerate(lines) if line and line["w2"] is not None]
        return method.tries[min(scored)[1] if scored else 0]

    def chosen(self, method: Method, data: str, seed: int) -> Run:
        """The run of a method's tuned setting in the stage of equal steps."""
        best = self.best(method)
        same = method.published and best == method.tries[0]
        return Run("steps", method, "published, tuned" if same else "tuned", best, data, seed, self.steps)

    def equal_steps(self, method: Method, data: str, seed: int) -> list[Run]:
        """The tuned run, and the published one unless they are the same."""
        tuned = self.chosen(method, data, seed)
        if not method.published or tuned.setting != "tuned":
            return [tuned]
        return [tuned, dataclasses.replace(tuned, setting="published", choice=method.tries[0])]

    def controls(self, data: str, seed: int) -> Iterator[dict]:
        """Lines of samplers that learn nothing: the data itself (the floor), a Gaussian, a uniform square."""
        generator = torch.Generator().manual_seed(2 * TUNING_SEED + seed)
        samplers = {"floor": lambda: SHAPES[data](SAMPLES, generator),
                    "gaussian": lambda: torch.randn(SAMPLES, 2, generator=generator),
                    "square": lambda: (2 * torch.rand(SAMPLES, 2, generator=generator) - 1) * 3**0.5}
        for name, draw in samplers.items():
            key, x = {"stage": "controls", "method": name, "data": data, "seed": seed}, draw()
            if not self.record.find(key):
                self.record.append(key | measure(data, x, seed) | self.origin)
            yield self.record.find(key)


def pool(objective: Rectified, generator: torch.Generator) -> Callable[[int, torch.Generator], Tensor]:
    """A function that draws from PAIRS noise-sample pairs, made here once, as the paper makes them."""
    like = torch.zeros(1000, 2, device=generator.device)
    pairs = torch.cat([objective.pairs(like, like[:, :0], generator) for _ in range(PAIRS // 1000)])
    return lambda n, generator: pairs[torch.randint(len(pairs), (n,), generator=generator, device=pairs.device)]


def measure(data: str, x: Tensor, seed: int) -> dict:
    """All metrics of samples x (n, 2) against as many of a shape, which depend on the seed alone."""
    if not x.isfinite().all():
        raise FloatingPointError("samples are not finite")
    shape = SHAPES[data]
    y = shape(len(x), torch.Generator().manual_seed(3 * TUNING_SEED + seed))
    modes = shape.mode_of(x)
    values = (wasserstein(x, y, 1), wasserstein(x, y, 2), sliced_wasserstein(x, y), mmd2(x, y), energy_distance(x, y),
              in_mode_share(modes), mode_coverage(modes, shape.weights))
    return {"samples": len(x)} | {k: float(f"{v:.5g}") for k, v in zip(METRICS, values, strict=True)}


def commit() -> str:
    """The commit that is checked out, '-dirty' when files differ from it; 'unknown' outside of git."""
    told = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"], text=True,
                          cwd=Path(__file__).parent, capture_output=True)
    return told.stdout.strip() if told.returncode == 0 else "unknown"


def device_name(device: torch.device) -> str:
    """The accelerator, or the processor and the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines()
             if line.startswith("model name")] if info.exists() else []
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


def run_all(comparison: Comparison, methods: list[Method], shapes: list[str], seeds: int, tune: bool,
            cpu_seconds: float) -> None:
    """Every run that the record has not yet, in its order: controls, then method by method tries and equal steps, and
    equal time last."""
    bar = tqdm(desc="controls", disable=not comparison.progress, unit=" runs")
    for name in shapes:
        for seed in range(seeds):
            bar.update(len(list(comparison.controls(name, seed))))
    for method in methods:  # the flow comes first, as others learn from it
        if tune:
            bar.set_description("tuning")
            for run in comparison.tries(method):
                comparison.do(run)
                bar.update()
        bar.set_description("equal steps")
        for name in [s for s in shapes if not (method.distilled and s == "checkerboard")]:
            for seed in range(max(1, seeds - method.distilled)):
                for run in comparison.equal_steps(method, name, seed):
                    comparison.do(run)
                    bar.update()
    bar.set_description("equal time")
    for method in [m for m in methods if cpu_seconds and not m.distilled and "swiss_roll" in shapes]:
        for seed in range(seeds):
            tuned = comparison.chosen(method, "swiss_roll", seed)
            comparison.do(dataclasses.replace(tuned, stage="time", cpu_seconds=cpu_seconds))
            bar.update()
    bar.close()


app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@app.command()
def compare(
    out: Annotated[Path, typer.Option(help="The record: one line of json a run.")] = Path("records/plane.jsonl"),
    nets: Annotated[Path, typer.Option(help="Folder of the trained nets, in float16.")] = Path("runs/plane"),
    steps: Annotated[int, typer.Option(min=1, help="Steps of training; tuning tries take a quarter.")] = 3000,
    cpu_seconds: Annotated[float, typer.Option(min=0, help="Limit of the runs at equal time; 0: none of them.")] = 60,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds a setting; distilled methods: one less, but not 0.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help=f"For a part of the table, may be repeated: {NAMES}.")] = None,
    data: Annotated[list[str] | None, typer.Option(help=f"Likewise: {', '.join(COMPARED)}.")] = None,
    tune: Annotated[bool, typer.Option(help="Make the tuning tries; without any, the first is taken.")] = True,
    device: Annotated[str, typer.Option(help="cpu or cuda: where nets are trained.")] = "cpu",
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
):
    """Compare one-step samplers in the plane; stop it whenever you like, the same command goes on."""
    names, shapes = [m.name for m in METHODS], list(COMPARED)
    for given, known, option in ((only, names, "--only"), (data, shapes, "--data")):
        if unknown := set(given or []) - set(known):
            raise typer.BadParameter(f"{', '.join(sorted(unknown))}; there are {', '.join(known)}", param_hint=option)
    if cpu_seconds and device != "cpu":
        raise typer.BadParameter("equal CPU time is for training on the CPU: with another --device say --cpu-seconds 0",
                                 param_hint="--cpu-seconds")
    told = ["--steps", steps, "--cpu-seconds", f"{cpu_seconds:g}", "--seeds", seeds, "--device", device]
    told += [] if tune else ["--no-tune"]  # --out, --nets and bars change no number
    for option, given in (("--only", only), ("--data", data)):
        told += [word for value in given or [] for word in (option, value)]
    command = shlex.join(["python", "-m", "toy.compare", *map(str, told)])
    comparison = Comparison(Record(out), nets, steps, device, command, progress)
    methods = [m for m in METHODS if not only or m.name in only]
    shapes = [s for s in shapes if not data or s in data]
    try:
        run_all(comparison, methods, shapes, seeds, tune, cpu_seconds)
    except KeyboardInterrupt:
        done = len(comparison.record.lines)
        typer.echo(f"stopped; the same command goes on after the {done} lines of {out}", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"{out}: {len(comparison.record.lines)} lines; nets in {nets}")


if __name__ == "__main__":
    app()
