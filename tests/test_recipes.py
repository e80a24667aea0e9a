"""The trainings that are shipped: what each starts from, what it trains, and what reaches the loss."""

import pytest
import torch

from dear import components, recipes
from dear.data.draws import Draws
from dear.data.soundworld import SoundWorld
from dear.pipeline import TextToAudio, fingerprint
from dear.recipes import Workshop, train_student, train_teacher, train_text, train_vae
from dear.text import TextConfig, TextEncoder
from dear.training import TrainConfig


class Data:
    """Eight clips of noise with captions of the world."""

    captions = [SoundWorld("test", 8).caption(i) for i in range(8)]

    def __len__(self):
        return 8

    def log_mels(self, indices):
        every = torch.randn(8, 256, 64, generator=torch.Generator().manual_seed(0)) - 5
        return every[torch.as_tensor(indices)]


class Spy(Workshop):
    """Trains nothing, and keeps what would have been trained."""

    seen, ends, about = {}, {}, {}

    def train(self, module, loss, items, config, name, stop_after=None, about=None, average=None):
        self.seen[name] = (module, loss, items, config)
        self.ends.setdefault(name, []).append((stop_after, loss))
        self.about[name] = about
        return module.eval()


class Apart(Spy):
    """A second spy beside `shop`."""

    seen, ends, about = {}, {}, {}


def same(a, b) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    shop = Spy(Data(), folder / "runs", folder / "out", progress=False)
    for part in (train_vae, train_text, train_teacher):
        assert (part(shop) / "config.json").exists() or part is train_teacher
    return shop


def loss_arguments(shop, name, monkeypatch):
    """The keyword arguments that a training hands to training_loss in a step, and its objective."""
    told = {}
    monkeypatch.setattr(recipes, "training_loss", lambda *given, **named: told.update(named, objective=given[1]))
    module, loss, items, _ = shop.seen[name]
    assert items == 8
    loss(module, torch.tensor([1, 5]), torch.Generator().manual_seed(0))
    return told


def test_the_teacher_starts_from_the_pretrained_text_and_learns_all_of_it(shop, monkeypatch):
    teacher = shop.seen["teacher"][0]
    assert same(teacher.text, components.load(TextEncoder, TextConfig, shop.runs / "text" / "encoder"))
    assert same(teacher.text, shop.seen["text"][0].text)
    assert teacher.mean is not None and all(p.requires_grad for p in teacher.parameters())
    told = loss_arguments(shop, "teacher", monkeypatch)
    assert told["teacher"] is None and told["objective"].prediction == "v" and told["objective"].repeats == 1
    stored = TextToAudio.from_pretrained(shop.out / "teacher")
    assert (stored.settings.temperature, stored.settings.temperature_schedule) == (recipes.FIRST, "linear")
    assert stored.settings.objective_arguments == recipes.TARGET and stored.objective.prediction == "v"


def test_after_its_restart_a_teacher_sees_more_hidden(shop, monkeypatch):
    shop.ends.clear()
    train_teacher(shop)
    (until, first), (end, second) = shop.ends.pop("teacher")
    ((whole, third),) = shop.ends.pop(recipes.GROWN_RUN)
    assert whole is None
    assert until == recipes.TEACHER.restart > 0 and end is None
    told = []
    monkeypatch.setattr(recipes, "training_loss", lambda *given, **named: told.append(named.get("mask_law")))
    for loss in (first, second, third):
        loss(shop.seen["teacher"][0], torch.tensor([1, 5]), torch.Generator().manual_seed(0))
    assert told == [None, recipes.LATE_LAW, recipes.LATE_LAW]
    small, large = shop.seen["teacher"][0], shop.seen[recipes.GROWN_RUN][0]
    assert (small.backbone.config.decoder_layers, small.head.config.depth) == (2, 3)
    assert (large.backbone.config.decoder_layers, large.head.config.depth) == (4, 5)
    assert TextToAudio.from_pretrained(shop.out / "teacher").head.config.depth == 5
    train_teacher(shop, TrainConfig(steps=5))  # without a restart there is one law
    assert [stop for stop, _ in shop.ends["teacher"]] == [None]


def test_a_student_starts_from_the_teacher_and_keeps_its_text(shop, monkeypatch):
    train_student(shop)
    master, student = TextToAudio.from_pretrained(shop.out / "teacher"), shop.seen["student"][0]
    assert same(student.backbone, master.backbone) and same(student.text, master.text)
    assert not any(p.requires_grad for p in student.text.parameters())
    assert all(p.requires_grad for part in (student.backbone, student.head) for p in part.parameters())
    told = loss_arguments(shop, "student", monkeypatch)
    assert told["distillation_weight"] == 1000 and told["layers"] == "last" and told["masked"] is None
    stored = TextToAudio.from_pretrained(shop.out / "student")
    assert told["objective"].noise_dim == stored.objective.noise_dim == student.head.config.noise_dim == 8
    assert same(told["teacher"].backbone, master.backbone) and same(told["teacher"].head, master.head)
    assert not any(p.requires_grad for p in told["teacher"].parameters())


def test_runs_are_about_their_data_and_the_parts_they_read(shop, tmp_path):
    class Others(Data):
        def log_mels(self, indices):
            return super().log_mels(indices) + 1

    other = Apart(Others(), tmp_path / "runs", tmp_path / "out", progress=False)
    for part in (train_vae, train_text, train_teacher):
        part(shop)
    train_student(shop)
    before = shop.about
    for part in (train_vae, train_text, train_teacher):
        part(other)
    train_student(other)
    for name in ("vae", "text", "teacher", "student"):
        assert before[name]["data"] != other.about[name]["data"], name
    assert before["teacher"]["text"] == other.about["teacher"]["text"]  # captions, sizes and seed are the same
    train_text(other, TrainConfig(steps=5, seed=1))
    train_teacher(other)
    assert other.about["teacher"]["text"] != before["teacher"]["text"]


def test_the_text_encoder_takes_the_longest_caption_there_is(tmp_path):
    class Long(Data):
        captions = [*Data.captions[:7], " ".join(30 * ["bell"])]

    long = Apart(Long(), tmp_path / "runs", tmp_path / "out", progress=False)
    train_vae(long)
    train_text(long)
    assert long.seen["text"][0].text.config.length == 30
    train_teacher(long)
    assert long.seen["teacher"][0].backbone.config.text_length == 30


def test_unknown_layers_are_refused_before_anything_is_drawn(shop):
    with pytest.raises(ValueError, match="layers must be 'last' or 'all', got 'lst'"):
        train_student(shop, layers="lst", guided=2.0, name="other")


def test_a_students_run_is_about_its_settings_and_its_teacher(shop):
    train_student(shop)
    first = shop.about["student"]
    train_student(shop, distillation_weight=10.0)
    assert shop.about["student"] == first | {"distillation_weight": 10.0}
    assert first["teacher"] == fingerprint(shop.out / "teacher")


def test_a_student_is_scored_by_what_is_heard(shop):
    vae, latents = shop.latents()
    objective = recipes.student_objective(vae, latents)
    assert objective.samples == recipes.SAMPLES and objective.noise_dim == 8
    squared = objective.weights.square().double()
    assert squared.mean().item() == pytest.approx(1) and len(squared) == latents.mean.shape[2]
    effects = vae.channel_effects(latents.mean.float()).double()
    effects = effects.clamp(min=1e-4 * effects.max()).repeat_interleave(vae.config.steps_per_token)
    torch.testing.assert_close(squared / squared.max(), effects / effects.max(), rtol=1e-4, atol=0)


def test_without_distillation_only_the_weight_differs(shop, monkeypatch):
    train_student(shop)
    train_student(shop, name="alone", distillation_weight=0.0, layers="all")
    student, alone = shop.seen["student"], shop.seen["alone"]
    assert same(student[0], alone[0]) and student[3] == alone[3]  # start, steps, seed
    told = loss_arguments(shop, "alone", monkeypatch)
    assert told["distillation_weight"] == 0 and told["layers"] == "all"
    assert (shop.out / "alone" / "model.json").exists()


def test_from_scratch_only_the_last_norm_and_the_text_encoder_are_the_teachers(shop):
    master = TextToAudio.from_pretrained(shop.out / "teacher")
    torch.nn.init.uniform_(master.backbone.decoder_norm.weight)  # else it is as any new norm's
    master.save_pretrained(shop.out / "teacher")
    train_student(shop, name="scratch", from_scratch=True)
    scratch = shop.seen["scratch"][0]
    assert same(scratch.text, master.text) and same(scratch.backbone.decoder_norm, master.backbone.decoder_norm)
    for part in ("encoder", "decoder"):
        assert not same(getattr(scratch.backbone, part), getattr(master.backbone, part))


def test_with_freeze_the_head_alone_learns_and_the_backbone_is_the_teachers_on_disk(shop, monkeypatch):
    folder = train_student(shop, name="frozen", freeze=True)
    frozen = shop.seen["frozen"][0]
    assert {n.split(".")[0] for n, p in frozen.named_parameters() if p.requires_grad} == {"head"}
    assert not (folder / "backbone").exists() and loss_arguments(shop, "frozen", monkeypatch)["teacher"] is None
    student, master = (TextToAudio.from_pretrained(path) for path in (folder, shop.out / "teacher"))
    assert same(student.backbone, master.backbone)
    with pytest.raises(ValueError, match="must learn"):
        train_student(shop, name="neither", freeze=True, from_scratch=True)
    for name in ("teacher", "vae", "a/b", ".."):
        with pytest.raises(ValueError, match="student's name must be"):
            train_student(shop, name=name)


def test_a_guided_student_learns_the_teachers_draws_and_wants_less_guidance(shop, monkeypatch):
    asked = {}
    draws = Draws(torch.zeros(8, 32, 48), torch.arange(32).expand(8, 32) < 5, Data.captions)

    def made(teacher, latents, path, **named):
        asked.update(named, teacher=teacher, path=path)
        return draws

    monkeypatch.setattr(recipes, "teacher_draws", made)
    folder = train_student(shop, name="guided", guided=2.5)
    assert asked["guidance_scale"] == 2.5 and asked["temperature"] == recipes.COOL and asked["path"].parent == shop.runs
    assert same(asked["teacher"].backbone, TextToAudio.from_pretrained(shop.out / "teacher").backbone)
    told = loss_arguments(shop, "guided", monkeypatch)
    assert torch.equal(told["masked"], draws.masked[[1, 5]])
    assert TextToAudio.from_pretrained(folder).settings.guidance_scale == 1.5 < 2.0
