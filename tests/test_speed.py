"""Decodings and stages against the clock, with networks that are quick, and what is concluded from them."""

import json
import math
import time

import pytest
import torch
from typer.testing import CliRunner

from dear import bench, cost, fullsize, speed, stages, targets
from dear.__main__ import app
from dear.backbone import BackboneConfig
from dear.head import HeadConfig
from dear.speed import Case

TINY = cost.Size(
    BackboneConfig(tokens=64, token_dim=6, text_dim=10, text_length=9, width=16, heads=2, encoder_layers=1,
                   decoder_layers=2, pooled_dim=5, window=0),
    HeadConfig(6, None, 16, 24, 2), HeadConfig(6, None, 16, 24, 2, 1), 9, 2.0)
SECONDS = {"median": 2.0, "minimum": 1.0, "maximum": 3.0, "processor": 1.5, "repeats": 3}


@pytest.fixture
def tiny(monkeypatch):
    """Networks of both sizes are tiny, and decodings short."""
    for name in cost.SIZES:
        monkeypatch.setitem(cost.SIZES, name, TINY)
        monkeypatch.setitem(speed.ITERATIONS, name, (8, 4))


def row(case, seconds=SECONDS, peak=None):
    """A row of a case as the record keeps it."""
    return speed.row_of(case, "float32", bench.Timing(**seconds)) | {"peak_bytes": peak, "before_bytes": 0}


def test_the_grid_of_a_gpu_has_all_that_is_asked_for_and_what_matters_first():
    cases = speed.grid(True)
    assert cases[: len(speed.TARGETED)] == speed.TARGETED and len(cases) == len(set(cases))
    for size, iterations in (("paper", (64, 32, 16, 8, 4)), ("classroom", (32, 16, 8, 4))):
        for path in ("plain", "optimised"):
            for batch in (1, 8, 32):
                assert {Case(size, "student", path, batch, n) for n in iterations} <= set(cases)
                assert {Case(size, "teacher", path, batch, n, 100) for n in iterations} <= set(cases)
            assert {Case(size, "teacher", path, 8, 16, k) for k in (100, 50, 25, 10, 4, 1)} <= set(cases)
    for batch in (8, 4):  # whatever is wanted is timed
        assert {case.batch for case in speed.grid(True, batches=[batch])} == {batch}
        assert {case.batch for case in speed.grid(False, batches=[batch])} == {batch}


def test_the_grid_of_a_cpu_is_small_and_its_shapes_exist():
    cases = speed.grid(False)
    assert {case.iterations for case in cases if case.size == "paper"} == {4} and len(cases) < 50
    for case in cases:
        assert case.iterations <= (case.tokens or cost.SIZES[case.size].backbone.tokens)


@pytest.mark.parametrize("case", [
    Case("paper", "student", "plain", 2, 4), Case("paper", "teacher", "optimised", 2, 4, 3),
    Case("paper", "student", "optimised", 1, 4, tokens=8),
])  # fmt: skip
def test_a_row_says_what_was_timed(tiny, case):
    found = speed.Lab("cpu", "float32").measure(case, repeats=2)
    assert found["how"] == "measured" and 0 < found["seconds"]["minimum"] <= found["seconds"]["median"]
    assert found["tokens"] == (case.tokens or 64) and found["flop"] == cost.flop(found)
    assert found["seconds_per_clip"] == found["seconds"]["median"] / case.batch
    sound = 2.0 * found["tokens"] / 64
    assert found["real_time_factor"] == pytest.approx(found["seconds_per_clip"] / sound)
    json.dumps(found)


def test_what_is_not_a_number_is_no_measurement(tiny):
    lab, case = speed.Lab("cpu", "float32"), Case("paper", "student", "plain", 1, 4)
    lab.networks(case)["student"].out.bias.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        lab.measure(case)


def test_a_decoding_in_bfloat16_is_one_throughout(tiny):
    lab = speed.Lab("cpu", "bfloat16")
    for path in ("plain", "optimised"):
        for model, steps in (("student", 1), ("teacher", 3)):
            assert lab.decoder(Case("paper", model, path, 2, 4, steps))().dtype == torch.bfloat16
    assert torch.get_default_dtype() == torch.float32


def test_a_sum_of_passes_counts_each_as_often_as_it_runs(tiny):
    passes = [{"name": name, "size": size, "median": s, "minimum": s, "maximum": s, "processor": s / 2}
              for name, s in (("backbone", 1.0), ("energy head", 0.1), ("diffusion head", 0.01)) for size in (0, 64)]
    rows = speed.from_passes(passes, 1, "float32", steps=(100,))
    seconds = {(r["model"], r["iterations"]): r["seconds"]["median"] for r in rows}
    assert seconds["student", 8] == pytest.approx(8 * 1.1) and seconds["teacher", 4] == pytest.approx(4 * 2)
    assert {r["how"] for r in rows} == {"extrapolated"} and rows[0]["seconds"]["processor"] == pytest.approx(4.4)


def test_one_task_may_fail_and_late_ones_do_not_begin():
    kept = []

    def fails():
        raise RuntimeError("no room\nmore")

    tasks = [({"size": "paper", "tokens": None}, fails), ({"size": "classroom"}, lambda: {"seconds": SECONDS})]
    assert speed.run(tasks, time.monotonic() + 60, kept.append) == ["paper: RuntimeError: no room"]
    assert kept == [{"seconds": SECONDS}]
    assert speed.run(tasks[1:], time.monotonic() - 1, kept.append) == ["classroom: not begun in time"]


def test_a_machine_is_probed():
    machine = speed.probe("cpu", "float32")
    assert 0 < machine.launch < 1e-3 and machine.rate > 1e9 and machine.bandwidth > 1e8 and not machine.overlaps


def test_growth_of_seconds_and_memory():
    rows = [row(Case("paper", "student", "plain", b, 4), SECONDS | {"median": 3.0 * b}, 5 * b**2) for b in (1, 2, 4)]
    (found,) = targets.growths(rows, "median")
    assert (found["of"], found["from"], found["to"]) == ("batch", 1, 4)
    assert found["seconds"] == pytest.approx(1) and found["memory"] == pytest.approx(2)


def test_the_model_is_judged_on_what_it_was_not_fitted_on():
    machine = cost.Machine("m", 2e-5, 1e11, 2e10, overlaps=False)
    cases = [Case("classroom", model, "plain", b, n, k) for model, k in (("student", 1), ("teacher", 10))
             for b in (1, 8) for n in (4, 8, 16)]
    rows = [row(case, SECONDS | {"median": cost.predict(machine, vars(case) | {"dtype": "float32"})["all"]})
            for case in cases]
    (found,) = targets.models(rows, machine, "median")
    assert found["fitted_on"] + found["predicted"] == len(rows) == 12 and abs(found["worst_error"]) < 0.02
    assert found["within_15_percent"] == found["predicted"] and found["fitted_on"] <= 6
    chosen = targets.corners(rows)
    assert len(chosen) == found["fitted_on"] and all(chosen.count(one) == 1 for one in chosen)


def test_targets_are_met_missed_or_unmeasured():
    machine = cost.Machine("a card", 5e-6, 9e14, 4e12)
    seconds = (1, 0.2, 9, 2, 0.02, 60)
    rows = [row(case, SECONDS | {"median": s}) for case, s in zip(speed.TARGETED, seconds, strict=True)]
    texts = [{"size": "paper", "batch": 1, "stage": "CLAP's text, optimised", "seconds": SECONDS | {"median": 0.001}}]
    found = targets.targets(rows, texts, machine, "median", True)
    assert [t["met"] for t in found] == [True, None, True, True, True, False]
    assert [t["found"] for t in found[:5]] == pytest.approx([9, 10, 45, 0.02, 0.021])
    absent = targets.targets(rows, [], machine, "processor", False)  # rows of a CPU say nothing of a card
    assert all(t["found"] is None and t["met"] is None for t in absent)
    assert all(t["predicted_for_an_H200"] > 0 for t in absent[:6] if "encoders" not in t["target"])
    assert "not measured here (wanted >= 8.5); the cost model expects" in targets.told(absent[0])


def test_the_command_times_decodings_and_stages_and_keeps_what_it_has(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(stages, "surroundings", lambda quick: {"VAE": lambda batch, device: lambda: None})
    path, cases = tmp_path / "speed.json", [Case("classroom", "student", path, batch, 4)
                                            for path in ("plain", "optimised") for batch in (1, 2, 3)]
    monkeypatch.setattr(speed, "grid", lambda *_: cases)
    for module in (bench, stages, speed):
        monkeypatch.setattr(module, "time_calls", lambda *_, **__: bench.Timing(**SECONDS))
    monkeypatch.setattr(fullsize, "systems", lambda: fullsize.masked_systems(TINY.backbone, width=8, iterations=(4,)))
    found = CliRunner().invoke(app, ["bench", "--device", "cpu", "--only", "AudioDEAR", "--record", str(path)])
    assert found.exit_code == 0, found.output
    record = json.loads(path.read_text())
    measured = [r for r in record["decodings"] if r["how"] == "measured"]
    assert len(measured) == 6 and len(record["decodings"]) == 6 + 2 * 4
    assert {s["stage"] for s in record["stages"]} >= {"text", "VAE", "vocoder", "text to waveform, optimised"}
    assert record["missing"] == [] and record["ran_on"] == "cpu" and record["machine"]["rate"] > 0
    assert "text to tokens, plain over optimised, this CPU: 1 x, missed" in found.output
    assert [r["system"] for r in record["rows"]] == ["AudioDEAR, 4 iterations"] and "GFLOP" in found.output
    assert "growth in batch, 1 to 3" in found.output and "extrapolated" in found.output
