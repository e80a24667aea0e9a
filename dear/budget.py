"""What training the paper's system takes, in GPU hours, disk and traffic: speed measured on one device, and arithmetic.

How steps scale is in `dear.scaling`. Not counted: loading and writing models, waiting for data, a queue, failures,
evaluation, and the recordings themselves on the disk.
"""

import json
from pathlib import Path

from dear import prepare_cost
from dear.bench import aligned
from dear.scaling import COMMAND, REACHED, Plan, step_of, steps_of, table, traffic

STAGES = {"pretrain": "pretraining", "teacher": "teacher", "student": "student"}  # -> the steps that were timed
# Clips of 10.24 s at most with a caption each; of a longer recording one window is taken, so that clips are files.
CORPORA = {
    "AudioCaps": (49_838, "rows of train.csv, github.com/cdjkim/audiocaps; about a tenth can no longer be had"),
    "WavCaps": (403_050, "arXiv 2303.17395, table 1: 7,568 h of recordings, of which many are longer"),
    "AudioSet": (180_000, "500 h, as AudioDEAR takes of it, in clips of 10 s (assumed)"),
}
CLIPS = sum(count for count, _ in CORPORA.values())
CHECKPOINT = 16  # bytes a parameter: weights, moving average and two moments in float32
LENGTH = f"{prepare_cost.USUAL} tokens"
NEEDED = (prepare_cost.AUDIO, prepare_cost.LATENT, f"{prepare_cost.TEXT}, {LENGTH}",
          f"{prepare_cost.SHARD}, texts of {LENGTH}")  # rows of the preparation


def read(path: Path | None) -> dict:
    """The record of `dear bench --what training`; ValueError if it is none or lacks something at the paper's size."""
    if path is None or not path.is_file():
        raise ValueError(f"{'no record was named' if path is None else f'there is no {path}'}; a budget needs measured "
                         f"speed: `{COMMAND}` measures it, then name the file with --record "
                         "(records/training_h200.json has an H200's)")
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        figures = None
    if not isinstance(figures, dict) or not {"steps", "preparation", "machine"} <= figures.keys():
        raise ValueError(f"{path} is no record of trainings; wanted one that `{COMMAND}` wrote")
    for kind in STAGES.values():
        steps_of(figures, kind)
    if lacking := set(NEEDED) - {row["stage"] for row in figures["preparation"]}:
        raise ValueError(f"{path} lacks of the preparation {'; '.join(sorted(lacking))}; `{COMMAND}` measures it, and "
                         "says why if it leaves something out")
    return figures


def preparation(figures: dict) -> tuple[float, int, float]:
    """Seconds a clip in one process, bytes a clip in a shard, and clips a second that a process reads of shards."""
    rows, clock = {row["stage"]: row for row in figures["preparation"]}, figures["clock"]
    *parts, shard = (rows[name] for name in NEEDED)
    pace = shard["clips"] / shard["seconds"][clock]
    return sum(row["seconds"][clock] for row in parts), shard["bytes_per_clip"], pace


def costs(figures: dict, plan: Plan) -> list[dict]:
    """A row for the preparation, which one process does on one GPU, and for each stage.

    gpu_hours; hours: of the clock.  epochs: over all corpora.  step: a `Step`.  sent: bytes, by each GPU.
    """
    hours = CLIPS * preparation(figures)[0] / 3600
    rows = [{"stage": "prepare", "gpu_hours": hours, "hours": hours, "epochs": 1.0}]
    for (stage, kind), steps in zip(STAGES.items(), plan.steps, strict=True):
        step, parameters = step_of(figures, kind, plan), steps_of(figures, kind)[0]["parameters"]
        hours = steps * step.seconds / 3600
        rows.append({"stage": stage, "gpu_hours": hours * plan.all, "hours": hours, "steps": steps, "step": step,
                     "epochs": steps * plan.batch / CLIPS, "sent": steps * traffic(parameters, plan.all),
                     "checkpoint": CHECKPOINT * parameters})
    return rows


def report(figures: dict, plan: Plan) -> str:
    """The budget as text: where its figures come from, what each stage takes, disk, and what more GPUs would bring."""
    told = [f"Speed: measured on {figures['device']} in {figures['dtype']}, {figures['date']}. All else is arithmetic.",
            f"Plan: {plan.machines} machine(s) with {plan.gpus} of these each, {plan.inside} inside, {plan.between} "
            f"between; {plan.batch} clips a step; one process on one of them prepares the data.",
            "Assumed: the steps of each stage, which are not published; links that reach "
            f"{REACHED:.0%} of their sheets' rates; captions of {LENGTH} on disk, of full length while training."]
    told += [f"{name}: {count:,} clips; {source}" for name, (count, source) in CORPORA.items()]
    told.append(f"All: {CLIPS:,} clips, {CLIPS / 360:,.0f} h if each lasts 10 s; AudioDEAR has about 1,700 h")
    rows = costs(figures, plan)
    seconds, size, pace = preparation(figures)
    stages = rows[1:]
    fastest = max(plan.batch / row["step"].seconds for row in stages)
    disk = ", ".join(f"{row['stage']} {row['checkpoint'] / 1e9:.1f}" for row in stages)
    return "\n".join([
        *told, "", *aligned(_lines(rows)), "", *aligned(_corpora(figures, rows)), "",
        f"Preparing: {1 / seconds:.3g} clips/s, more with several processes if the GPU has room.",
        f"Training: up to {fastest:,.0f} clips/s, {fastest * size / 1e9:.2g} GB/s of shards; each process takes "
        f"{fastest / plan.all:,.0f} clips/s, and reads {pace:,.0f} where the disk is as quick as that one's.",
        f"Disk: shards {CLIPS * size / 1e9:,.0f} GB ({size / 1e3:.0f} kB a clip); checkpoints, in GB: {disk}; one more "
        "while it is written.", "",
        f"Efficiency of a teacher's step, by GPUs in machines of {plan.gpus} and the network between them:",
        *aligned(table(figures, "teacher", plan))])


def _corpora(figures: dict, rows: list[dict]) -> list[tuple[str, ...]]:
    """Cells of the corpora, each with those before it, and what they take; training has as many epochs of each."""
    seconds, size, _ = preparation(figures)
    training, clips = sum(row["gpu_hours"] for row in rows[1:]), 0
    lines = [("corpora", "clips", "h at 10 s", "GPU hours to prepare", "GB of shards", "GPU hours to train")]
    for name, (more, _) in CORPORA.items():
        first, clips = not clips, clips + more
        lines.append((name if first else f"+ {name}", f"{clips:,}", f"{clips / 360:,.0f}",
                      f"{clips * seconds / 3600:.1f}", f"{clips * size / 1e9:.1f}", f"{training * clips / CLIPS:,.0f}"))
    return lines


def _lines(rows: list[dict]) -> list[tuple[str, ...]]:
    """Cells of the stages and their sum."""
    lines = [("stage", "steps", "epochs", "parts a GPU", "s a step", "computing", "update", "sending", "GPU hours",
              "hours", "TB sent by a GPU")]
    for row in rows:
        cells, sent = ("", "", "", "", "", ""), ""
        if step := row.get("step"):
            parts = (step.seconds, step.computing, step.update, step.sending)
            cells = (f"{row['steps']:,}", f"{step.accumulate} x {step.part}", *(f"{part:.3g}" for part in parts))
            sent = f"{row['sent'] / 1e12:.3g}"
        lines.append((row["stage"], cells[0], f"{row['epochs']:.0f}", *cells[1:], f"{row['gpu_hours']:,.1f}",
                      f"{row['hours']:,.1f}", sent))
    total = [sum(row[name] for row in rows) for name in ("gpu_hours", "hours")]
    return [*lines, ("all", *[""] * 7, f"{total[0]:,.1f}", f"{total[1]:,.1f}", "")]
