"""Studies of heads and of whole models: what is trained, that nothing is done twice, and what is asked of the judge."""

import dataclasses
import shutil

import pytest
import torch
from typer.testing import CliRunner

from dear import components, grid, latency, study, wholes
from dear.__main__ import app
from dear.backbone import MaskedTransformer
from dear.log import Record
from dear.pipeline import TextToAudio
from dear.rivals import METHODS, Method, Try, method
from tests.test_recipes import Data

MODELS = components.WEIGHTS


class FakeJudge:
    """Scores a model by how often it was asked, lower each time; keeps what it was asked."""

    asked = []
    captions = ["a low bell", "a high bird"]

    def __init__(self, models, captions):
        assert models == MODELS and captions == 16

    def __call__(self, pipe, **settings):
        self.asked.append((pipe, settings))
        return {"kind": 0.5, "loudness": 0.25, "frechet": 100.0 - len(self.asked)}

    def floor(self):
        return {"kind": 1.0, "frechet": 2.0}


@pytest.fixture(autouse=True)
def judge(monkeypatch):
    for module in (grid, wholes):
        monkeypatch.setattr(module, "Judge", FakeJudge)
    FakeJudge.asked = []


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Latents and hidden states are made once."""
    return tmp_path_factory.mktemp("runs")


def frame(runs, tmp_path):
    return grid.Frame(MODELS, runs, tmp_path / "heads.jsonl", steps=3, captions=16, data=Data(), progress=False)


TWO = (Method("energy", method("energy").objective, method("energy").tries[:2]),
       Method("consistency", method("consistency").objective, method("consistency").tries[:1], (1, 4), distilled=True))


def test_rivals_have_their_tries_and_the_tuned_one_gets_all_seeds(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "METHODS", TWO)
    here = frame(runs, tmp_path)
    floor, noise, *lines = grid.study_rivals(here, seeds=2)
    assert (floor["method"], noise["method"]) == ("rendered clips", "noise")
    assert floor["guidance 1"]["frechet"] == 2.0 and noise["guidance 1"]["frechet"] == 99.0
    drawn = torch.randn(2, 3)
    assert FakeJudge.asked[0][0].objective.sample(None, None, drawn, 1, None) is drawn
    assert [(line["method"], line["seed"], line["steps"]) for line in lines] == [
        ("energy", 100, 1), ("energy", 100, 1), ("consistency", 100, 1),
        ("energy", 0, 3), ("consistency", 0, 3), ("energy", 1, 3), ("consistency", 1, 3)]
    # The second try was scored lower by the judge above; that is the one that is trained on.
    assert lines[3]["setting"] == lines[1]["setting"] != lines[0]["setting"]
    assert [k for k in lines[0] if k.startswith("guidance")] == ["guidance 2"]
    assert list(grid.scores(lines[3])) == [1.5, 2.0] and not grid.scores(lines[3], 4)
    assert [s["seed"] for _, s in FakeJudge.asked[1:4]] == [0, 0, 0] and FakeJudge.asked[-1][1]["seed"] == 1
    # A student that took the guidance weight in draws with one branch, and its weight is that of the score.
    asked = [(pipe, s) for pipe, s in FakeJudge.asked if "Consistency" in type(pipe.objective).__name__]
    assert all(s["guidance_scale"] == 1.0 for _, s in asked)
    told = [(pipe.objective.teacher.guidance_scale, s["sampling_steps"]) for pipe, s in asked[:5]]
    assert told == [(2.0, 1), (1.5, 1), (1.5, 4), (2.0, 1), (2.0, 4)]
    assert grid.best_scale(lines[4]) == grid.best_scale(lines[4], 4) == 2.0  # this judge likes what comes later
    assert grid.best(lines[4], 4) is lines[4]["4 calls guidance 2"]
    assert 0 < lines[4]["train_seconds"] < 60
    count = len(FakeJudge.asked)
    again = list(grid.study_rivals(frame(runs, tmp_path), seeds=2))
    assert again == [floor, noise, *lines] and len(FakeJudge.asked) == count


def test_a_head_is_drawn_from_in_the_teachers_place(runs, tmp_path):
    here = frame(runs, tmp_path)
    job = grid.Job("energy", grid.ENERGY, 0, 1)
    objective, net = here.head(job)
    pipe, on_h = here.pipe(objective, net, job, 2.5)
    assert pipe.head is net and pipe.objective is objective and on_h == 2.5
    assert pipe.backbone is here.master.backbone and not any(p.requires_grad for p in net.parameters())
    again = frame(runs, tmp_path).head(job)[1]  # from its checkpoint
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def test_every_ablation_holds_the_usual_setting_and_changes_one_thing():
    found, usual = grid.ablations(), (grid.ENERGY, {})
    base = grid.Job("energy", *usual[:1], 0, 1).key()
    for name, settings in found.items():
        assert usual in settings, name
        for setting, changes in settings:
            key = grid.Job("energy", setting, 0, 1, **changes).key()
            ours, theirs = key["setting"]["arguments"], base["setting"]["arguments"]
            differ = [k for k in ours if ours[k] != theirs.get(k)]
            differ += [k for k in ("targets", "sizes") if key[k] != base[k]]
            differ += [k for k in ("heard", "start", "target") if key["setting"][k] != base["setting"][k]]
            assert len(differ) == ((setting, changes) != usual), (name, differ)
    assert [s.arguments["samples"] for s, _ in found["samples"]] == [1, 2, 3, 4, 8]
    assert [s.arguments.get("exponent", 1.0) for s, _ in found["exponent"]] == [0.5, 1.0, 1.5, 2.0]


def test_a_head_that_diverges_is_a_result(runs, tmp_path):
    here = frame(runs, tmp_path)
    wild = dataclasses.replace(grid.ENERGY, learning_rate=1e30)
    line = here.do(grid.Job("energy", wild, 0, 3), grid.SCALES)
    assert "learning_rate" in line["failed"] and grid.best(line) is None
    assert here.do(grid.Job("energy", wild, 0, 3), grid.SCALES) == line


def test_scales_are_those_of_the_training():
    assert grid.scales_of(Try(), (1.5, 2.0)) == (1.5, 2.0)
    assert grid.scales_of(Try({"guidance": (2.0, 5.0)}), (1.5, 2.0)) == (2.0,)
    assert grid.scales_of(Try({"guidance": (5.0, 13.0)}), (1.5, 2.0)) == (5.0,)
    assert grid.scales_of(Try({"guidance_scale": 2.0}), (1.5,)) == (2.0,)


def whole(study_name, runs, record, **options):
    return list(wholes.study_wholes(study_name, MODELS, runs, record, steps=1, seeds=1, captions=16, data=Data(),
                                    progress=False, **options))


def test_whole_models_learn_with_the_setting_that_heads_were_tuned_to(runs, tmp_path, monkeypatch):
    losses, real = [], method("shortcut").objective.loss
    monkeypatch.setattr(method("shortcut").objective, "loss", lambda self, net, x, cond, generator, target=None: (
        losses.append((self.finest, net, target)), real(self, net, x, cond, generator, target))[1])
    tuned = {"shortcut": Try({"finest": 32, "share": 0.5})}
    tuned |= {"flow": Try(learning_rate=1e-4), "meanflow": method("meanflow").tries[0]}
    rates, real_fit = [], wholes.fit
    monkeypatch.setattr(wholes, "fit", lambda shop, model, objective, latents, config, *a, **k: rates.append(
        (config.learning_rate, config.muon)) or real_fit(shop, model, objective, latents, config, *a, **k))
    lines = whole("whole", runs, tmp_path / "w.jsonl", chosen=tuned)
    assert [line["method"] for line in lines] == ["flow", "shortcut", "meanflow"]
    assert losses[0][0] == 32 and losses[0][1] is not losses[0][2] is not None
    assert rates[0] == pytest.approx((1e-4, 2e-4)) and rates[1] == (1.5e-3, 3e-3)
    assert set(lines[0]) >= {"guidance 1", "guidance 2", "guidance 3", "4 calls guidance 1", "16 calls guidance 3"}
    own = tuned | {"shortcut": dataclasses.replace(tuned["shortcut"], target="itself")}
    losses.clear()
    whole("whole", runs, tmp_path / "x.jsonl", chosen=own)
    assert losses[0][1] is losses[0][2]
    count = len(FakeJudge.asked)
    assert whole("whole", runs, tmp_path / "w.jsonl", chosen=tuned) == lines and len(FakeJudge.asked) == count


def test_texts_and_masks_change_what_they_are_about(runs, tmp_path, monkeypatch):
    fitted, real = [], wholes.fit
    monkeypatch.setattr(wholes, "fit", lambda shop, model, *a, **k: fitted.append((model, k)) or real(
        shop, model, *a, **k))
    lines = whole("text", runs, tmp_path / "w.jsonl")
    assert [line["pool"] for line in lines] == ["no", "only", "also"]
    assert [m.backbone.config.pool for m, _ in fitted] == ["no", "only", "also"]
    assert all(m.text.positions.requires_grad and k["distillation_weight"] == 1000 for m, k in fitted)
    fitted.clear()
    lines = whole("masks", runs, tmp_path / "w.jsonl")
    assert [k["mask_law"] for _, k in fitted] == [(0.0, 1.0, 0.3), (0.0, 1.0, 0.18), (0.7, 1.0, 0.25)]
    assert not fitted[0][0].text.positions.requires_grad
    with pytest.raises(ValueError, match="no tries of energy.*run `dear study rivals`"):
        grid.tuned(frame(runs, tmp_path), method("energy"))
    with pytest.raises(ValueError, match="whole, text or masks"):
        wholes.settings_of("other", {})


@pytest.mark.parametrize("pool", ["only", "also"])
def test_a_pooled_text_is_its_mean(pool):
    """The mean does not know the order of words; beside the words it is one more vector."""
    torch.manual_seed(0)
    master = TextToAudio.from_pretrained(MODELS / "teacher")
    net = wholes._backbone(master, pool)
    tokens, masked = torch.zeros(1, 32, 48), torch.ones(1, 32, dtype=torch.bool)
    text, words = torch.randn(1, 5, 128), torch.tensor([[True, True, True, False, False]])
    padded = torch.cat([text[:, :3], 7 * torch.ones(1, 2, 128)], dim=1)
    with torch.no_grad():
        h = net(tokens, masked, text, words)
        torch.testing.assert_close(net(tokens, masked, padded, words), h)  # what is no word is never read
        swapped = net(tokens, masked, text[:, [1, 0, 2, 3, 4]], words)
        mean = text[:, :3].mean(dim=1, keepdim=True)
        alone = net(tokens, masked, mean, torch.ones(1, 1, dtype=torch.bool))
    assert torch.allclose(swapped, h, atol=1e-5) == (pool == "only")
    assert torch.allclose(alone, h, atol=1e-5) == (pool == "only")
    plain = MaskedTransformer(dataclasses.replace(net.config, pool="no"))
    plain.load_state_dict(net.state_dict())
    if pool == "also":  # by hand: the mean stands first
        both = torch.cat([mean, text], dim=1)
        with torch.no_grad():
            want = plain(tokens, masked, both, torch.cat([torch.ones(1, 1, dtype=torch.bool), words], dim=1))
        torch.testing.assert_close(h, want)
    with pytest.raises(ValueError, match="pool must be"):
        MaskedTransformer(dataclasses.replace(net.config, pool="max"))


def test_latency_times_all_ways_in_one_run_and_keeps_them(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "METHODS", TWO)
    monkeypatch.setattr(latency, "CALLS", (2,))
    monkeypatch.setattr(latency, "MORE_CALLS", (1,))
    monkeypatch.setattr(latency, "ITERATIONS", (1, 16))
    options = {"steps": 1, "captions": 16, "data": Data(), "progress": False}
    list(grid.study_rivals(grid.Frame(MODELS, runs, tmp_path / "heads.jsonl", **options), seeds=1))
    lines = latency.study_latency(MODELS, runs, tmp_path / "l.jsonl", **options)
    names = [(line["model"], line["num_inference_steps"], line["sampling_steps"]) for line in lines]
    assert names == [("student", 1, 1), ("student", 16, 1), ("teacher", 16, 2), ("teacher", 1, 1), ("energy", 1, 1),
                     ("energy", 16, 1), ("consistency", 1, 1), ("consistency", 16, 1), ("consistency", 16, 4)]
    assert all(line["seconds_per_clip"] > 0 for line in lines)
    assert lines[0]["seconds_per_clip"] < lines[1]["seconds_per_clip"]  # one backbone pass against sixteen
    assert lines[0]["guidance_scale"] == 1.5 and lines[2]["guidance_scale"] == 2.5
    before = (tmp_path / "l.jsonl").read_text()
    assert latency.study_latency(MODELS, runs, tmp_path / "l.jsonl", **options) == lines
    assert (tmp_path / "l.jsonl").read_text() == before


def test_the_command_tells_of_heads_and_wholes(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "soundworld_clips", Data)
    monkeypatch.setattr(grid, "METHODS", METHODS[:1])
    monkeypatch.setattr(grid, "ablations", lambda: {"targets": [(grid.ENERGY, {"targets": 2})]})
    monkeypatch.setattr(wholes, "settings_of", lambda name, chosen: [
        {"from_scratch": False, "distillation_weight": 0.0, "pool": "no", "mask_law": (0.0, 1.0, 0.3),
         "method": "energy", "setting": chosen.get("energy", Try())}])
    monkeypatch.setattr(wholes, "RIVALS", ("energy",))
    monkeypatch.setattr(grid, "LONG", dataclasses.replace(grid.LONG, steps=1))
    options = ["--runs", tmp_path / "runs", "--steps", 1, "--seeds", 1, "--captions", 16, "--models", MODELS]
    for what, told in (("rivals", "energy"), ("heads", "'targets': 2"), ("whole", "energy")):
        record = ["--record", tmp_path / ("heads.jsonl" if what == "rivals" else f"{what}.jsonl")]
        found = CliRunner().invoke(app, [str(a) for a in ("study", what, *options, *record)])
        assert found.exit_code == 0 and told in found.output and "Frechet distance" in found.output, found.output
    every = ("study", "ablations", *options, "--record", tmp_path / "a.jsonl")
    found = CliRunner().invoke(app, [str(a) for a in every])
    assert found.exit_code == 0 and found.output.count("record:") == 3
    shutil.rmtree(tmp_path / "runs")


def test_methods_are_named_once_and_first_calls_are_one():
    assert len({m.name for m in METHODS}) == len(METHODS) == 8
    assert all(m.steps[0] == 1 and len(m.tries) == 4 for m in METHODS)
    assert all(m.tries[-1].heard and not m.tries[0].heard for m in METHODS)


def test_the_record_of_a_study_that_was_stopped_goes_on(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "METHODS", TWO[:1])
    real, calls = grid.train_head, []

    def stopped(*given, **named):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(grid, "train_head", stopped)
    with pytest.raises(KeyboardInterrupt):
        list(grid.study_rivals(frame(runs, tmp_path), seeds=1))
    assert len(Record(tmp_path / "heads.jsonl").lines) == 3  # two controls and a try
    assert len(list(grid.study_rivals(frame(runs, tmp_path), seeds=1))) == 5 and len(calls) == 4


def test_everything_that_a_job_says_reaches_its_training(runs, tmp_path, monkeypatch):
    seen, real = [], grid.train_head
    monkeypatch.setattr(grid, "train_head", lambda net, objective, states, config, *a, **k: seen.append(
        (net, objective, config, k)) or real(net, objective, states, config, *a, **k))
    here, setting = frame(runs, tmp_path), Try({"samples": 3, "noise_dim": 8}, True, "itself", 10.0, learning_rate=1e-4)
    for seed in (0, 1):
        here.head(grid.Job("energy", setting, seed, 2, targets=4, sizes={"depth": 2, "main": "hidden"}))
    (net, objective, config, told), (other, *_) = seen
    assert (objective.samples, objective.noise_dim) == (3, 8) and objective.weights is here.weights
    assert (config.steps, config.seed, config.learning_rate, config.batch_size) == (2, 0, 1e-4, 512)
    assert (told["target"], told["targets"], told["both"]) == ("itself", 4, False)
    assert (net.config.depth, net.config.main, net.config.noise_dim) == (2, "hidden", 8)
    assert not torch.equal(net.noise_in.weight, other.noise_in.weight)
    assert method("flow").objective(weights=here.weights).weights is here.weights
    guided = method("consistency").tries[0]
    here.head(grid.Job("consistency", guided, 0, 1))
    assert seen[-1][3]["both"] and seen[-1][1].teacher.guidance == (0.0, 6.0)
