"""The cost model: what it counts against torch's own counters, what it predicts against what it was made from."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from dear import cost
from dear.backbone import BackboneConfig
from dear.bench import UNCOUNTED
from dear.head import HeadConfig
from dear.speed import Case, Lab

SMALL = cost.Size(
    BackboneConfig(tokens=16, token_dim=6, text_dim=10, text_length=9, width=16, heads=2, encoder_layers=2,
                   decoder_layers=3, pooled_dim=5, window=2),
    HeadConfig(6, 4, 16, 24, 2), HeadConfig(6, None, 16, 24, 2, 1), 9, 1.0)
PLAIN = {"size": "paper", "path": "plain", "dtype": "float32"}
VIEWS = {"view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "_unsafe_view", "split",
         "detach", "unbind", "alias", "as_strided", "flatten", "unflatten", "split_with_sizes", "tensor_split", "chunk",
         "unfold", "to"}


class Kernels(TorchDispatchMode):
    """Counts calls that do more than look at a tensor in another way."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.count += function.overloadpacket.__name__ not in VIEWS
        return function(*arguments, **(options or {}))


@pytest.fixture
def small(monkeypatch):
    """SMALL in the place of the classroom's size."""
    monkeypatch.setitem(cost.SIZES, "classroom", SMALL)


@pytest.mark.parametrize("path", ["plain", "optimised"])
@pytest.mark.parametrize(("model", "steps"), [("student", 1), ("teacher", 5)])
@pytest.mark.parametrize("iterations", [1, 8])
def test_operations_are_those_that_torch_counts(small, path, model, steps, iterations):
    case = Case("classroom", model, path, 3, iterations, steps)
    call = Lab("cpu", "float32").decoder(case)
    with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
        call()
    assert cost.flop(vars(case)) == counter.get_total_flops()


def test_operations_of_the_classroom_with_the_shipped_sizes():
    from dear.pipeline import TextToAudio

    for name, model in (("soundworld", "student"), ("soundworld-teacher", "teacher")):
        pipe, size = TextToAudio.from_pretrained(name), cost.SIZES["classroom"]
        assert pipe.backbone.config == size.backbone and pipe.head.config == getattr(size, model)


@pytest.mark.parametrize("path", ["plain", "optimised"])
@pytest.mark.parametrize(("model", "steps"), [("student", 1), ("teacher", 5)])
def test_kernels_are_about_those_that_torch_runs(small, path, model, steps):
    case = Case("classroom", model, path, 3, 8, steps)
    call = Lab("cpu", "float32").decoder(case)
    call()
    with Kernels() as kernels:
        call()
    assert cost.total(cost.of_row(vars(case))).kernels == pytest.approx(kernels.count, rel=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="fused kernels are counted on a GPU")
def test_fused_kernels_are_about_those_that_a_gpu_runs():
    from torch.profiler import ProfilerActivity, profile

    case = Case("paper", "student", "optimised", 1, 16)
    call = Lab("cuda", "bfloat16").decoder(case)
    call()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        call()
        torch.cuda.synchronize()
    ran = sum(row.count for row in found.key_averages())
    assert cost.total(cost.of_row(vars(case) | {"fused": True})).kernels == pytest.approx(ran, rel=0.1)


def test_fewer_kernels_move_as_much():
    plain, fused = (cost.attention_block([5, 7], 16, fused) for fused in (False, True))
    assert (plain.kernels, fused.kernels) == (12, 9) and plain.flop == fused.flop
    rows = [PLAIN | {"path": "optimised", "model": "teacher", "batch": 1, "iterations": 4, "steps": 3, "fused": fused}
            for fused in (False, True)]
    assert cost.flop(rows[0]) == cost.flop(rows[1])
    assert cost.total(cost.of_row(rows[1])).kernels < 0.9 * cost.total(cost.of_row(rows[0])).kernels


def test_work_adds_up():
    one = cost.linear(3, 5, 7)
    assert one == cost.Work(1, 210, 35, 36) and one * 2 + one == one * 3
    plain, fast = (cost.total(cost.decoding(SMALL, "student", 2, 4, 1, path)) for path in ("plain", "optimised"))
    assert fast.flop < plain.flop and fast.kernels < plain.kernels


def test_more_of_anything_costs_more():
    row = PLAIN | {"model": "teacher", "batch": 8, "iterations": 16, "steps": 10}
    for machine in (cost.MACHINES["H200, bfloat16"], cost.Machine("a CPU", 1e-6, 5e10, 1e10, overlaps=False)):
        seconds = cost.predict(machine, row)["all"]
        for more in ({"batch": 32}, {"iterations": 32}, {"steps": 20}, {"tokens": 512}):
            assert cost.predict(machine, row | more)["all"] > seconds


def test_a_machine_that_overlaps_waits_for_the_longer():
    work, overlapping = cost.Work(1000, 4e9, 0, 0), cost.Machine("m", 1e-3, 2e9, 1e9)
    assert overlapping.seconds(work, 4) == 2 and overlapping.seconds(work * 0.1, 4) == pytest.approx(0.2)
    serial = cost.Machine("m", 1e-3, 2e9, 1e9, overlaps=False)
    assert serial.seconds(work, 4) == 3


def test_a_product_of_half_rows_reaches_half_the_rate():
    machine = cost.Machine("m", 0, 1e9, float("inf"), half=16)
    few, many = (cost.linear(rows, 100, 100) for rows in (16, 10**6))
    assert few.flop / machine.seconds(few, 4) == pytest.approx(0.5e9)
    assert many.flop / machine.seconds(many, 4) == pytest.approx(1e9, rel=1e-3)


def test_a_fit_finds_the_machine_that_the_seconds_come_from():
    true = cost.Machine("true", 2e-5, 1e11, 2e10, 0.5, 60, overlaps=False)
    rows = [PLAIN | {"size": size, "model": model, "batch": batch, "iterations": n, "steps": steps}
            for size in cost.SIZES for model, steps in (("student", 1), ("teacher", 20))
            for batch, n in ((1, 4), (1, 16), (8, 16))]
    rows = [row | {"seconds": {"median": cost.predict(true, row)["all"]}} for row in rows]
    found = cost.fit(rows[::2], cost.Machine("guess", 5e-6, 1e11, 2e10, overlaps=False), pull=1e-4)
    assert found.launch == pytest.approx(true.launch, rel=0.05) and found.half == pytest.approx(60, rel=0.05)
    assert max(map(abs, cost.errors(found, rows))) < 0.01


def test_the_published_line_of_the_teacher_tells_the_student():
    fifty, hundred, more, two_hundred, sixteen, four, student = cost.PUBLISHED
    machine = cost.fit([fifty, two_hundred], cost.MACHINES["V100, float16"])
    assert max(map(abs, cost.errors(machine, [hundred, more, sixteen]))) < 0.05
    # The line's ends are met, and what is missing from the shortest two is the same: text, VAE, vocoder of 8 clips.
    missing = [row["seconds"]["median"] - cost.predict(machine, row)["all"] for row in (four, student)]
    assert all(0.3 < seconds < 0.5 for seconds in missing)
    assert 0.3 < machine.efficiency < 0.6 and 2e-5 < machine.launch < 6e-5
    told = cost.predict(machine, student)
    assert told["backbone"] > 15 * told["head"]  # what is left are 64 passes of the backbone
    assert cost.predict(cost.MACHINES["V100, float32"], student)["all"] > 2.5 * 2.25


def test_few_steps_matter_where_launches_do_and_hardly_on_a_slow_processor():
    student, teacher = (PLAIN | {"model": m, "batch": 1, "iterations": 64, "steps": k}
                        for m, k in (("student", 1), ("teacher", 100)))
    processor = cost.Machine("a CPU core", 5e-6, 6e10, 1.4e10, 0.9, 60, overlaps=False)
    ratios = [cost.predict(m, teacher)["all"] / cost.predict(m, student)["all"]
              for m in (processor, cost.MACHINES["H200, bfloat16"])]
    assert ratios[0] < 4 < 8.5 < ratios[1]


def test_growth_is_the_exponent():
    assert cost.growth([1, 8, 32], [3, 3 * 8**0.5, 3 * 32**0.5]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="two different sizes"):
        cost.growth([4, 4], [1, 2])


def test_other_lengths_keep_the_networks():
    size = cost.SIZES["paper"].of(128)
    assert size.seconds == 5.12 and size.backbone.tokens == 128 and size.backbone.width == 768
    assert cost.SIZES["paper"].of(None) == cost.SIZES["paper"]
