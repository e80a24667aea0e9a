"""The full-size comparison: what is counted, what is summed, and whether the networks have the stated sizes."""

import json
import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from dear import bench, fullsize
from dear.__main__ import app
from dear.backbone import BackboneConfig
from dear.masking import decoding_schedule

SMALL = BackboneConfig(tokens=16, token_dim=4, text_dim=6, text_length=9, width=8, heads=2, encoder_layers=1,
                       decoder_layers=1, pooled_dim=3, window=0)
MILLIONS = {"AudioDEAR": 191, "IMPACT": 193, "ConsistencyTTA": 557, "SoundCTM": 866, "AudioLCM": 160,
            "AudioTurbo": 860, "AudioLDM2": 347, "Tango": 866}


def linear(rows=3, width=5):
    """A pass of one linear layer, on `rows` rows a clip and `size` more."""
    def prepare(net, size, batch, device):
        x = torch.ones(batch * (rows + size), width, device=device)
        return lambda: net(x)

    return bench.Pass("layer", "", prepare, (0, 4))


def system(name="one", build=lambda: nn.Linear(5, 7), sizes=(0,), **more):
    return bench.System(name, build, ((linear(), sizes),), "a note", **more)


def test_every_published_network_has_the_stated_size_and_no_buffers():
    nets = {}
    for entry in fullsize.systems():
        with torch.device("meta"):
            net = nets[entry.build] = nets.get(entry.build) or entry.build()
        stated = MILLIONS[entry.name.split(",")[0].split(" ")[0]]
        assert entry.parameters(net) / 1e6 == pytest.approx(stated, rel=0.02), entry.name
        assert not list(net.buffers()), entry.name


def test_forwards_of_a_clip():
    counts = {entry.name: entry.forwards() for entry in fullsize.systems()}
    assert counts["AudioDEAR, 64 iterations"] == {"backbone": 64, "energy head": 64}
    assert counts["IMPACT, 16 iterations"] == {"backbone": 16, "diffusion head": 1600}
    assert counts["ConsistencyTTA"] == {"U-Net": 1} and counts["SoundCTM"] == {"U-Net x 2": 1}
    assert counts["AudioLCM, 2 steps"] == {"transformer": 2} and counts["AudioTurbo, 5 steps"] == {"U-Net x 2": 5}
    assert counts["Tango, 200 steps"] == {"U-Net x 2": 200}


def test_a_clip_of_tokens_begins_knowing_none_and_draws_all():
    for entry in fullsize.masked_systems(SMALL, width=8, iterations=(16, 4), steps=3):
        (backbone, known), (head, drawn) = entry.clip
        calls = 3 if "IMPACT" in entry.name else 1
        shares = decoding_schedule("cosine", len(known), 16)
        assert known[0] == 0 and [b - a for a, b in pairwise(known)] == shares[:-1] and known[-1] + shares[-1] == 16
        assert sum(drawn) == 16 * calls and len(drawn) == calls * len(known)
        assert backbone.sizes[0] == 0 and known[-1] <= backbone.sizes[-1] and max(drawn) <= head.sizes[-1]


def test_one_iteration_of_the_paper_size_lies_on_the_grid():
    (backbone, known), (head, drawn) = fullsize.masked_systems(BackboneConfig.paper(), iterations=(1,))[0].clip
    assert known == (0,) and drawn == (256,) and backbone.sizes == (0, 64, 128, 192, 255) and head.sizes[-1] == 256


def test_the_sum_over_the_schedule_is_exact_for_a_linear_cost():
    known = (0, 7, 20, 50, 90, 255)
    grid = {size: 0.3 + 0.01 * size for size in (255, 0, 64, 128)}
    assert bench.integrate(known, grid) == pytest.approx(sum(0.3 + 0.01 * size for size in known))
    assert bench.integrate((0,) * 200, {0: 0.5}) == pytest.approx(100)
    with pytest.raises(ValueError, match=r"sizes must lie in 0\.\.255"):
        bench.integrate((0, 256), grid)


def test_rows_hold_what_was_timed(monkeypatch):
    seconds = {0: 2.0, 4: 6.0}
    timings = iter(bench.Timing(s, s / 2, 2 * s, s, 3) for s in seconds.values())
    monkeypatch.setattr(bench, "time_calls", lambda *_: next(timings))
    single, several = system(sizes=(2,), paper_seconds=3.03), system("five", sizes=(0, 1, 2, 3, 4))
    several = bench.System("five", single.build, ((single.clip[0][0], several.clip[0][1]),), "more")
    one, five = bench.measure([single, several], batch=2, repeats=3)
    assert one["seconds_per_clip"] == {"median": 2, "minimum": 1, "maximum": 4, "processor": 2}  # 4 s for both clips
    assert five["seconds_per_clip"]["median"] == 10 and one["parameters"] == 42
    assert (one["how"], five["how"], one["paper_seconds"], five["paper_seconds"]) == (
        "measured", "extrapolated", 3.03, None)
    # A multiplication and an addition for each of 5 x 7 weights, on 3 rows a clip and 2 more.
    assert one["gflop_per_clip"] == pytest.approx(2 * 5 * 7 * 5 / 1e9)
    assert one["passes"][1] == {"name": "layer", "size": 4, "median": 6, "minimum": 3, "maximum": 12, "processor": 6,
                                "repeats": 3, "gflop": pytest.approx(2 * 5 * 7 * 14 / 1e9)}
    text = bench.table([one, five])
    assert "1 layer" in text and "5 layer" in text and "3.03" in text and "five: more" in text
    assert "2 [1, 4]" in text and len({len(line) > 20 for line in text.splitlines()[:3]}) == 1


def test_a_whole_clip_is_what_is_reported_beside_the_sum(monkeypatch):
    ran = []
    monkeypatch.setattr(bench, "time_calls", lambda call, repeats, device: (call(), bench.Timing(4, 3, 5, 4, 3))[1])
    whole = system(sizes=(0, 0, 0), whole=lambda net, batch, device: ran.append((batch, device)))
    (row,) = bench.measure([whole], batch=2)
    assert ran == [(2, "cpu")] and row["how"] == "measured" and row["seconds_per_clip"]["median"] == 2
    assert row["extrapolated"]["median"] == 6 and row["relative_difference"]["median"] == pytest.approx(2)
    assert "+200.0 % off the whole" in bench.table([row])


def test_small_student_and_teacher_run_whole_and_in_passes():
    rows = bench.measure(fullsize.masked_systems(SMALL, width=8, iterations=(8, 4), steps=3), batch=2, repeats=1)
    assert [row["how"] for row in rows] == ["extrapolated", "measured"] * 2
    assert all(row["seconds_per_clip"]["minimum"] > 0 and row["gflop_per_clip"] > 0 for row in rows)
    student, teacher = rows[1], rows[3]
    # The backbone is timed once, for both.
    assert [p for p in student["passes"] if p["name"] == "backbone"] == [
        p for p in teacher["passes"] if p["name"] == "backbone"]
    json.dumps(rows)


def test_attention_is_counted_on_the_cpu():
    net = bench.materialise(lambda: fullsize.ConvTransformer(channels=2, text=3, width=32, depth=1, heads=2))
    shapes = ((1, 2, 5), (1, 256), (1, 256), (1, 4, 3))

    def prepare(net, size, batch, device):
        inputs = [torch.ones(shape) for shape in shapes]
        return lambda: net(*inputs)

    _, gflop = bench._time_pass(net, bench.Pass("all", "", prepare), 0, 1, 1, "cpu")
    rows, w = 10, 32  # a time, 2 x 2 words, 5 frames
    embeddings = 256 * 256 + 256 * w + w * w + 4 * (3 * w + w * w) + 5 * 2 * w * 5 + 5 * w * 2
    block = rows * (2 * w * w + 2 * 4 * w * w + 9 * w * 8 * w + 9 * 4 * w * w) + 2 * 2 * rows * rows * w
    assert gflop * 1e9 == pytest.approx(2 * (embeddings + block) + 2 * 5 * w * 2, rel=0.02)


def test_audiolcms_network_returns_frames_and_reads_everything():
    net = bench.materialise(lambda: fullsize.ConvTransformer(channels=2, text=3, width=32, depth=1, heads=2))
    for parameter in net.parameters():
        parameter.mul_(10)
    g = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, *shape, generator=g) for shape in ((2, 5), (256,), (256,), (4, 3))]
    out = net(*inputs)
    assert out.shape == (2, 2, 5)
    for i in range(4):
        changed = [x + 1 if i == j else x for j, x in enumerate(inputs)]
        assert (net(*changed) - out).abs().max() > 1e-6


def test_a_tiny_unet_runs_with_and_without_a_guidance_weight():
    pytest.importorskip("diffusers")
    shape = {"attention_head_dim": 2, "cross_attention_dim": 6, "norm_num_groups": 4,
             "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
             "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    texts = {"encoder_hidden_states": (3, 6)}
    plain = bench.System("plain", fullsize.unet((8, 16), latent=4, **shape),
                         ((fullsize.unet_pass((4, 8, 4), 2, texts), (0,) * 3),), "")
    guided = bench.System("guided", fullsize.unet((8, 16), latent=4, time_cond_proj_dim=10, **shape),
                          ((fullsize.unet_pass((4, 8, 4), 1, texts, weight=10), (0,)),), "")
    rows = bench.measure([plain, guided], repeats=1)
    assert rows[0]["forwards"] == {"U-Net x 2": 3} and rows[1]["forwards"] == {"U-Net": 1}
    per_branch = rows[0]["gflop_per_clip"] / 6
    assert rows[1]["gflop_per_clip"] == pytest.approx(per_branch, rel=0.02)  # a row more or less is all that differs


def test_time_calls_repeats_short_calls_and_stops():
    called = []
    timing = bench.time_calls(lambda: called.append(0), repeats=3, at_least=60)
    assert timing.repeats == len(called) == 100 and timing.minimum <= timing.median <= timing.maximum
    assert bench.time_calls(lambda: None, repeats=2, at_least=0).repeats == 2
    assert bench.time_calls(lambda: None, repeats=9, at_most=0).repeats == 1


def test_what_is_made_in_a_block_has_its_dtype():
    with bench.default_dtype("bfloat16"):
        net = bench.materialise(lambda: nn.Linear(3, 2))
        assert net.weight.dtype == fullsize.noise("cpu", 4).dtype == torch.bfloat16
    assert torch.get_default_dtype() == torch.float32


def test_weights_are_random_and_of_normal_size():
    net = bench.materialise(lambda: nn.Linear(200, 100))
    assert net.weight.std().item() == pytest.approx(0.02, rel=0.05) and not net.weight.requires_grad
    assert torch.equal(net.weight, bench.materialise(lambda: nn.Linear(200, 100)).weight)
    with pytest.raises(ValueError, match="buffers"):
        bench.materialise(lambda: nn.BatchNorm1d(3))


def test_what_fails_is_named():
    def missing():
        raise ImportError("needs something")

    with pytest.raises(ValueError, match="broken: failed at: building the network: ImportError: needs something"):
        bench.measure([system("broken", missing)])
    with pytest.raises(ValueError, match=r"one; two: failed at: layer, size 0: RuntimeError"):
        build = lambda: nn.Linear(6, 7)  # noqa: E731
        bench.measure([system("one", build), system("two", build)])

    class Wrong(nn.Linear):
        def forward(self, x):
            return super().forward(x) * math.nan

    with pytest.raises(ValueError, match="FloatingPointError: what comes out is not finite"):
        bench.measure([system(build=lambda: Wrong(5, 7))])


def test_choosing():
    every = fullsize.systems()
    assert bench.choose(every, []) == every
    assert [s.name for s in bench.choose(every, ["audiolcm, 2", "Tango"])] == ["AudioLCM, 2 steps", "Tango, 200 steps"]
    with pytest.raises(ValueError, match="no system is called 'Bark'; there are AudioDEAR, 64 iterations; "):
        bench.choose(every, ["Bark"])


def test_the_command_prints_a_table_and_writes_a_record(tmp_path, monkeypatch):
    monkeypatch.setattr(fullsize, "systems", lambda: [system(sizes=(0, 3), paper_seconds=2.5), system("other")])
    path = tmp_path / "record.json"
    found = CliRunner().invoke(app, ["bench", "--what", "rivals", "--only", "one", "--repeats", "2", "--batch", "3",
                                     "--device", "cpu", "--record", str(path)])
    assert found.exit_code == 0 and "2 layer" in found.output and "other" not in found.output
    record = json.loads(path.read_text())
    assert (record["batch"], record["ran_on"], record["threads"]) == (3, "cpu", torch.get_num_threads())
    (row,) = record["rows"]
    assert {"system", "parameters", "forwards", "how", "seconds_per_clip", "gflop_per_clip", "paper_seconds", "note",
            "passes"} == set(row)


def test_a_network_that_fails_costs_no_other(tmp_path, monkeypatch):
    def missing():
        raise ImportError("needs something")

    monkeypatch.setattr(fullsize, "systems", lambda: [system("broken", missing), system("sound")])
    path = tmp_path / "record.json"
    arguments = ["bench", "--what", "rivals", "--device", "cpu", "--repeats", "1", "--record", str(path)]
    found, record = CliRunner().invoke(app, arguments), json.loads(path.read_text())
    assert found.exit_code == 0 and [row["system"] for row in record["rows"]] == ["sound"]
    assert "needs something" in record["missing"][0] and "needs something" in found.output


@pytest.mark.parametrize(("arguments", "told"), [
    (("--batch", "0"), "at least 1"), (("--only", "Bark"), "no system"), (("--device", "abacus"), "cannot be used"),
    (("--what", "cats"), "all, decode or rivals"), (("--size", "huge"), "classroom, paper"),
    (("--seconds", "-1"), "not begun within"),
])  # fmt: skip
def test_the_command_says_what_is_wrong(monkeypatch, arguments, told):
    monkeypatch.setattr(fullsize, "systems", lambda: [system()])
    found = CliRunner().invoke(app, ["bench", "--what", "rivals", *arguments])
    assert found.exit_code == 1 and told in found.output and "Traceback" not in found.output
