"""The paper's system from prepared shards: what each stage starts from, what reaches its loss, and what is saved."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from dear import components, paper
from dear.__main__ import app
from dear.backbone import BackboneConfig, MaskedTransformer
from dear.data.manifest import Manifest
from dear.data.sharded import ShardedLatents
from dear.generator import Generator
from dear.head import AdaLNHead, HeadConfig
from dear.objectives import Diffusion, Energy
from dear.paper import PAPER, RECIPES, SMALL, STAGES, share, train_stage
from dear.pipeline import TextToAudio
from dear.shop import open_shop
from dear.training import TrainConfig
from dear.vocoder import griffin_lim
from tests.small_shards import CLIPS, TINY, make_shards, small_encoders
from tests.test_pretrained_parts import audioldm, texts  # noqa: F401 - fixtures

SHORT = replace(TINY.teacher, steps=2)
QUICK = replace(TINY, pretrain=SHORT, teacher=SHORT, student=SHORT)


def run(*arguments):
    """Run the command line; its exit code and its output on one line."""
    found = CliRunner().invoke(app, [str(a) for a in arguments])
    return found.exit_code, found.output.replace("\n", " ")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Shards of small encoders: 4 tokens of 6, up to 6 text vectors of 8, no pooled one."""
    home = tmp_path_factory.mktemp("shards")
    return make_shards(home, small_encoders(home))


@pytest.fixture(scope="module")
def large(tmp_path_factory, audioldm, texts):  # noqa: F811
    """Shards of Flan-T5, CLAP and an AutoencoderKL, all tiny and random: 8 tokens of 128, 77 + 1 text vectors."""
    home = tmp_path_factory.mktemp("large")
    return make_shards(home, {"vae": str(audioldm), "text": [f"t5:{texts / 't5'}", f"clap:{texts / 'clap'}"]})


@pytest.fixture
def shop(shards, tmp_path):
    return open_shop(shards, tmp_path / "runs", tmp_path / "out", progress=False)


@pytest.fixture
def given(monkeypatch):
    """What every call of training_loss got: module, objective, tensors and options."""
    calls, whole = [], paper.training_loss

    def noting(module, objective, *tensors, **options):
        calls.append({"module": module, "objective": objective, "tensors": tensors, **options})
        return whole(module, objective, *tensors, **options)

    monkeypatch.setattr(paper, "training_loss", noting)
    return calls


def state(module) -> dict:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stored(folder) -> tuple[dict, dict]:
    """Weights of backbone and head of a finished model."""
    return (state(components.load(MaskedTransformer, BackboneConfig, folder / "backbone")),
            state(components.load(AdaLNHead, HeadConfig, folder / "head")))


def test_all_stages_with_pretrained_parts_from_the_command_line(large, tmp_path, monkeypatch, audioldm, texts):  # noqa: F811
    monkeypatch.setitem(RECIPES, "small", QUICK)
    where = ("--data", large, "--out", tmp_path / "out", "--runs", tmp_path / "runs", "--vocoder", audioldm)
    code, said = run("train", "all", *where)
    assert code == 0, said
    assert all(f"{stage}: finished" in said for stage in STAGES) and "averaged weights of" in said
    for stage in STAGES:
        told = json.loads((tmp_path / "out" / stage / "model.json").read_text())["parts"]
        assert told["backbone"] == "backbone" and told["head"] == "head"
        assert (told["vae"]["class"], told["vae"]["name"]) == ("PretrainedVAE", str(audioldm))
        assert (told["text"]["t5"]["name"], told["text"]["clap"]["name"]) == (str(texts / "t5"), str(texts / "clap"))
        assert (told["vocoder"]["class"], told["vocoder"]["name"]) == ("HifiGan", str(audioldm))
        files = {p.name for p in (tmp_path / "out" / stage).rglob("*") if p.is_file()}
        assert files == {"model.json", "config.json", "model.safetensors"}
    pipe = TextToAudio.from_pretrained(tmp_path / "out" / "student")
    assert pipe.backbone.config == replace(TINY.backbone, tokens=8, token_dim=128, text_dim=16, text_length=78,
                                           pooled_dim=512)
    made = pipe(["a low bell", "rain"], generator=torch.Generator().manual_seed(0))
    assert made.audios.shape == (2, 32 * 160) and made.audios.isfinite().all() and made.audios.std() > 0


def test_small_parts_are_saved_as_copies(shop, shards, tmp_path):
    folder = train_stage(shop, QUICK, "teacher")
    told = json.loads((folder / "model.json").read_text())
    assert told["parts"] == {name: name for name in ("text", "vae", "backbone", "head")}
    pipe = TextToAudio.from_pretrained(folder)
    for name in ("vae", "text"):
        assert same(state(getattr(pipe, name)), state(shop.parts[name]))
    assert pipe.vocoder is griffin_lim and pipe.settings.num_inference_steps == 4  # there are no more tokens
    assert isinstance(pipe.objective, Diffusion) and pipe.objective.prediction == "v"


def test_the_first_stage_sees_no_text_and_the_second_starts_from_its_average(shop, given, capsys):
    speaking = replace(shop, progress=True)
    pretrained = train_stage(speaking, QUICK, "pretrain")
    backbone, head = stored(pretrained)
    first = given[0]
    assert first["text_drop"] == 1.0 and first["teacher"] is None and isinstance(first["objective"], Diffusion)
    assert first["module"].mean is not None and first["mask_law"] == TINY.mask_law
    # A step without decay, or with it, must leave the ways in of a text as they were drawn.
    with paper.seeded(0):
        fresh = Generator(None, QUICK.fitted(shop.sizes).backbone, QUICK.fitted(shop.sizes).head, True)
    untouched = {name for name, value in fresh.backbone.state_dict().items() if torch.equal(value, backbone[name])}
    assert {"text_in.weight", "text_in.bias", "text_positions"} <= untouched
    assert "null_text" not in untouched and "token_in.weight" not in untouched
    given.clear()
    starts, whole = [], paper.Shop.train

    def train(shop, module, *told, **options):
        starts.append((state(module.backbone), state(module.head)))
        assert all(p.requires_grad for p in module.parameters())
        return whole(shop, module, *told, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper.Shop, "train", train)
        train_stage(speaking, QUICK, "teacher")
    assert same(starts[0][0], backbone) and same(starts[0][1], head)
    assert given[0]["text_drop"] == 0.1 and f"averaged weights of {pretrained}" in capsys.readouterr().out


def test_a_teacher_without_a_first_stage_says_so(shop, capsys):
    train_stage(replace(shop, progress=True), QUICK, "teacher")
    assert "starts from random weights, as there is no" in capsys.readouterr().out
    train_stage(shop, QUICK, "pretrain")  # which is there now, so that the same command would mean something else
    with pytest.raises(ValueError, match="start None ->"):
        train_stage(shop, QUICK, "teacher")


def test_the_unconditional_model_draws_the_same_for_any_prompt(shop):
    pipe = TextToAudio.from_pretrained(train_stage(shop, QUICK, "pretrain"))
    drawn = [pipe.tokens(prompt, torch.Generator().manual_seed(0)) for prompt in (["a low bell"], ["rain"])]
    assert torch.equal(*drawn) and drawn[0].std() > 0


@pytest.mark.parametrize(("options", "copied"), [({}, True), ({"from_scratch": True}, False), ({"freeze": True}, True)])
def test_a_student_learns_from_its_teacher(shop, given, options, copied):
    teacher, _ = stored(train_stage(shop, QUICK, "teacher"))
    given.clear()
    starts, whole = [], paper.Shop.train

    def train(shop, module, *told, **more):
        starts.append(state(module.backbone))
        return whole(shop, module, *told, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper.Shop, "train", train)
        folder = train_stage(shop, QUICK, "student", distillation_weight=7.0, layers="all", **options)
    assert same(starts[0], teacher) == copied
    assert torch.equal(starts[0]["decoder_norm.weight"], teacher["decoder_norm.weight"])
    call, frozen = given[0], "freeze" in options
    assert isinstance(call["objective"], Energy) and call["objective"].weights is None
    assert call["module"].head.config.times == 0 and call.get("text_drop", 0.1) == 0.1
    if frozen:
        assert call["teacher"] is None and not any(p.requires_grad for p in call["module"].backbone.parameters())
    else:
        assert same(state(call["teacher"].backbone), teacher) and call["distillation_weight"] == 7.0
        assert call["layers"] == "all" and not any(p.requires_grad for p in call["teacher"].parameters())
    assert json.loads((folder / "model.json").read_text())["parts"]["backbone"] == (
        "../teacher/backbone" if frozen else "backbone")
    assert same(stored(folder)[0] if not frozen else stored(shop.out / "teacher")[0], teacher) == frozen
    pipe = TextToAudio.from_pretrained(folder)
    assert pipe.objective.noise_dim == pipe.head.config.noise_dim == 8 and pipe.settings.guidance == "hidden"
    with pytest.raises(ValueError, match="distillation_weight 7.0 -> 1000.0"):
        train_stage(shop, QUICK, "student", **options)


def test_a_student_of_another_teacher_is_another_training(shop):
    train_stage(shop, QUICK, "teacher")
    train_stage(shop, QUICK, "student")
    train_stage(replace(shop, runs=shop.runs / "other"), QUICK, "teacher", seed=1)
    with pytest.raises(ValueError, match="other settings .start "):
        train_stage(shop, QUICK, "student")


def test_a_run_is_about_its_data_and_its_recipe(shop, shards, tmp_path):
    train_stage(shop, QUICK, "pretrain")
    for name, change in (("mask_law", {"mask_law": (0.5, 1.0, 0.25)}), ("mixed", {"mixed": 3}),
                         ("objective", {"diffusion": QUICK.diffusion | {"repeats": 2}})):
        with pytest.raises(ValueError, match=rf"other settings \({name} "):
            train_stage(shop, replace(QUICK, **change), "pretrain")
    other = Manifest.read(shutil.copytree(shards, tmp_path / "other"))
    other.shards["shard-000000.tar"]["sha256"] = 64 * "0"
    other.write()
    with pytest.raises(ValueError, match=r"other settings \(data "):
        train_stage(open_shop(other.folder, shop.runs, shop.out, progress=False), QUICK, "pretrain")


@pytest.mark.parametrize("seed", [0, 1])
def test_every_clip_reaches_the_loss_with_its_text(shop, given, shards, seed):
    train_stage(shop, QUICK, "teacher", seed=seed)
    second = torch.tensor([1, 3])  # part of two
    expected = ShardedLatents(shards, 1, seed=seed, mixed=TINY.mixed).reader()(second)
    tokens, vectors, mask = given[1]["tensors"][:3]
    assert torch.equal(tokens, expected["tokens"]) and torch.equal(vectors, expected["vectors"])
    assert torch.equal(mask, expected["mask"]) and given[1]["pooled"] is None


def test_the_classroom_recipe_learns(shop):
    """Its loss falls on these few clips, its warm-up being as short as the test."""
    recipe = replace(SMALL, teacher=replace(SMALL.teacher, steps=16, warmup=3, log_every=1))
    train_stage(shop, recipe, "teacher")
    rows = [json.loads(line) for line in (shop.runs / "teacher" / "metrics.jsonl").read_text().splitlines()]
    first, last = (sum(row["loss"] for row in some) for some in (rows[:4], rows[-4:]))
    assert len(rows) == 16 and last < 0.9 * first, (first, last)


def test_the_papers_system_has_its_published_size():
    with torch.device("meta"):
        teacher = Generator(None, PAPER.backbone, PAPER.head)
        student = Generator(None, PAPER.backbone, replace(PAPER.head, times=0))
    counts = [round(sum(p.numel() for p in net.parameters()) / 1e6, 1) for net in (teacher, student)]
    assert counts == [192.1, 190.7]  # published: 193 and 191 M
    assert (PAPER.backbone.tokens, PAPER.backbone.token_dim, PAPER.backbone.text_length) == (256, 128, 78)
    assert PAPER.fitted({"tokens": 256, "token_dim": 128, "text_dim": 1024, "text_length": 78, "pooled_dim": 512}
                        ) == PAPER
    for stage in STAGES:
        config = getattr(PAPER, stage)
        assert (config.batch_size, config.learning_rate, config.betas) == (2048, 1e-3, (0.9, 0.95))
        assert (config.weight_decay, config.clip, config.ema, config.muon) == (0.02, 3.0, 0.9999, 0)
        assert config.precision == "bfloat16" and share(config, PAPER.at_once, 8).accumulate == 8
    objective, drawn = Diffusion(**PAPER.diffusion), PAPER.drawn
    assert (objective.prediction, objective.schedule, objective.train_steps, objective.repeats) == (
        "epsilon", "cosine", 1000, 4)
    assert (Energy(**PAPER.energy).samples, Energy(**PAPER.energy).exponent) == (2, 1.0)
    assert PAPER.mask_law == (0.7, 1.0, 0.25) and not PAPER.mean
    told = [(s.guidance, s.guidance_scale, s.guidance_schedule, s.num_inference_steps, s.sampling_steps)
            for s in (drawn["teacher"], drawn["student"])]
    assert told == [("prediction", 5.0, "linear", 64, 100), ("hidden", 4.0, "constant", 64, 1)]


def test_a_batch_is_shared_evenly_or_not_at_all():
    config = TrainConfig(batch_size=24)
    for at_once, ranks in ((24, 1), (4, 3), (2, 4), (1, 24)):
        split = share(config, at_once, ranks)
        assert split.batch_size == at_once and split.batch_size * split.accumulate * ranks == 24
    with pytest.raises(ValueError, match="24 clips, which 5 processes cannot share evenly"):
        share(config, 1, 5)
    for at_once in (5, 0, 16):
        with pytest.raises(ValueError, match=rf"parts of {at_once}; --batch-size may be 1, 2, 3, 4, 6, 12$"):
            share(config, at_once, 2)


def test_the_default_part_fits_any_number_of_processes(shop, monkeypatch):
    configs = []
    monkeypatch.setattr(paper.Shop, "train", lambda shop, model, loss, items, config, *rest, **more:
                        configs.append(config) or model)
    for ranks in (1, 2, 4, 32):
        monkeypatch.setattr(paper.processes, "count", lambda ranks=ranks: ranks)
        monkeypatch.setattr(paper.processes, "on_main", lambda write: None)
        train_stage(shop, SMALL, "teacher")
        assert configs[-1].batch_size * configs[-1].accumulate * ranks == 32
    assert [config.batch_size for config in configs] == [16, 16, 8, 1]


def test_shards_of_other_sizes_are_refused_with_both(shards, large, tmp_path):
    for folder, held in ((shards, "tokens 4, token_dim 6, text_dim 8, text_length 6, pooled_dim 0"),
                         (large, "tokens 8, text_dim 16,")):
        code, said = run("train", "teacher", "--config", "paper", "--data", folder, "--out", tmp_path)
        assert code == 1 and f"the shards hold {held}" in said and "this configuration wants tokens 256," in said
    assert not list(tmp_path.iterdir())


def test_a_stage_of_another_recipe_is_not_built_on(shop):
    train_stage(shop, QUICK, "pretrain")
    wider = replace(QUICK, backbone=replace(QUICK.backbone, width=24))
    with pytest.raises(ValueError, match="pretrain holds a model of other sizes.*width=16.*wants.*width=24"):
        train_stage(shop, wider, "teacher")


def test_encoders_are_those_that_made_the_shards(shards, tmp_path):
    manifest = Manifest.read(shards)
    vae, text = manifest.encoders["vae"], manifest.encoders["text"]
    old = tmp_path / "old"
    old.mkdir()
    for path in shards.iterdir():
        (old / path.name).write_bytes(path.read_bytes())
    replace(manifest, folder=old, encoders=None).write()  # as it was before the names were kept
    with pytest.raises(ValueError, match="does not say where its encoders are; tell it by --text and --vae"):
        open_shop(old, tmp_path, tmp_path)
    with pytest.raises(ValueError, match="tell it by --text,"):
        open_shop(old, tmp_path, tmp_path, vae=vae)
    assert open_shop(old, tmp_path, tmp_path, vae=vae, text=text).sizes["token_dim"] == 6
    with pytest.raises(ValueError, match="made with a vae of fingerprint .*, soundworld has .* by --vae"):
        open_shop(shards, tmp_path, tmp_path, vae="soundworld")
    replace(manifest, folder=old, encoders={"vae": str(tmp_path / "gone"), "text": text}).write()
    with pytest.raises(FileNotFoundError, match="--vae and --text say where the shards' encoders are by now"):
        open_shop(old, tmp_path, tmp_path)


@pytest.mark.parametrize(("arguments", "why"), [
    (("vae",), "must be one of pretrain, teacher, student or all, got 'vae'"),
    (("teacher", "--config", "huge"), "--config must be one of small, paper, got 'huge'"),
    (("all", "--held-out", "1"), "--held-out and --guided are not for shards"),
    (("student", "--guided", "2"), "--held-out and --guided are not for shards"),
    (("teacher", "--freeze"), "only for a student"),
    (("student",), "`dear train teacher` makes it"),
    (("student", "--name", "pretrain"), "none of pretrain, teacher, got 'pretrain'"),
    (("student", "--layers", "some"), "layers must be 'last' or 'all'"),
    (("all", "--layers", "some"), "layers must be 'last' or 'all'"),  # and not only when its teacher is trained
    (("all", "--name", "teacher"), "none of pretrain, teacher, got 'teacher'"),
    (("student", "--distillation", "-1"), "must be a number >= 0, got -1.0"),
    (("teacher", "--batch-size", "5"), "parts of 5; --batch-size may be 1, 2, 4, 8, 16, 32"),
    (("teacher", "--batch-size", "0"), "parts of 0"),
    (("teacher", "--steps", "0"), "--steps must be at least 1"),
])  # fmt: skip
def test_what_cannot_be_trained_from_shards_is_told(shards, tmp_path, arguments, why):
    code, said = run("train", *arguments, "--data", shards, "--out", tmp_path / "out", "--runs", tmp_path / "runs")
    assert code == 1 and why in said and not (tmp_path / "out").exists()


def test_a_folder_with_folders_of_shards_is_trained_on_whole(shards, tmp_path, monkeypatch):
    for name in ("one", "two"):
        shutil.copytree(shards, tmp_path / "all" / name)
    monkeypatch.setitem(paper.RECIPES, "small", TINY)
    code, said = run("train", "pretrain", "--data", tmp_path / "all", "--steps", 2, "--out", tmp_path / "out",
                     "--runs", tmp_path / "runs")
    assert code == 0 and f"training on {2 * CLIPS} clips of noise + noise" in said, said


def test_recordings_may_have_their_shards_among_them(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "corpus" / "shards")
    (tmp_path / "corpus" / "captions.csv").write_text("filename,caption\n")
    for folder, wanted in (("corpus", "oracle, vae,"), ("corpus/shards", "pretrain, teacher, student or all")):
        code, said = run("train", "nothing", "--data", tmp_path / folder, "--out", tmp_path / "out")
        assert code == 1 and f"must be one of {wanted}" in said


@pytest.mark.parametrize("options", [("--config", "paper"), ("--batch-size", "4"), ("--vocoder", "a/b")])
def test_options_of_shards_are_for_shards(tmp_path, options):
    code, said = run("train", "teacher", *options, "--out", tmp_path / "out")
    assert code == 1 and "only for --data with shards" in said
    code, said = run("train", "pretrain", "--out", tmp_path / "out")
    assert code == 1 and "pretrain is for --data with shards" in said
