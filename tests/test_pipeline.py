"""TextToAudio on a tiny random model: shapes, seeds, folders, and what a user may get wrong."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from dear import components
from dear.backbone import BackboneConfig, MaskedTransformer
from dear.head import AdaLNHead, HeadConfig
from dear.pipeline import SHIPPED, Settings, TextToAudio
from dear.text import TextConfig, TextEncoder
from dear.vae import VAE, VAEConfig

PARTS = ("text", "vae", "backbone", "head")
FRAMES, TOKENS, HOP = 64, 8, 160


def tiny(objective: str = "energy", seed: int = 0) -> TextToAudio:
    """A model of 64 frames in 8 tokens of 8; the vocoder reads 64 mels, so the VAE keeps these."""
    torch.manual_seed(seed)
    text = TextEncoder(TextConfig(("a", "bell", "bird", "low", "then"), length=6, width=16, layers=1, heads=2))
    size = BackboneConfig(TOKENS, 8, 16, text_length=6, width=24, encoder_layers=1, decoder_layers=1, heads=2)
    backbone = MaskedTransformer(size)
    head = AdaLNHead(HeadConfig(token_dim=8, cond_dim=24, width=16, depth=1, times=int(objective == "diffusion")))
    vae = VAE(VAEConfig(channels=4, noise=4, width=16, texture_width=16, blocks=1))
    with torch.no_grad():  # layers that start at zero are moved, so that text, h and noise all reach the sound
        for net in (backbone, head):
            for p in net.parameters():
                p.add_(0.1 * torch.randn(p.shape))
    settings = {"energy": Settings(num_inference_steps=4),
                "diffusion": Settings("diffusion", "prediction", num_inference_steps=2, sampling_steps=3)}[objective]
    return TextToAudio(text.eval(), backbone.eval(), head.eval(), vae.eval(), settings)


@pytest.fixture(scope="module")
def pipe():
    return tiny()


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_call_is_its_two_halves(pipe):
    generator = gen(3)
    halves = pipe.waveforms(pipe.tokens(["a bell", "a bird"], generator), generator)
    whole = pipe(["a bell", "a bird"], generator=gen(3))
    assert torch.equal(halves.audios, whole.audios) and torch.equal(halves.log_mels, whole.log_mels)
    assert halves.sampling_rate == whole.sampling_rate and not halves.audios.requires_grad


@pytest.mark.parametrize("objective", ["energy", "diffusion"])
def test_a_prompt_becomes_a_waveform(objective):
    out = tiny(objective)("a low bell", generator=gen())
    assert out.audios.shape == (1, FRAMES * HOP) and out.log_mels.shape == (1, FRAMES, 64)
    assert out.audios.dtype == torch.float32 and out.sampling_rate == 16_000
    assert out.audios.isfinite().all() and out.audios.abs().max() <= 1 and out.audios.std() > 0
    assert not out.audios.requires_grad


def test_waveforms_stay_in_range_whatever_the_vocoder_says():
    loud = tiny()
    loud.vocoder = lambda mels, generator: torch.full((len(mels), 7), 3.0) * torch.tensor([1, -1, 0, 0.1, 1, 1, 1])
    with pytest.warns(UserWarning, match="scaled down by 9.5 dB"):  # 20 log10 3; scaled whole, not clipped
        audios = loud("a bell", generator=gen()).audios
    torch.testing.assert_close(audios, torch.tensor([[1, -1, 0, 0.1, 1, 1, 1]]))


def test_the_same_seed_gives_the_same_sound(pipe):
    first, again, other = (pipe("a bell", generator=gen(seed)).audios for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(pipe("a bell").log_mels, pipe("a bell").log_mels)  # without a generator every call differs
    torch.manual_seed(0)
    state = torch.get_rng_state()
    pipe("a bell", generator=gen())
    assert torch.equal(torch.get_rng_state(), state)  # the generator is all that is used


@pytest.mark.parametrize("change", [
    {"temperature": 0.0}, {"temperature": 0.2, "temperature_schedule": "linear"},
    {"guidance_schedule": "linear"}, {"guidance": "prediction"}, {"guidance_scale": 1.5}, {"num_inference_steps": 3},
])  # fmt: skip
def test_what_a_model_stores_is_how_it_draws(pipe, change):
    other = TextToAudio(pipe.text, pipe.backbone, pipe.head, pipe.vae, replace(pipe.settings, **change))
    mine = other.tokens(["a low bell"], gen())
    torch.testing.assert_close(mine, pipe.tokens(["a low bell"], gen(), **change))
    assert not torch.equal(mine, pipe.tokens(["a low bell"], gen()))


def test_a_folder_that_was_overwritten_by_halves_is_no_model(pipe, tmp_path, monkeypatch):
    pipe.save_pretrained(tmp_path)
    write = components.write_tensors

    def full(path, *given):
        if path.parent.name == "head":
            raise OSError("no space left")
        write(path, *given)

    monkeypatch.setattr(components, "write_tensors", full)
    with pytest.raises(OSError, match="no space"):
        tiny(seed=1).save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no model\.json"):
        TextToAudio.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="shared may name text, vae, backbone, head, got txt"):
        pipe.save_pretrained(tmp_path, shared={"txt": "../text"})


def test_prompts_vary_slowest(pipe):
    asked = []

    class Asking:
        def encode(self, prompts):
            asked.append(list(prompts))
            return tiny_text.encode(prompts)

    tiny_text = pipe.text
    watched = TextToAudio(Asking(), pipe.backbone, pipe.head, pipe.vae, pipe.settings)
    out = watched(("a bell", "a low bird"), generator=gen(), num_waveforms_per_prompt=2)
    assert asked == [["a bell", "a bell", "a low bird", "a low bird"]] and out.audios.shape[0] == 4
    assert not torch.equal(out.log_mels[0], out.log_mels[1])


def test_the_text_and_its_guidance_reach_the_sound(pipe):
    bell, bird = (pipe.tokens([prompt], gen()) for prompt in ("a bell", "a low bird"))
    assert (bell - bird).abs().max() > 1e-3
    with_guidance, without = (pipe("a bell", generator=gen(), guidance_scale=w).log_mels for w in (3.0, 1.0))
    assert torch.equal(with_guidance, pipe("a bell", generator=gen()).log_mels)  # 3 is the model's own
    assert not torch.equal(with_guidance, without)


def test_settings_are_the_models_own_unless_told():
    calls = []
    model = tiny("diffusion")
    backbone, head = model.backbone.forward, model.head.forward
    model.backbone.forward = lambda *a, **k: calls.append("backbone") or backbone(*a, **k)
    model.head.forward = lambda *a, **k: calls.append("head") or head(*a, **k)
    for options, iterations, steps in (({}, 2, 3), ({"num_inference_steps": 5}, 5, 3), ({"sampling_steps": 7}, 2, 7)):
        calls.clear()
        model("a bell", generator=gen(), **options)
        assert calls.count("backbone") == iterations and calls.count("head") == iterations * steps


def test_a_saved_model_comes_back_exactly(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    again = TextToAudio.from_pretrained(tmp_path / "model")
    assert again.settings == pipe.settings and again.backbone.config == pipe.backbone.config
    assert again.text.config == pipe.text.config
    prompts = ["a bell", "a low bird"]
    assert torch.equal(again(prompts, generator=gen()).audios, pipe(prompts, generator=gen()).audios)
    assert torch.equal(TextToAudio.from_pretrained(str(tmp_path / "model")).tokens(prompts, gen()),
                       pipe.tokens(prompts, gen()))
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert files == sorted([f"model/{part}/{name}" for part in PARTS for name in ("config.json", "model.safetensors")]
                           + ["model/model.json"])


def test_the_teacher_is_loaded_by_the_same_class(tmp_path):
    teacher = tiny("diffusion")
    teacher.save_pretrained(tmp_path)
    again = TextToAudio.from_pretrained(tmp_path)
    assert type(again.objective).__name__ == "Diffusion" and again.settings == teacher.settings
    assert torch.equal(again.tokens(["a bell"], gen()), teacher.tokens(["a bell"], gen()))


def test_the_objective_comes_back_with_its_arguments(tmp_path):
    teacher = tiny("diffusion")
    settings = replace(teacher.settings, objective_arguments={"prediction": "epsilon", "schedule": "linear"})
    other = TextToAudio(teacher.text, teacher.backbone, teacher.head, teacher.vae, settings)
    other.save_pretrained(tmp_path)
    again = TextToAudio.from_pretrained(tmp_path)
    assert again.objective.prediction == "epsilon"
    assert torch.equal(again.tokens(["a bell"], gen()), other.tokens(["a bell"], gen()))
    assert not torch.equal(again.tokens(["a bell"], gen()), teacher.tokens(["a bell"], gen()))


def test_half_precision_halves_the_files_and_is_close(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "full")
    pipe.save_pretrained(tmp_path / "half", torch.float16)
    sizes = [(tmp_path / name / "backbone" / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.7 * sizes[0]
    assert load_file(tmp_path / "half" / "head" / "model.safetensors").popitem()[1].dtype == torch.float16
    got = TextToAudio.from_pretrained(tmp_path / "half").tokens(["a bell"], gen())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, pipe.tokens(["a bell"], gen()), rtol=0.02, atol=0.02)


def test_shared_parts_are_relative_paths_and_not_copied(pipe, tmp_path):
    components.save(pipe.text, tmp_path / "here" / "text")
    components.save(pipe.vae, tmp_path / "here" / "vae")
    pipe.save_pretrained(tmp_path / "here" / "student", shared={"text": "../text", "vae": "../vae"})
    assert sorted(p.name for p in (tmp_path / "here" / "student").iterdir()) == ["backbone", "head", "model.json"]
    told = json.loads((tmp_path / "here" / "student" / "model.json").read_text())
    assert told["parts"] == {"text": "../text", "vae": "../vae", "backbone": "backbone", "head": "head"}
    shutil.move(tmp_path / "here", tmp_path / "elsewhere")  # the folders may move together
    again = TextToAudio.from_pretrained(tmp_path / "elsewhere" / "student")
    assert torch.equal(again.tokens(["a bell"], gen()), pipe.tokens(["a bell"], gen()))


def test_model_json_comes_last(pipe, tmp_path, monkeypatch):
    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr(components, "write_tensors", full)
    with pytest.raises(OSError, match="no space left"):
        pipe.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / "model.json").exists()


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_named(pipe, tmp_path, part):
    pipe.save_pretrained(tmp_path)
    (tmp_path / part / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=f"{part} has no model.safetensors"):
        TextToAudio.from_pretrained(tmp_path)


def spoil(**changes):
    def change(told):
        told.update(changes)
        return json.dumps(told)
    return change


@pytest.mark.parametrize(("change", "message"), [
    (lambda told: "{", "not a model of this version"),
    (lambda told: "[]", "not a model of this version"),
    (lambda told: json.dumps({k: v for k, v in told.items() if k != "parts"}), "not a model of this version: 'parts'"),
    (spoil(parts={"text": "text"}), "not a model of this version: 'vae'"),
    (spoil(colour="red"), "not a model of this version: .*colour"),
    (spoil(objective_arguments={"noise": 8}), "not a model of this version: .*noise"),
    (spoil(guidance="hiden"), "guidance must be 'hidden' or 'prediction', got 'hiden'"),
    (spoil(temperature_schedule="cosine"), "temperature_schedule must be 'constant' or 'linear'"),
    (spoil(objective="flow"), "objective must be one of energy, diffusion, got 'flow'"),
])
def test_a_broken_model_json_is_named(pipe, tmp_path, change, message):
    pipe.save_pretrained(tmp_path)
    told = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(change(told))
    with pytest.raises(ValueError, match=message):
        TextToAudio.from_pretrained(tmp_path)


def test_names_that_lead_nowhere(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no model 'soundwrld': it is neither one of soundworld, .*nor a hub"):
        TextToAudio.from_pretrained("soundwrld")
    with pytest.raises(FileNotFoundError, match="has no model.json; wanted one that save_pretrained wrote"):
        TextToAudio.from_pretrained(tmp_path)
    # The hub is not reached (HF_HUB_OFFLINE=1 in conftest.py); a name it would refuse says the same.
    for name in ("nobody/nothing-of-that-name", "../nothing"):
        with pytest.raises(FileNotFoundError, match=f"no folder {name} here, and the hub did not give a model"):
            TextToAudio.from_pretrained(name)
    monkeypatch.setattr(components, "WEIGHTS", tmp_path)
    for name in SHIPPED:
        with pytest.raises(FileNotFoundError, match=f"the shipped model '{name}' is not at .*dear train all"):
            TextToAudio.from_pretrained(name)


def test_shipped_names_are_folders_of_the_weights(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(components, "WEIGHTS", tmp_path)
    pipe.save_pretrained(tmp_path / "student")
    again = TextToAudio.from_pretrained("soundworld")
    assert torch.equal(again.tokens(["a bell"], gen()), pipe.tokens(["a bell"], gen()))


@pytest.mark.parametrize(("prompt", "options", "message"), [
    ([], {}, "prompt must be a sentence or a non-empty list of sentences, got \\[\\]"),
    (None, {}, "prompt must be a sentence or a non-empty list of sentences, got None"),
    ([3], {}, "captions must be a non-empty list of sentences"),
    ("", {}, "has no words"),
    ("zug", {}, "no word that this model knows"),
    ("a bell then a low bird then", {}, "has 7 words, this model takes 6"),
    ("a bell", {"num_waveforms_per_prompt": 0}, "num_waveforms_per_prompt must be at least 1, got 0"),
    ("a bell", {"num_inference_steps": 0}, "steps must lie in 1..8"),
    ("a bell", {"num_inference_steps": 9}, "steps must lie in 1..8"),
    ("a bell", {"guidance_scale": -1.0}, "guidance_scale must be a number >= 0"),
    ("a bell", {"sampling_steps": 2}, "an energy model draws in one pass"),
])
def test_bad_arguments(pipe, prompt, options, message):
    with pytest.raises(ValueError, match=message):
        pipe(prompt, generator=gen(), **options)


def test_an_unknown_word_warns_once_and_the_rest_is_drawn(pipe):
    with pytest.warns(UserWarning, match="'belll' \\(did you mean bell\\?\\)") as told:
        out = pipe("a low belll", generator=gen(), num_waveforms_per_prompt=2)
    assert len(told) == 1 and out.audios.shape[0] == 2


def test_to_moves_every_part():
    model = tiny()
    assert model.to("meta") is model
    assert all(p.is_meta for part in PARTS for p in getattr(model, part).parameters())


def test_the_default_path_imports_none_of_the_heavy_libraries():
    code = ("import sys, dear.text, dear.training, dear.pipeline, dear.generator\n"
            "print([m for m in ('transformers', 'accelerate', 'diffusers', 'huggingface_hub') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
