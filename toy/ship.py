"""python -m toy.ship: what the notebooks draw from, chosen from the nets that `python -m toy.compare` has left."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import save_file

from toy.compare import METHODS, Comparison, Run, Try
from toy.nets import load_net, save_net
from toy.tables import pick, read
from toy.train import sample

SHAPE, SEED, POINTS = "swiss_roll", 0, 1000
METHOD = {method.name: method for method in METHODS}


def run_of(line: dict) -> Run:
    """The run that wrote a line of the stage of equal steps."""
    choice = Try(line["arguments"], line["learning_rate"], line["target_ema"], line.get("waves", Try.waves))
    return Run(line["stage"], METHOD[line["method"]], line["setting"], choice, line["data"], line["seed"],
               line["steps_planned"])


def ship(record: Path, nets: Path, out: Path) -> list[Path]:
    """Write the nets and points that the notebooks need, of the runs whose net is there; returns the files written.

    Of runs of several lengths the longest count, so that a trial in the same record is not shipped.

    out / <method>.safetensors: the net of the tuned setting on SHAPE with SEED, in 8-bit floats, 200 kB.
    out / samples.safetensors: POINTS samples (POINTS, 2) of every run at equal steps with SEED, in float16, under the
    key <method>/<setting>/<shape>, where a setting that was both is 'tuned'.
    """
    written, points = [], {}
    lines = pick(read(record), stage="steps", seed=SEED)
    longest = max((line["steps_planned"] for line in lines), default=0)
    for line in pick(lines, steps_planned=longest):
        run, path = run_of(line), nets / run_of(line).file()
        if not path.exists():
            continue
        net, tuned = load_net(path), "tuned" in run.setting
        objective = Comparison.objective(run, net if run.method.distilled else None)
        drawn = sample(objective, net, POINTS, torch.Generator().manual_seed(SEED), run.method.evaluations)
        points[f"{run.method.name}/{'tuned' if tuned else 'published'}/{run.data}"] = drawn.half().contiguous()
        if tuned and run.data == SHAPE:
            written.append(out / f"{run.method.name}.safetensors")
            save_net(net, written[-1], torch.float8_e4m3fn)
    if points:
        out.mkdir(parents=True, exist_ok=True)
        written.append(out / "samples.safetensors")
        save_file(points, written[-1])
    return written


def main(
    record: Annotated[Path, typer.Option(help="The record of the comparison.")] = Path("records/plane.jsonl"),
    nets: Annotated[Path, typer.Option(help="Folder of its nets.")] = Path("runs/plane"),
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("notebooks/plane"),
):
    """Choose what the notebooks draw from."""
    for path in ship(record, nets, out):
        typer.echo(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    typer.run(main)
