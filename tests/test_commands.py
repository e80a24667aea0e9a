"""The command line: what it writes, what it says, and how it fails."""

import json

import pytest
import soundfile
import torch
import typer
from typer.testing import CliRunner

from dear import commands, components, recipes
from dear.__main__ import app
from dear.backbone import BackboneConfig, MaskedTransformer
from dear.data import captions
from dear.head import AdaLNHead, HeadConfig
from dear.oracle import Oracle
from dear.pipeline import Settings, TextToAudio
from dear.text import TextConfig, TextEncoder
from dear.vae import VAE, VAEConfig


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny random student in a folder."""
    torch.manual_seed(0)
    vae = VAE(VAEConfig(channels=4, noise=2, width=16, texture_width=8))
    text = TextEncoder(TextConfig(tuple(captions.vocabulary()), width=16, heads=2, layers=1))
    backbone = MaskedTransformer(
        BackboneConfig(token_dim=8, text_dim=16, width=16, heads=2, encoder_layers=1, decoder_layers=1)
    )
    head = AdaLNHead(HeadConfig(token_dim=8, cond_dim=16, width=16, depth=1))
    folder = tmp_path_factory.mktemp("model")
    TextToAudio(text.eval(), backbone.eval(), head.eval(), vae.eval(), Settings()).save_pretrained(folder)
    return folder


def run(*arguments):
    """Run the command line; its output and its exit code."""
    found = CliRunner().invoke(app, [str(a) for a in arguments])
    return found.exit_code, found.output


def every_command(group, path=()):
    """The words of all commands, those of groups included."""
    yield list(path)
    for name, inner in getattr(group, "commands", {}).items():
        yield from every_command(inner, (*path, name))


@pytest.mark.parametrize("command", every_command(typer.main.get_command(app)))
def test_help(command):
    code, said = run(*command, "--help")
    assert code == 0 and "Usage" in said


def test_generate_writes_one_clip(model, tmp_path):
    out = tmp_path / "new" / "bell.wav"
    code, said = run("generate", "a low bell", "-o", out, "--model", model, "--picture", tmp_path / "bell.png")
    assert code == 0, said
    wave, rate = soundfile.read(out)
    assert (len(wave), rate) == (40_960, 16_000)  # 2.56 s
    assert "bell.wav" in said and "RMS" in said and (tmp_path / "bell.png").stat().st_size > 1000


def test_generate_writes_several_clips_into_a_folder(model, tmp_path):
    code, said = run("generate", "a low bell", "a high bird", "--count", 2, "-o", tmp_path / "clips", "--model", model)
    assert code == 0, said
    assert sorted(p.name for p in (tmp_path / "clips").iterdir()) == ["1.wav", "2.wav", "3.wav", "4.wav"]


def test_generate_tells_of_each_clip_with_its_own_prompt_and_verdict(model, tmp_path, monkeypatch):
    class Ear:
        def read(self, log_mels):
            assert len(log_mels) == 1
            read.append(float(log_mels.mean()))
            return torch.tensor([[0, 8, 0, 1, -1, -1, -1]])  # a single loud low bell, whatever it is given

    read = []
    monkeypatch.setattr(commands, "SHIPPED", {str(model): "here"})
    load = components.load
    monkeypatch.setattr(components, "load", lambda net, *rest: Ear() if net is Oracle else load(net, *rest))
    code, said = run("generate", "a low bell", "a high bird", "a bell, loud", "--count", 2,
                     "-o", tmp_path / "clips.WAV", "--model", model)
    assert code == 0, said
    lines = said.splitlines()
    told = [line for line in lines if ".wav: " in line]
    assert [line.split("clips/")[1].split(", ")[0] for line in told] == [
        "1.wav: 'a low bell'", "2.wav: 'a low bell'", "3.wav: 'a high bird'", "4.wav: 'a high bird'",
        "5.wav: 'a bell", "6.wav: 'a bell"]
    heard = [line for line in lines if "oracle heard" in line]
    assert ["all right" in line for line in heard] == [True, True, False, False]
    assert sum("no verdict: " in line and "behind the sound" in line for line in lines) == 2
    assert len(set(read[:4])) == 4  # each clip was heard, not one of them again


def test_generate_repeats_itself_by_seed(model, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run("generate", "a low bell", "-o", tmp_path / f"{name}.wav", "--model", model, "--seed", seed)[0] == 0
    a, b, c = ((tmp_path / f"{name}.wav").read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((" ",), "no words"),
        (("xyzzy",), "no word that this model knows"),
        (("a low bell", "--iterations", "99"), "1..32"),
        (("a low bell", "--count", "0"), "num_waveforms_per_prompt"),
        (("a low bell", "-o", "out.mp3"), ".wav or .flac"),
    ],
)
def test_generate_says_what_is_wrong(model, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    code, said = run("generate", *arguments, "--model", model)
    assert code == 1 and told in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())  # nothing half-written


def test_generate_without_a_model(tmp_path):
    code, said = run("generate", "a bell", "--model", tmp_path / "nowhere", "-o", tmp_path / "out.wav")
    assert code == 1 and "nowhere" in said


def test_data_write_and_check_agree(tmp_path):
    code, said = run("data", "write", tmp_path / "world", "--count", 3)
    assert code == 0 and (tmp_path / "world" / "captions.csv").read_text().startswith("filename,caption")
    assert run("data", "check", tmp_path / "world")[0] == 0
    (tmp_path / "world" / "audio" / "00001.wav").write_bytes(b"not a sound")
    code, said = run("data", "check", tmp_path / "world")
    assert code == 1 and "00001.wav" in said and "2 usable recordings, 1 problem" in said


def test_train_refuses_an_unknown_part(tmp_path):
    code, said = run("train", "decoder", "--out", tmp_path, "--runs", tmp_path)
    assert code == 1 and "oracle, vae, texture, text, teacher, student or all" in said


@pytest.mark.parametrize(("arguments", "said_why"), [
    (("teacher", "--steps", 0), "at least 1"),
    (("vae", "--held-out", 5), "for recordings"),
    (("all", "--distillation", 0), "only for"),
    (("teacher", "--from-scratch"), "only for"),
    (("oracle", "--data", "recordings"), "recordings do not have"),
])  # fmt: skip
def test_train_refuses_options_that_it_would_ignore(tmp_path, arguments, said_why):
    code, said = run("train", *arguments, "--out", tmp_path, "--runs", tmp_path)
    assert code == 1 and said_why in said and not list(tmp_path.iterdir())


def test_all_of_soundworld_is_every_part_and_the_shipped_students(tmp_path, monkeypatch):
    done = []

    def part(name):
        return lambda shop, config, **options: done.append((name, config.steps, config.seed, options))

    monkeypatch.setattr(recipes, "PARTS", {name: (part(name), config) for name, (_, config) in recipes.PARTS.items()})
    monkeypatch.setattr(recipes, "soundworld_clips", lambda: None)
    code, _ = run("train", "all", "--steps", 7, "--seed", 3, "--out", tmp_path, "--runs", tmp_path)
    assert code == 0 and all(entry[1:3] == (7, 3) for entry in done)
    assert [entry[0] for entry in done] == ["oracle", "vae", "texture", "text", "teacher", "student", "student"]
    for entry, (name, (_, options)) in zip(done[-2:], recipes.STUDENTS.items(), strict=True):
        assert entry[3] == commands.STUDENT | {"name": name} | options


def test_train_on_a_folder_of_recordings(tmp_path):
    assert run("data", "write", tmp_path / "world", "--count", 6)[0] == 0
    where = ("--data", tmp_path / "world", "--out", tmp_path / "models", "--runs", tmp_path / "runs", "--steps", 2)
    code, said = run("train", "all", *where)
    assert code == 0 and "oracle: skipped" in said
    for name in ("vae", "texture", "text", "teacher", "student"):
        rows = [json.loads(line) for line in (tmp_path / "runs" / name / "metrics.jsonl").read_text().splitlines()]
        assert rows[-1]["step"] == 2
    assert components.load(VAE, VAEConfig, tmp_path / "models" / "vae").config == VAEConfig()
    code, said = run("generate", "a", "-o", tmp_path / "out.wav", "--model", tmp_path / "models" / "student")
    assert code == 0, said
