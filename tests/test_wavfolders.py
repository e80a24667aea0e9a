"""Folders of wav files and their figures: what is written, what is kept, what is refused."""

import csv
import json

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from dear import wavfolders
from dear.__main__ import app
from dear.audio import log_mel
from dear.data.folder import AudioFolder
from dear.evaluation import verdict
from dear.metrics import figures
from dear.metrics.embedders import OracleEmbedder
from dear.pipeline import AudioOutput, TextToAudio
from dear.wavfolders import Recordings, World, run
from tests.test_commands import model as tiny  # noqa: F401  a fixture: a tiny random student in a folder
from tests.test_embedders import save_ast, save_clap

pytestmark = pytest.mark.filterwarnings("ignore:.*the distance is biased upwards")  # 20 clips for 64 dimensions
FAST = {"num_inference_steps": 2, "guidance_scale": 1.0}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few resamples, and noise of the log-mel's loudness instead of Griffin-Lim."""

    def waveforms(self, tokens, generator):
        log_mels = self.vae.decode(tokens, generator)
        sound = torch.randn(len(tokens), 40_960, generator=generator).clamp(-1, 1)
        return AudioOutput(log_mels.mean(dim=(1, 2)).exp()[:, None] * sound, 16_000, log_mels)

    monkeypatch.setattr(figures, "DRAWS", 20)
    monkeypatch.setattr(TextToAudio, "waveforms", waveforms)


def command(*arguments):
    found = CliRunner().invoke(app, ["evaluate", *(str(a) for a in arguments)])
    return found.exit_code, found.output


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.wav"))}


def test_fresh_clips_of_the_world_hold_what_their_captions_state():
    world, oracle = World("test", 30, 0), OracleEmbedder().model
    waves = [torch.stack([draw(i, np.random.default_rng(i)) for i in range(30)])
             for draw in (world.reference, world.fresh)]
    for heard in (oracle.read(log_mel(w)).tolist() for w in waves):
        assert np.mean([verdict(row, c).agrees for row, c in zip(heard, world.captions, strict=True)]) > 0.9
    assert (waves[0] != waves[1]).any(dim=1).all()
    assert torch.equal(world.fresh(3, np.random.default_rng(3)), waves[1][3])


def test_folders_hold_wav_files_that_audio_folders_and_other_tools_read(tiny, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "out"
    found = run([str(tiny)], World("test", 20, 0), out, ["oracle"], copies=2, progress=False, **FAST)
    name = wavfolders._folder_name(str(tiny))
    assert {p.name for p in out.iterdir()} == {"settings.json", "reference", "floor", name, "metrics.json", "table.md"}
    for folder, more in (("reference", 0), ("floor", 20), (name, 20)):
        # audioldm_eval and fadtk take all that lies in a folder for sound, and pair by name.
        assert sorted(p.name for p in (out / folder / "audio").iterdir()) == [f"{i:05d}.wav" for i in range(20)]
        assert len(list((out / folder).glob("more/*"))) == more
        rows = list(csv.DictReader(open(out / folder / "captions.csv", newline="")))
        assert [r["caption"] for r in rows] == World("test", 20, 0).captions
        assert rows[7]["filename"] == "00007.wav"
        heard = soundfile.info(out / folder / "audio" / "00007.wav")
        assert (heard.samplerate, heard.frames, heard.channels) == (16_000, 40_960, 1)
    assert len(AudioFolder(out / "floor")) == 20
    first, second = (soundfile.read(out / "floor" / p)[0] for p in ("audio/00000.wav", "more/00000-1.wav"))
    assert (first != second).any()

    rows = found["figures"]["oracle"]
    assert list(rows) == ["floor", name]
    assert list(rows["floor"]) == ["frechet", "energy", "mmd", "kl", "inception", "diversity"]
    for row in rows.values():
        assert all(low <= value <= high for value, low, high in row.values())
    assert rows["floor"]["frechet"][0] < rows[name]["frechet"][0]
    assert rows["floor"]["kl"][0] < 0.3 < rows[name]["kl"][0]
    heard = found["figures"]["what the oracle hears of what is stated"]
    assert heard["floor"]["everything"][0] > 0.8 > heard[name]["everything"][0]
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(found))
    table = (out / "table.md").read_text()
    assert "| | frechet | energy |" in table and f"| {name} | " in table and table in capsys.readouterr().out


def test_stopped_and_called_again_gives_the_clips_of_one_call(tiny, tmp_path, monkeypatch):  # noqa: F811
    whole, parts, models = tmp_path / "whole", tmp_path / "parts", [str(tiny)]
    first = run(models, World("test", 20, 0), whole, ["oracle"], progress=False, **FAST)

    call, left = TextToAudio.__call__, iter(range(5))

    def stops(self, *arguments, **options):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return call(self, *arguments, **options)

    monkeypatch.setattr(TextToAudio, "__call__", stops)
    with pytest.raises(KeyboardInterrupt):
        run(models, World("test", 20, 0), parts, ["oracle"], progress=False, **FAST)
    name = wavfolders._folder_name(models[0])
    assert len(list((parts / name / "audio").iterdir())) == 5 and not (parts / name / "captions.csv").exists()
    monkeypatch.setattr(TextToAudio, "__call__", call)
    again = run(models, World("test", 20, 0), parts, ["oracle"], progress=False, **FAST)
    assert again["drawn"][name]["clips"] == 15 and again["drawn"]["reference"]["clips"] == 0
    assert contents(parts) == contents(whole) and again["figures"] == first["figures"]

    # A lost clip comes back as it was, and what was heard before is heard anew only where clips changed.
    lost = parts / name / "audio" / "00011.wav"
    kept = lost.read_bytes()
    lost.unlink()
    monkeypatch.setattr(OracleEmbedder, "hear", lambda *a: pytest.fail("the same clips were heard again"))
    again = run(models, World("test", 20, 0), parts, ["oracle"], progress=False, **FAST)
    assert lost.read_bytes() == kept and again["drawn"][name]["clips"] == 1


def test_other_settings_and_other_weights_are_refused(tiny, tmp_path):  # noqa: F811
    out, model = tmp_path / "out", tmp_path / "student"
    TextToAudio.from_pretrained(tiny).save_pretrained(model)
    run([str(model)], World("test", 20, 0), out, ["oracle"], progress=False, **FAST)
    before = contents(out)
    for changes, told in (({"num_inference_steps": 3}, "num_inference_steps"), ({"seed": 1}, "seed"),
                          ({"copies": 2}, "clips_per_caption")):
        with pytest.raises(ValueError, match=f"written with other {told}: choose another --out"):
            run([str(model)], World("test", 20, 0), out, ["oracle"], progress=False, **FAST | changes)
    with pytest.raises(ValueError, match="written with other captions"):
        run([str(model)], World("test", 21, 0), out, ["oracle"], progress=False, **FAST)
    with pytest.raises(ValueError, match="written with other data"):
        run([str(model)], World("validation", 20, 0), out, ["oracle"], progress=False, **FAST)
    pipe = TextToAudio.from_pretrained(model)
    with torch.no_grad():
        next(pipe.head.parameters()).add_(1)
    pipe.save_pretrained(model)
    with pytest.raises(ValueError, match="other weights of .*student"):
        run([str(model)], World("test", 20, 0), out, ["oracle"], progress=False, **FAST)
    assert contents(out) == before
    other = tmp_path / "other"
    pipe.save_pretrained(other)  # a model may be added
    found = run([str(other)], World("test", 20, 0), out, ["oracle"], progress=False, **FAST)
    assert found["drawn"]["reference"]["clips"] == 0
    assert len(json.loads((out / "settings.json").read_text())["models"]) == 2


def test_recordings_with_clap_and_ast(tiny, tmp_path):  # noqa: F811
    folder = tmp_path / "world"
    assert CliRunner().invoke(app, ["data", "write", str(folder), "--count", "44"]).exit_code == 0
    rows = list(csv.reader(open(folder / "captions.csv", newline="")))
    rows = [[*row, fold] for row, fold in zip(rows, ["fold", "1", "1", *["2"] * 42], strict=True)]
    csv.writer(open(folder / "captions.csv", "w", newline="")).writerows(rows)
    clap, ast = save_clap(tmp_path / "clap"), save_ast(tmp_path / "ast")
    clap_s = json.loads((clap / "processor_config.json").read_text())
    clap_s["feature_extractor"] |= {"max_length_s": 3, "nb_max_samples": 144_000}
    (clap / "processor_config.json").write_text(json.dumps(clap_s))
    source = Recordings(folder, 500, "2")
    assert len(source.captions) == 42
    found = run([str(tiny)], source, tmp_path / "out", [f"clap:{clap}", f"ast:{ast}"], progress=False, **FAST)
    name = wavfolders._folder_name(str(tiny))
    assert list(found["figures"]) == [f"clap:{clap}", f"ast:{ast}"]
    clap_rows, ast_rows = found["figures"].values()
    assert list(clap_rows) == ["floor: half against half, 21 clips each", name]
    assert [list(row) for row in clap_rows.values()] == [["frechet", "energy", "mmd", "clap"]] * 2
    assert -1 <= clap_rows[name]["clap"][0] <= 1
    assert list(ast_rows["floor: half against half, 21 clips each"]) == ["frechet", "energy", "mmd", "inception"]
    assert list(ast_rows[name]) == ["frechet", "energy", "mmd", "kl", "inception"]
    assert not (tmp_path / "out" / "floor").exists()


@pytest.mark.parametrize(("arguments", "told"), [
    (("--data", "recordings"), "name one with --out"),
    (("--embedder", "oracle"), "name one with --out"),
    (("--seed", 1), "name one with --out"),
    (("--out", "out", "--data", "recordings"), "name the models"),
    (("--out", "out", "--held-out", 5), "for recordings"),
    (("--out", "out", "--captions", 0), "at least 1"),
    (("--out", "out", "--captions", 19), "at least 20 captions"),
    (("--out", "out", "--clips-per-caption", 0), "1 clip a caption"),
    (("--out", "out", "--captions", 20, "--embedder", "vggish"), "clap:NAME or ast:NAME"),
    (("--out", "out", "--captions", 20, "--convention", "ours"), "audioldm_eval, textbook"),
    (("--out", "out", "--captions", 20, "nowhere"), "nowhere"),
])
def test_the_command_says_what_is_wrong_and_writes_nothing(tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    code, said = command(*arguments)
    assert code == 1 and told in said.replace("\n", " ") and "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_the_command_hands_all_of_it_on(tiny, tmp_path, monkeypatch):  # noqa: F811
    asked = []
    monkeypatch.setattr(wavfolders, "run", lambda *a, **k: asked.append((a, k)) or {"figures": {}})
    code, said = command(tiny, "--out", tmp_path / "out", "--captions", 25, "--split", "validation", "--seed", 3,
                         "--iterations", 4, "--guidance", 2, "--embedder", "oracle", "--embedder", "clap:x",
                         "--clips-per-caption", 2, "--convention", "textbook", "--record", tmp_path / "record.json")
    assert code == 0, said
    (models, source, out, embedders), options = asked[0]
    assert (models, out, embedders) == ([str(tiny)], tmp_path / "out", ["oracle", "clap:x"])
    assert source.captions == World("validation", 25, 3).captions
    assert options == {"copies": 2, "seed": 3, "convention": "textbook", "num_inference_steps": 4,
                       "guidance_scale": 2.0}
    assert json.loads((tmp_path / "record.json").read_text())["figures"] == {}


def test_folders_of_two_models_must_differ(tiny, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    TextToAudio.from_pretrained(tiny).save_pretrained("floor")
    for models in ([str(tiny), str(tiny)], ["floor"]):
        with pytest.raises(ValueError, match="must differ"):
            run(models, World("test", 20, 0), tmp_path / "out", ["oracle"], progress=False)
    assert not (tmp_path / "out").exists()
    assert wavfolders._folder_name("models/mine/student") == "models-mine-student"
    assert wavfolders._folder_name("./a b/") == "a-b" and wavfolders._folder_name("/x/y") == "x-y"
