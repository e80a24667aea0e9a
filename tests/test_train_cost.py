"""What a training step and the preparation cost: what is counted, what a row says, what is kept when things fail."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from dear import bench, budget, cost, fullsize, prepare_cost, speed, stages, train_cost
from dear.__main__ import app
from dear.backbone import BackboneConfig
from dear.data.corpus import Clip
from dear.data.encoding import latent, text_vectors
from dear.head import HeadConfig
from dear.train_cost import Case
from dear.training import step

TINY = cost.Size(
    BackboneConfig(tokens=64, token_dim=6, text_dim=10, text_length=9, width=32, heads=2, encoder_layers=1,
                   decoder_layers=2, pooled_dim=5, window=0),
    HeadConfig(6, None, 32, 24, 2), HeadConfig(6, None, 32, 24, 2, 1), 9, 2.0)


@pytest.fixture
def tiny(monkeypatch):
    """Networks of both sizes are tiny, and every token of a clip is unknown, so that operations can be foretold."""
    for name in cost.SIZES:
        monkeypatch.setitem(cost.SIZES, name, TINY)
        monkeypatch.setitem(train_cost.LAWS, name, (0.999, 1.0, 0.25))


def counted(model: str, batch: int = 3) -> int:
    """Operations of a step."""
    training, loss = train_cost.begin(Case("paper", model, batch), "cpu", "float32")
    with FlopCounterMode(display=False, custom_mapping=bench.UNCOUNTED) as counter:
        step(training, loss, batch)
    return counter.get_total_flops()


def test_attention_is_counted_forwards_and_backwards_on_the_cpu():
    q, k, v = torch.randn(3, 1, 2, 10, 8).unbind()
    with FlopCounterMode(display=False, custom_mapping=bench.UNCOUNTED) as counter:
        F.scaled_dot_product_attention(q.requires_grad_(), k.requires_grad_(), v.requires_grad_()).sum().backward()
    product = 2 * 2 * 10 * 10 * 8  # of scores, or of what is mixed by them; backwards the scores are made once more
    assert counter.get_total_flops() == 2 * product + 5 * product


def test_a_step_has_the_operations_of_its_networks(tiny):
    batch, tokens = 3, TINY.backbone.tokens
    backbone, rows = cost.backbone(TINY.backbone, batch, 0, TINY.words).flop, 4 * batch * tokens  # four noise levels
    # Forwards once, backwards twice: for weights and for inputs, but not for a time's 256 features and for noisy
    # tokens, which are data; attention computes its scores once more (of two layers, 73 positions, 32 wide).
    data, again = 2 * rows * (256 + 6) * 24, 2 * 2 * batch * 73**2 * 32
    assert counted("teacher") == pytest.approx(3 * (backbone + cost.head(TINY.teacher, rows).flop) - data + again,
                                               rel=2e-3)
    assert 0.7 * counted("teacher") < counted("pretraining") < 0.95 * counted("teacher")  # no texts
    # A hidden state is read once for both samples of a token; the frozen teacher's backbone runs forwards.
    head = cost.head(TINY.student, batch * tokens).flop
    assert 4 * backbone + 3 * head < counted("student") < 4 * backbone + 2 * 3 * head


@pytest.mark.parametrize("model", train_cost.MODELS)
def test_a_step_trains_the_model_and_not_its_teacher(tiny, model):
    training, loss = train_cost.begin(Case("paper", model, 2), "cpu", "bfloat16")
    before = {name: p.detach().clone() for name, p in training.parameters.items()}
    seen = []

    def watched(*arguments):
        seen.append(torch.is_autocast_enabled("cpu"))
        return loss(*arguments)

    figures = step(training, watched, 2)
    assert seen == [True] and ("distill" in figures) == (model == "student")
    moved = {name for name, p in training.parameters.items() if not torch.equal(p, before[name])}
    assert {"head.out.weight", "backbone.decoder_norm.weight"} <= moved
    assert training.parameters.keys() == dict(training.module.named_parameters()).keys()


def test_an_update_alone_has_a_gradient_for_everything(tiny):
    training, _ = train_cost.begin(Case("paper", "teacher", 2), "cpu", "float32")
    step(training, train_cost.least, 2)
    assert all(p.grad is not None and not p.grad.any() for p in training.parameters.values())


def test_a_row_says_what_was_timed(tiny, monkeypatch):
    times = iter((8.0, 2.0))
    monkeypatch.setattr(train_cost, "time_calls",
                        lambda call, *_, **__: (call(), bench.Timing(*[next(times)] * 4, 3))[1])
    row = train_cost.measure(Case("paper", "teacher", 4), "cpu", "float32", 3, 1e6)
    assert row["seconds"]["median"] == 8 and row["update"]["median"] == 2 and row["clips_per_second"] == 0.5
    assert row["share_of_rate"] == pytest.approx(row["flop"] / 8 / 1e6) and row["flop"] > 1e6
    size = TINY.teacher, TINY.backbone
    assert row["parameters"] == sum(p.numel() for p in train_cost.Generator(None, size[1], size[0]).parameters())
    assert row["peak_bytes"] is None or row["peak_bytes"] > 1e8
    json.dumps(row)


def test_the_grid_holds_the_batches_of_1_to_64_gpus_and_what_matters_first():
    cases = train_cost.grid(True, "paper")
    assert cases[0] == Case("paper", "teacher", 256) and len(cases) == 3 * 4
    assert {case.batch for case in cases} == {2048 // gpus for gpus in (8, 16, 32, 64)}
    assert {case.batch for case in train_cost.grid(True, "paper", (7,))} == {7}
    assert [case.batch for case in train_cost.grid(False, "classroom")] == [32] * 3


def test_a_step_that_fails_costs_no_other_and_every_row_is_kept(tiny, monkeypatch):
    kept, real = [], train_cost.measure

    def measure(case, **options):
        if case.model == "student":
            raise torch.OutOfMemoryError("no room")
        return real(case, **options)

    monkeypatch.setattr(train_cost, "measure", measure)
    monkeypatch.setattr(train_cost, "probe", lambda *_: cost.Machine("m", 1e-6, 1e9, 1e9))
    figures = {"ran_on": "cpu", "dtype": "float32", "missing": []}
    train_cost.survey(figures, ["classroom"], (2,), 1, 60, lambda: kept.append(len(figures["steps"])))
    assert figures["missing"] == ["classroom student 2: OutOfMemoryError: no room"] and kept == [1, 2, 2]
    assert [row["model"] for row in figures["steps"]] == ["teacher", "pretraining"]
    assert "left out: classroom student 2" in train_cost.report(figures)


def test_the_command_measures_the_classroom(tmp_path):
    path = tmp_path / "training.json"
    arguments = ["bench", "--what", "training", "--size", "classroom", "--device", "cpu", "--batch", "2", "--repeats",
                 "1", "--record", str(path)]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    record = json.loads(path.read_text())
    assert [row["model"] for row in record["steps"]] == list(train_cost.MODELS) and record["missing"] == []
    assert record["machine"]["rate"] > 0 and record["preparation"] == [] and record["command"].startswith("dear")
    assert all(0 < row["share_of_rate"] < 1.5 and row["update"]["median"] < row["seconds"]["median"]
               for row in record["steps"])
    assert "clips/s" in found.output and "decodings" not in record


def test_nothing_begins_after_its_time(tmp_path):
    found = CliRunner().invoke(app, ["bench", "--what", "training", "--size", "classroom", "--device", "cpu",
                                     "--seconds", "-1"])
    assert found.exit_code == 0 and "left out: classroom teacher 32: not begun in time" in found.output


def small_surroundings():
    """Networks of the kinds that `dear.stages.surroundings` makes, far smaller."""
    transformers, diffusers = pytest.importorskip("transformers"), pytest.importorskip("diffusers")

    def t5(batch, device):
        config = transformers.T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        return partial(stages.Reader(transformers.T5EncoderModel(config).eval(), "last_hidden_state"))

    def clap(batch, device):
        config = transformers.ClapTextConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                             intermediate_size=16, projection_dim=6)
        return partial(stages.Reader(transformers.ClapTextModelWithProjection(config).eval(), "text_embeds"))

    def vae(batch, device):
        net = diffusers.AutoencoderKL(
            in_channels=1, out_channels=1, latent_channels=8, block_out_channels=(4, 4, 4), norm_num_groups=2,
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3)
        return partial(net.eval().decode)

    return {"Flan-T5's text": t5, "CLAP's text": clap, "VAE": vae}


def test_encoders_without_weights_work_as_those_of_a_folder(monkeypatch):
    monkeypatch.setattr(prepare_cost, "surroundings", small_surroundings)
    clip = Clip("a/1", "", 0, 1, ("A dog", "A cat"))
    made = text_vectors(prepare_cost.text("cpu", 7), clip)
    assert made["vectors"].shape == (2, 7, 16) and made["pooled"].shape == (2, 6) and made["mask"].all()
    torch.testing.assert_close(made["pooled"].float().norm(dim=1), torch.ones(2), rtol=1e-3, atol=0)
    found = latent(prepare_cost.vae("cpu"), 0.1 * fullsize.noise("cpu", 163_840), 0.5)
    assert found["mean"].shape == found["std"].shape == (256, 128) and found["std"].gt(0).all()
    assert isinstance(prepare_cost.vae("cpu").model, nn.Module)


def test_the_preparation_is_timed_part_by_part_and_shards_are_weighed(monkeypatch):
    monkeypatch.setattr(prepare_cost, "surroundings", small_surroundings)
    rows = []
    with prepare_cost.tasks("cpu", 1) as tasks:
        usual = [task for task in tasks if "77" not in task[0]["stage"]]
        assert speed.run(usual, float("inf"), rows.append) == []
    assert [row["stage"] for row in rows] == [*budget.NEEDED] and all(row["seconds"]["minimum"] > 0 for row in rows)
    # Posterior, text, where it counts, pooled vector: numpy's header, then blocks of 512 bytes and one for a name.
    sizes = [2 * 256 * 128] * 2 + [2 * 1024 * 16, 16, 2 * 512]
    clip = sum(512 + -(-(size + 128) // 512) * 512 for size in sizes) + 1024  # and the json
    assert 32 * clip < 32 * rows[-1]["bytes_per_clip"] <= 32 * clip + 10_240 + 32  # tar's end, and rounding
    assert rows[-1]["clips"] == 32


def test_blank_encoders_have_the_papers_shapes():
    vae, text = prepare_cost.blank_encoders(5)
    found = latent(vae, torch.zeros(163_840)) | text_vectors(text, SimpleNamespace(captions=("a", "b")))
    assert {name: tuple(part.shape) for name, part in found.items()} == {
        "mean": (256, 128), "std": (256, 128), "vectors": (2, 5, 1024), "mask": (2, 5), "pooled": (2, 512)}
