"""The budget: hours, disk and traffic against computations by hand, and a ring that is played through."""

import inspect
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from dear import __main__, budget, scaling, train_cost
from dear.__main__ import app
from dear.paper import PAPER, STAGES
from dear.scaling import Plan

PARAMETERS = 10_000_000
STEPS = {32: 1.3, 64: 2.2, 128: 4.6}  # seconds by clips; 0.2 of each is the update, the median of three timings
UPDATES = {32: 0.1, 64: 0.2, 128: 0.3}
PARTS = {"audio, read and resampled": 0.01, "log-mel and VAE encoder": 0.02, "text, 16 tokens": 0.03}


def spread(seconds: float) -> dict:
    return {"median": seconds, "minimum": seconds, "maximum": seconds, "processor": 99.0, "repeats": 3}


@pytest.fixture
def figures() -> dict:
    """A record of a device on which everything takes round numbers."""
    rows = [{"size": "paper", "model": model, "batch": batch, "seconds": spread(seconds),
             "update": spread(UPDATES[batch]), "parameters": PARAMETERS}
            for model in train_cost.MODELS for batch, seconds in STEPS.items()]
    rows.append(rows[0] | {"size": "classroom", "batch": 1, "seconds": spread(1e-9)})
    preparation = [{"stage": name, "clips": 1, "seconds": spread(seconds)} for name, seconds in PARTS.items()]
    preparation.append({"stage": "shard read, texts of 16 tokens", "clips": 32, "seconds": spread(0.1),
                        "bytes_per_clip": 200_000})
    return {"device": "Some card, 4 thread(s)", "dtype": "bfloat16", "date": "2000-01-01", "clock": "median",
            "machine": {"bandwidth": 1e12}, "steps": rows, "preparation": preparation}


@pytest.fixture
def record(figures, tmp_path):
    path = tmp_path / "training.json"
    path.write_text(json.dumps(figures))
    return path


def played_ring(gpus: int, numbers: int) -> tuple[list[np.ndarray], float]:
    """Sums on every GPU, and the numbers that each sends, of a ring all-reduce that is really gone through."""
    held = [np.array_split(np.random.default_rng(g).standard_normal(numbers), gpus) for g in range(gpus)]
    wanted, sent = sum(np.concatenate(parts) for parts in held), 0
    for shift, add in ((0, True), (1, False)):  # sums travel once around, then results
        for turn in range(gpus - 1):
            chosen = [(g + shift - turn) % gpus for g in range(gpus)]
            passed = [held[g][chosen[g]].copy() for g in range(gpus)]
            sent += sum(map(len, passed))
            for g in range(gpus):
                other = (g + 1) % gpus
                held[other][chosen[g]] = passed[g] + add * held[other][chosen[g]]
    for parts in held:
        np.testing.assert_allclose(np.concatenate(parts), wanted)
    return held, sent / gpus


@pytest.mark.parametrize("gpus", [2, 3, 8])
def test_a_ring_sends_what_the_formula_says(gpus):
    _, sent = played_ring(gpus, 24 * 5)
    assert scaling.traffic(24 * 5, gpus) == pytest.approx(4 * sent)


def test_the_gradients_are_sent_once_in_float32():
    training, _ = train_cost.begin(train_cost.Case("classroom", "teacher", 1), "cpu", "float32")
    messages = []
    training.accelerator = SimpleNamespace(num_processes=2, reduce=lambda sent, how: messages.append(sent) or sent)
    training.combine(torch.tensor(1.0))
    count = sum(p.numel() for p in training.parameters.values())
    (message,) = messages
    assert message.dtype == torch.float32 and count < message.numel() < count + 2 * len(training.parameters)


def test_a_step_by_hand(figures):
    plan = Plan(gpus=8, machines=2, inside="PCIe 4", between="100 Gb/s")
    step = scaling.step_of(figures, "teacher", plan)
    # 2048 / 16 clips a GPU: two parts of 64 in 2 s each are quicker than one of 128 in 4.4 or four of 32 in 1.1.
    assert (step.part, step.accumulate) == (64, 2)
    assert step.computing == pytest.approx(4.0) and step.update == 0.2
    moved, ring = 6 * 4e7 / 1e12, 2 * 15 / 16 * 4e7 / (0.8 * 12.5e9)
    assert step.sending == pytest.approx(moved + ring + 2 * 15 * 2e-5)
    assert step.seconds == pytest.approx(4.2 + step.sending)


def test_links(figures):
    inside = Plan(gpus=8, inside="PCIe 4", between="100 Gb/s").link()
    assert inside == scaling.Link(0.8 * 32e9, 1e-5)  # no network in one machine
    assert Plan(gpus=1, machines=4, inside="PCIe 4", between="8 x 400 Gb/s").link() == scaling.Link(0.8 * 400e9, 2e-5)
    assert Plan(gpus=8, machines=4, inside="PCIe 4", between="8 x 400 Gb/s").link() == scaling.Link(0.8 * 32e9, 2e-5)
    assert scaling.step_of(figures, "teacher", Plan(gpus=1)).sending == 0


def test_batches_between_those_measured_are_read_off_a_line(figures):
    step = scaling.step_of(figures, "student", Plan(gpus=1, batch=48))
    assert (step.part, step.computing) == (48, pytest.approx(1.55))
    with pytest.raises(ValueError, match=r"each of 128 GPUs takes 16 of 2048 .* of 32 to 128; "
                                         r".*--batch 16 --batch 32 --batch 64 --batch 128` measures it"):
        scaling.step_of(figures, "student", Plan(machines=16))
    with pytest.raises(ValueError, match="takes 131 of 131 clips, which do not fall into parts"):
        scaling.step_of(figures, "student", Plan(gpus=1, batch=131))


def test_efficiency(figures):
    assert scaling.efficiency(figures, "teacher", Plan(gpus=1)) == 1
    quick, slow = (scaling.efficiency(figures, "teacher", Plan(gpus=8, machines=8, between=name))
                   for name in ("8 x 400 Gb/s", "100 Gb/s"))
    # One GPU: 32 parts of 64 (2 s) and an update; 64 GPUs: a part of 32 (1.1 s), an update, and what is sent.
    sending = 6 * 4e7 / 1e12 + 2 * 63 / 64 * 4e7 / (0.8 * 12.5e9) + 2 * 63 * 2e-5
    assert slow == pytest.approx(64.2 / (64 * (1.3 + sending))) and slow < quick < 1


def test_the_table_of_efficiency(figures):
    lines = scaling.table(figures, "teacher", Plan(gpus=8))
    assert [line[0] for line in lines[1:]] == ["1", "2", "4", "8", "16", "32", "64"]
    assert lines[1][2:] == ("100%",) * 4 and lines[0][2:] == tuple(scaling.BETWEEN)
    assert lines[-1][2] == f"{scaling.efficiency(figures, 'teacher', Plan(8, 8, between='100 Gb/s')):.0%}"
    assert scaling.table(figures, "teacher", Plan(gpus=8, batch=1024))[-1][1:] == ("not measured", "", "", "", "")
    assert [line[0] for line in scaling.table(figures, "teacher", Plan(gpus=4, machines=2))[-2:]] == ["32", "64"]


def test_hours_epochs_and_bytes_by_hand(figures):
    plan = Plan(gpus=8, steps=(3600, 7200, 1))
    prepare, pretrain, teacher, student = budget.costs(figures, plan)
    clips = 49_838 + 403_050 + 180_000
    assert prepare["gpu_hours"] == prepare["hours"] == pytest.approx(clips * 0.06 / 3600)
    seconds = 4 * 2.0 + 0.2 + 6 * 4e7 / 1e12 + 2 * 7 / 8 * 4e7 / (0.8 * 450e9) + 14 * 5e-6
    assert pretrain["hours"] == pytest.approx(seconds) and pretrain["gpu_hours"] == pytest.approx(8 * seconds)
    assert teacher["hours"] == pytest.approx(2 * seconds) and student["steps"] == 1
    assert teacher["epochs"] == pytest.approx(7200 * 2048 / clips)
    assert teacher["sent"] == pytest.approx(7200 * 2 * 7 / 8 * 4e7) and teacher["checkpoint"] == 1.6e8
    assert clips / 360 == pytest.approx(1758, abs=1)  # hours at 10 s; AudioDEAR says about 1.7 thousand


def test_the_checkpoint_holds_four_numbers_a_parameter(tmp_path):
    training, loss = train_cost.begin(train_cost.Case("classroom", "student", 1), "cpu", "float32")
    train_cost.step(training, loss, 1)
    training.path = tmp_path / "checkpoint.safetensors"
    training.save()
    count = sum(p.numel() for p in training.parameters.values())
    assert training.path.stat().st_size == pytest.approx(budget.CHECKPOINT * count, rel=0.02)


def test_the_report_says_what_was_measured_and_what_was_not(record):
    found = CliRunner().invoke(app, ["budget", "--record", str(record), "--machines", "2"])
    assert found.exit_code == 0, found.output
    text = found.output
    assert text.startswith("Speed: measured on Some card, 4 thread(s) in bfloat16, 2000-01-01. All else is arithmetic.")
    assert "not published" in text and "Disk: shards 127 GB (200 kB a clip)" in text and "632,888 clips" in text
    assert "and reads 320 where" in text and "Preparing: 16.7 clips/s" in text
    cells = {line.split("  ")[0]: line.split()[-5:] for line in text.splitlines()}
    training = sum(row["gpu_hours"] for row in budget.costs(budget.read(record), Plan(machines=2))[1:])
    assert cells["AudioCaps"] == ["49,838", "138", "0.8", "10.0", f"{training * 49_838 / budget.CLIPS:,.0f}"]
    assert cells["+ AudioSet"] == ["632,888", "1,758", "10.5", "126.6", f"{training:,.0f}"]


@pytest.mark.parametrize(("options", "told"), [
    ((), "no record was named; a budget needs measured speed: `dear bench --what training"),
    (("--record", "absent.json"), "there is no absent.json"),
    (("--gpus", "3"), "2048 clips cannot be shared evenly by 3 GPUs"), (("--machines", "0"), "at least 1"),
    (("--network", "post"), "--network must be one of 100 Gb/s"), (("--inside", "x"), "--inside must be one of NVLink"),
    (("--student-steps", "0"), "at least 1"),
])  # fmt: skip
def test_the_command_says_what_is_wrong(record, options, told):
    given = ("--record", str(record), *options) if options else ()
    found = CliRunner().invoke(app, ["budget", *given])
    assert found.exit_code == 1 and told in found.output and "Traceback" not in found.output


def test_records_that_lack_something_are_refused(figures, tmp_path):
    path = tmp_path / "record.json"
    for change, told in (({"steps": figures["steps"][:3]}, "no step of pretraining"),
                         ({"preparation": figures["preparation"][:-1]}, "lacks of the preparation shard read")):
        path.write_text(json.dumps(figures | change))
        with pytest.raises(ValueError, match=told):
            budget.read(path)
    for text in (json.dumps({"rows": []}), "[]", "# Not json"):
        path.write_text(text)
        with pytest.raises(ValueError, match="is no record of trainings"):
            budget.read(path)


def test_what_is_budgeted_is_what_is_trained():
    configs = [getattr(PAPER, stage) for stage in budget.STAGES]
    assert tuple(budget.STAGES) == STAGES and tuple(config.steps for config in configs) == Plan().steps
    assert {config.batch_size for config in configs} == {Plan().batch}
    assert train_cost.LAWS["paper"] == PAPER.mask_law


def test_the_command_has_the_plans_defaults_and_names_one_that_exists():
    given = {name: value.default for name, value in inspect.signature(__main__.budget).parameters.items()}
    plan = Plan()
    assert (given["gpus"], given["machines"], given["inside"], given["network"], given["batch"]) == (
        plan.gpus, plan.machines, plan.inside, plan.between, plan.batch)
    assert (given["pretrain_steps"], given["teacher_steps"], given["student_steps"]) == plan.steps
    name, *options = scaling.COMMAND.split()[1:]
    typer.main.get_command(app).commands[name].make_context(name, options)
    assert replace(plan, gpus=4, machines=4).all == 16
