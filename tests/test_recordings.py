"""Real recordings: what listeners hear, what is compared with what, and the whole path from a folder to a record."""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from dear import recordings
from dear.__main__ import app
from dear.audio import log_mel, read
from dear.data.folder import AudioFolder
from dear.listener import LISTENER, Listener, ListenerConfig, hear, train_listener
from dear.metrics.features import features_of
from dear.recordings import RecordedMels
from dear.training import TrainConfig

RECORD = Path(__file__).parent.parent / "records" / "esc10.json"
QUICK = TrainConfig(steps=25, batch_size=16, learning_rate=2e-3, warmup=5, ema=0.9)


def dear(*arguments) -> str:
    """What a command prints; it must succeed."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """24 clips of SoundWorld as anybody's recordings: two folds, and two classes that are easy to tell apart."""
    out = tmp_path_factory.mktemp("world") / "clips"
    dear("data", "write", out, "--count", 24)
    with open(out / "captions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(out / "captions.csv", "w", newline="") as file:
        table = csv.DictWriter(file, ["filename", "caption", "fold", "label"])
        table.writeheader()
        for i, row in enumerate(rows):
            label = "one" if row["relation"] == "single" else "two"
            caption = {"one": "a single sound", "two": "two sounds"}[label]  # words that both folds have
            table.writerow({"filename": row["filename"], "caption": caption, "fold": 1 + (i % 3 == 2), "label": label})
    return out


def test_crops_keep_their_log_mel_caption_name_and_columns(folder):
    data = RecordedMels(AudioFolder(folder))
    assert len(data) == 24 and data.mels.shape == (24, 256, 64)
    torch.testing.assert_close(data.log_mels([5])[0], log_mel(read(folder / "audio" / data.names[5])))
    with open(folder / "captions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert data.names == [row["filename"] for row in rows] and data.captions == [row["caption"] for row in rows]
    assert data.column("fold") == [row["fold"] for row in rows]
    with pytest.raises(ValueError, match=r"must have a genre for every file, 00000.wav has none; columns: fold, label"):
        data.column("genre")


def noises(count: int, seed: int = 0):
    """Log-mels of two classes, low and high, whose loudness tells nothing."""
    generator = torch.Generator().manual_seed(seed)
    labels = ["low" if i % 2 else "high" for i in range(count)]
    tilt = torch.linspace(2, -2, 64)
    sign = torch.tensor([1.0 if name == "low" else -1.0 for name in labels])
    loud = 4 * torch.rand(count, 1, 1, generator=generator) - 7
    return loud + sign[:, None, None] * tilt + 0.5 * torch.randn(count, 64, 64, generator=generator), labels


def test_a_listener_learns_classes_and_measures_in_deviations_of_its_training(tmp_path):
    mels, labels = noises(64)
    listener = train_listener(mels, labels, tmp_path, QUICK, progress=False)
    new, wanted = noises(40, seed=1)
    assert [listener.config.classes[i] for i in hear([listener], new)] == wanted
    torch.testing.assert_close(features_of(listener, mels).std(0), torch.ones(16))
    again = train_listener(mels, labels, tmp_path, QUICK, progress=False)  # finished: the same, without a step
    assert torch.equal(features_of(again, new), features_of(listener, new))
    # Dividing the features by their spread must not change what is heard.
    scaled = Listener(ListenerConfig(("high", "low")))
    scaled.load_state_dict({**listener.state_dict(), "spread": torch.ones(16)})
    torch.testing.assert_close(scaled(new), listener(new))


def test_listeners_decide_by_their_mean_probability():
    """Probabilities 0.4 / 0.6 twice and 0.9 / 0.1 once: two of three say the second, the mean says the first."""

    class Fixed(nn.Module):
        def __init__(self, *shares):
            super().__init__()
            self.logits = torch.tensor(shares).log()

        def forward(self, mels):
            return self.logits.expand(len(mels), -1)

    shares = [Fixed(0.4, 0.6), Fixed(0.4, 0.6), Fixed(0.9, 0.1)]
    assert hear(shares, torch.zeros(3, 256, 64)).tolist() == [0, 0, 0]
    assert hear(shares[:2], torch.zeros(3, 256, 64)).tolist() == [1, 1, 1]


def test_floors_never_put_crops_of_one_recording_on_both_sides():
    names = [f"{i // 4}.wav" for i in range(80)]  # 20 recordings of 4 crops; the first 10 are held out
    known, test = torch.arange(40, 80), torch.arange(40)
    found = recordings._floors([torch.arange(80.0)[:, None]], names, known, test)
    (other, held), = found["recordings of the other folds"]
    assert held[:, 0].tolist() == test.tolist() and len(set(other[:, 0].tolist())) == 40 and other.min() >= 40
    halves = found["held-out recordings, half against half"]
    assert len(halves) == 10
    for a, b in halves:
        assert sorted([*a[:, 0].tolist(), *b[:, 0].tolist()]) == test.tolist()
        assert len(a) == len(b) and not {int(i) // 4 for i in a} & {int(i) // 4 for i in b}


def test_a_split_that_cannot_be_measured_is_refused():
    def data(labels, folds):
        columns = {"label": list(labels), "fold": list(folds)}
        return SimpleNamespace(column=columns.get)

    labels, known, test = recordings._split(data("abab", "1122"), "label", "2")
    assert labels == list("abab") and known.tolist() == [0, 1] and test.tolist() == [2, 3]
    with pytest.raises(ValueError, match=r"fold 9 leaves one part empty; folds are \['1', '2'\]"):
        recordings._split(data("abab", "1122"), "label", "9")
    with pytest.raises(ValueError, match="only fold 2 has the label c; no listener can learn it"):
        recordings._split(data("abac", "1122"), "label", "2")


def test_confusion_counts_by_class_wanted_then_heard():
    found = recordings._confusion([0, 0, 1, 1, 1], [0, 1, 1, 1, 1], ("a", "b"))
    assert found == {"a": {"a": 1, "b": 1}, "b": {"b": 3}}


@pytest.mark.filterwarnings("ignore:.*samples for 16 dimensions:UserWarning")  # 8 held-out clips, to be quick
def test_from_a_folder_to_a_record(folder, tmp_path, monkeypatch):
    """Every command of the README, a few steps each, from a clean folder; then again, which must change nothing."""
    monkeypatch.chdir(tmp_path)
    assert "24 usable recordings, 0 problem(s)" in dear("data", "check", folder)
    places = ["--held-out", 2, "--out", "models/mine", "--runs", "runs/mine"]
    told = dear("train", "all", "--data", folder, "--steps", 3, *places)
    assert "held out: 8 crops whose fold is 2" in told and "training on 16 crops" in told
    for part in ("vae", "teacher", "student"):
        assert f"{part}: finished; model in models/mine/{part}, checkpoint and metrics.jsonl in runs/mine" in told
    weights = load_file("models/mine/student/backbone/model.safetensors")
    dear("train", "all", "--data", folder, "--steps", 3, *places)
    for name, value in load_file("models/mine/student/backbone/model.safetensors").items():
        assert torch.equal(value, weights[name]), name

    dear("generate", "a single sound", "two sounds", "--model", "models/mine/student", "-o", "out")
    assert all(len(read(f"out/{i}.wav")) == 40_960 for i in (1, 2))  # 2.56 s at 16 kHz

    told = dear("data", "report", folder, "--models", "models/mine", "--runs", "runs/mine", "--held-out", 2,
                "--steps", 3, "--record", "records/mine.json")
    record = json.loads(Path("records/mine.json").read_text())
    assert record["data"] == {"recordings": 24, "held out": 8, "training crops": 16, "held-out crops": 8}
    assert record["classes"] == ["one", "two"] and record["clips"]["held-out recordings"]["frechet"] == [0, 0, 0]
    for name, row in record["clips"].items():
        assert name in told
        assert row["frechet"][1] <= row["frechet"][0] <= row["frechet"][2]
    counts = record["clips"]["student"]["confusion"]
    assert sum(sum(row.values()) for row in counts.values()) == 8
    assert {part: row["steps"] for part, row in record["trainings"].items()} == dict.fromkeys(
        ("listener0", "listener1", "listener2", "student", "teacher", "text", "texture", "vae"), 3)


def test_the_record_of_esc10_is_whole_and_says_that_training_helped():
    record = json.loads(RECORD.read_text())
    rows = record["clips"]
    assert record["data"]["recordings"] == 398 and record["data"]["held out"] == 80 and len(record["classes"]) == 10
    assert record["command"].startswith("dear data report esc10 ") and not re.search(r"[ =]/", record["command"])
    for name in recordings.CONFUSIONS:
        confusion, crops = rows[name]["confusion"], record["data"]["held-out crops"]
        assert sum(sum(row.values()) for row in confusion.values()) == crops
        right = sum(row.get(wanted, 0) for wanted, row in confusion.items()) / crops
        assert right == pytest.approx(rows[name]["heard as wanted"], abs=1e-3)
    # The worst of three listeners for the student is better than the best of three for its controls.
    for control in ("student before its training", "noise as tokens"):
        assert rows["student"]["frechet"][2] < rows[control]["frechet"][1]
        assert rows["student"]["heard as wanted"] > rows[control]["heard as wanted"] + 0.1


def test_a_listener_hears_the_held_out_fold_of_esc10(esc10, tmp_path):
    """Chance is 0.1; 80 steps on one crop a recording reach about 0.6, 500 steps on four about 0.8."""
    known, test = (RecordedMels(part) for part in AudioFolder(esc10).split("fold", 5))
    config = TrainConfig(**{**vars(LISTENER), "steps": 80, "warmup": 10})
    listener = train_listener(known.mels, known.column("label"), tmp_path, config, progress=False)
    heard = [listener.config.classes[i] for i in hear([listener], test.mels)]
    assert len(heard) == 80 and sum(a == b for a, b in zip(heard, test.column("label"), strict=True)) / 80 > 0.45
