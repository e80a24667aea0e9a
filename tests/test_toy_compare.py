"""The comparison: every method trains and is measured, lines say what they are of, and a killed run goes on."""

import dataclasses
import json
import math

import pytest
import torch
from typer.testing import CliRunner

from dear.log import Record
from toy import compare
from toy.compare import METHODS, METRICS, Comparison, Method, Run, Try, app, measure
from toy.data import swiss_roll
from toy.nets import load_net
from toy.train import sample

VARIES = {"cpu_seconds", "seconds", "date", "commit", "device"}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Few samples and pairs, and a small batch: what is tested is the order of things."""
    monkeypatch.setattr(compare, "SAMPLES", 60)
    monkeypatch.setattr(compare, "PAIRS", 1000)
    config = compare.TrainConfig
    monkeypatch.setattr(compare, "TrainConfig", lambda **settings: config(batch_size=32, **settings))


def run(folder, *arguments):
    words = ["--out", folder / "record.jsonl", "--nets", folder / "nets", "--no-progress", *arguments]
    return CliRunner().invoke(app, [str(word) for word in words])


def lines(folder):
    return [json.loads(line) for line in (folder / "record.jsonl").read_text().splitlines()]


def steady(rows):
    return [{k: v for k, v in row.items() if k not in VARIES} for row in rows]


def test_every_method_has_four_tries_and_meanflow_twice_as_many():
    tries = {method.name: len(method.tries) for method in METHODS}
    assert tries.pop("meanflow") == 8 and set(tries.values()) == {4}  # the rival that is to be beaten has twice as many
    for method in METHODS:
        assert len({json.dumps(dataclasses.asdict(choice)) for choice in method.tries}) == len(method.tries)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_try_of_every_method_trains_and_draws(method, tmp_path):
    comparison = Comparison(Record(tmp_path / "record.jsonl"), tmp_path / "nets", steps=2)
    for planned in comparison.tries(method)[:: 1 if not method.distilled else 2]:
        line = comparison.do(planned)
        assert line["method"] == method.name and line["steps"] == line["steps_planned"] == 1
        assert line["evaluations"] == (50 if method.name == "flow" else 1)  # counted, not claimed
        assert all(math.isfinite(line[metric]) for metric in METRICS)
        assert line["started_from_teacher"] == (method.distilled and method.name != "trajectory")


def test_the_table_of_one_method(tmp_path):
    done = run(tmp_path, "--steps", 8, "--seeds", 1, "--cpu-seconds", 0.05, "--only", "shortcut",
               "--data", "swiss_roll")
    assert done.exit_code == 0, done.output
    rows = lines(tmp_path)
    controls, tuning, steps, timed = ([r for r in rows if r["stage"] == s] for s in ("controls", "tuning", "steps",
                                                                                     "time"))
    assert [r["method"] for r in controls] == ["floor", "gaussian", "square"]
    assert [(r["setting"], r["seed"], r["steps"]) for r in tuning] == [(f"try {k}", 1000, 2) for k in (1, 2, 3, 4)]
    best = min(tuning, key=lambda r: r["w2"])
    assert steps[0]["arguments"] == best["arguments"] and steps[0]["target_ema"] == best["target_ema"]
    assert {r["setting"] for r in steps} in ({"published, tuned"}, {"published", "tuned"})
    assert [r["seed"] for r in steps] == [0] * len(steps) and steps[0]["steps"] == 8
    assert len(timed) == 1 and timed[0]["arguments"] == best["arguments"] and timed[0]["cpu_seconds_planned"] == 0.05
    for row in rows:
        assert {*METRICS, "samples", "command", "date", "commit", "device"} <= row.keys()
        assert row["command"].startswith("python -m toy.compare --steps 8") and "--only shortcut" in row["command"]
        assert str(tmp_path) not in json.dumps(row)


def test_controls_are_fresh_data_a_gaussian_and_a_square_of_the_datas_size(tmp_path, monkeypatch):
    drawn = []

    def watched(data, x, seed):
        drawn.append(x)
        return measure(data, x, seed)

    monkeypatch.setattr(compare, "SAMPLES", 1000)
    monkeypatch.setattr(compare, "measure", watched)
    comparison = Comparison(Record(tmp_path / "record.jsonl"), tmp_path / "nets", steps=1)
    lines = list(comparison.controls("swiss_roll", 0))
    assert [line["method"] for line in lines] == ["floor", "gaussian", "square"]
    for x in drawn:  # as the data: mean 0, the mean of the variances 1; standard errors are about 0.03
        assert x.mean(0).abs().max() < 0.15 and x.var(0).mean().item() == pytest.approx(1, abs=0.15)
    assert (swiss_roll.mode_of(drawn[0]) >= 0).double().mean() > 0.97
    assert 1.7 < drawn[2].abs().amax(0).min() and drawn[2].abs().max() < math.sqrt(3)
    # Fresh data: none of the points that it is measured against, and still nearer than the trivial samplers.
    assert 0.05 < lines[0]["w1"] < 0.5 * min(line["w1"] for line in lines[1:])


def test_pairs_keep_noise_and_sample_together():
    objective = compare.Rectified(lambda x, cond, t: x, teacher_steps=2)  # two Euler steps: x(n) = n / 4
    pairs = compare.pool(objective, torch.Generator().manual_seed(0))(500, torch.Generator().manual_seed(1))
    torch.testing.assert_close(pairs[:, :2], pairs[:, 2:] / 4)
    assert len(pairs.unique(dim=0)) > 350  # 500 of 1000, drawn with replacement: about 394 different ones


def test_a_run_trains_with_its_settings_and_a_student_begins_as_its_teacher(tmp_path, monkeypatch):
    comparison, trained = Comparison(Record(tmp_path / "record.jsonl"), tmp_path / "nets", steps=2), []
    train = compare.train

    def watched(objective, net, draw, config, **options):
        trained.append((net, config))
        return train(objective, net, draw, config, **options)

    monkeypatch.setattr(compare, "train", watched)
    choice = Try({"intervals": 6}, 5e-4, target_ema=0.5)
    planned = Run("steps", METHODS[5], "tuned", choice, "swiss_roll", 3, 2)
    comparison.do(planned)
    (_, _), (student, config) = trained  # the flow, then the student
    assert (config.learning_rate, config.target_ema, config.seed, config.steps) == (5e-4, 0.5, 3, 2)
    for ours, theirs in zip(student.parameters(), comparison.teacher(planned).parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_waves_of_a_try_reach_its_net_and_its_line(tmp_path):
    comparison = Comparison(Record(tmp_path / "record.jsonl"), tmp_path / "nets", steps=4)
    slow, usual = (planned for planned in comparison.tries(METHODS[4]) if planned.choice.arguments["power"] == 0)
    for planned, waves, told in ((slow, 1, 1), (usual, 4, None)):  # four, as in all other nets, are not named
        line = comparison.do(planned)
        assert line.get("waves") == told
        assert load_net(tmp_path / "nets" / planned.file()).config.waves == waves


def test_a_killed_comparison_goes_on_where_it_was(tmp_path, monkeypatch):
    words = ("--steps", 8, "--seeds", 1, "--cpu-seconds", 0, "--only", "energy", "--only", "consistency",
             "--data", "swiss_roll")
    assert run(tmp_path / "whole", *words).exit_code == 0
    whole = lines(tmp_path / "whole")

    train, trained = compare.train, []

    def killed(*arguments, **options):
        trained.append(1)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return train(*arguments, **options)

    monkeypatch.setattr(compare, "train", killed)
    assert run(tmp_path / "parts", *words).exit_code != 0
    part = lines(tmp_path / "parts")
    assert len(part) == 3 + 2 and steady(part) == steady(whole[:5])
    with (tmp_path / "parts" / "record.jsonl").open("a") as file:
        file.write('{"stage": "tuning", "method": "ene')  # a crash within a line
    assert run(tmp_path / "parts", *words).exit_code == 0
    assert steady(lines(tmp_path / "parts")) == steady(whole)

    trained.clear()
    text = (tmp_path / "parts" / "record.jsonl").read_bytes()
    assert run(tmp_path / "parts", *words).exit_code == 0
    assert not trained and (tmp_path / "parts" / "record.jsonl").read_bytes() == text


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch):
    words = ("--steps", 4, "--seeds", 1, "--cpu-seconds", 0, "--only", "flow", "--data", "swiss_roll")

    def interrupted(self, planned):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Comparison, "trained", interrupted)
        done = run(tmp_path, *words)
    assert done.exit_code == 130 and "the same command goes on after the 3 lines" in done.output
    done = run(tmp_path, *words)
    assert done.exit_code == 0 and f"{len(lines(tmp_path))} lines" in done.output


def test_the_saved_net_gives_the_recorded_figures(tmp_path):
    comparison = Comparison(Record(tmp_path / "record.jsonl"), tmp_path / "nets", steps=4)
    planned = comparison.chosen(METHODS[1], "swiss_roll", 1)
    line = comparison.do(planned)
    net = load_net(tmp_path / "nets" / planned.file())
    x = sample(comparison.objective(planned, None), net, 60, torch.Generator().manual_seed(2001))
    assert measure("swiss_roll", x, 1) == {k: line[k] for k in ("samples", *METRICS)}


def test_the_teacher_is_the_flow_of_the_same_data_and_seed_and_is_trained_once(tmp_path, monkeypatch):
    comparison = Comparison(Record(tmp_path / "record.jsonl"), tmp_path / "nets", steps=2)
    planned = comparison.chosen(METHODS[5], "swiss_roll", 7)
    flow = tmp_path / "nets" / comparison.chosen(METHODS[0], "swiss_roll", 7).file()
    teacher = comparison.teacher(planned)
    assert flow.exists() and not any(p.requires_grad for p in teacher.parameters())
    monkeypatch.setattr(comparison, "trained", None)  # would fail if it were called again
    again = comparison.teacher(planned)
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), again.parameters(), strict=True))


def test_a_training_that_diverges_is_a_line_and_never_the_best(tmp_path):
    comparison = Comparison(Record(tmp_path / "record.jsonl"), tmp_path / "nets", steps=8)
    wild = Method("energy", compare.Energy, (Try({"samples": 2}, 1e30), Try({"samples": 2})))
    first, second = (comparison.do(planned) for planned in comparison.tries(wild))
    assert first["failed"] and all(first[metric] is None for metric in METRICS)
    assert second["w2"] > 0 and comparison.best(wild) == wild.tries[1]
    assert comparison.chosen(wild, "swiss_roll", 0).setting == "tuned"


def test_the_best_try_has_the_least_w2(tmp_path):
    comparison = Comparison(Record(tmp_path / "record.jsonl"), tmp_path / "nets", steps=8)
    assert comparison.best(METHODS[1]) == METHODS[1].tries[0]  # nothing is known yet
    for w2, planned in zip((0.4, 0.2, 0.3, 0.5), comparison.tries(METHODS[1]), strict=True):
        others = {metric: 1 - w2 for metric in METRICS}  # any other metric would choose another try
        comparison.record.append(planned.key() | others | {"w2": w2})
    assert comparison.best(METHODS[1]) == METHODS[1].tries[1]


def test_measure_knows_the_data_from_a_gaussian_and_depends_on_the_seed_alone():
    data = swiss_roll(300, torch.Generator().manual_seed(5))
    noise = torch.randn(300, 2, generator=torch.Generator().manual_seed(5))
    good, bad = measure("swiss_roll", data, 0), measure("swiss_roll", noise, 0)
    for metric in METRICS[:5]:
        assert good[metric] < bad[metric], metric
    for metric in METRICS[5:]:
        assert good[metric] > bad[metric], metric
    assert measure("swiss_roll", data, 0) == good != measure("swiss_roll", data, 1)
    with pytest.raises(FloatingPointError, match="samples are not finite"):
        measure("swiss_roll", data / 0, 0)


def test_lines_with_other_settings_are_not_taken_for_one_another(tmp_path):
    record = Record(tmp_path / "record.jsonl")
    planned = Run("steps", METHODS[1], "tuned", Try({"samples": 2}), "swiss_roll", 0, 10)
    record.append(planned.key() | {"w2": 1.0})
    assert Record(tmp_path / "record.jsonl").find(planned.key())["w2"] == 1.0
    for change in ({"seed": 1}, {"steps": 11}, {"choice": Try({"samples": 4})}, {"cpu_seconds": 1.0},
                   {"setting": "published"}, {"choice": Try({"samples": 2}, 1e-3)}):
        other = dataclasses.replace(planned, **change)
        assert record.find(other.key()) is None and other.file() != planned.file()


@pytest.mark.parametrize(("words", "message"), [
    (["--only", "diffusion"], "diffusion"), (["--data", "moons"], "moons"), (["--steps", "0"], "--steps"),
    (["--device", "cuda"], "--cpu-seconds 0"),
])
def test_bad_options(tmp_path, words, message):
    done = run(tmp_path, *words)
    assert done.exit_code == 2 and message in done.output and not (tmp_path / "record.jsonl").exists()
