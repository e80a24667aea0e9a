"""dear.data.folder: a folder with every defect, and the real recordings where DEAR_ESC10 names them."""

import math
import os
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch

from dear.data.folder import AudioFolder, crop

RATE = 16_000


def sine(hertz: float, seconds: float, rate: int = RATE) -> np.ndarray:
    return 0.4 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def table(folder, *lines):
    (folder / "captions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def problem(problems, name):
    (line,) = [line for line in problems if name in line.split(":")[0]]
    return line


@pytest.fixture
def defects(tmp_path):
    """Four usable recordings of different formats, lengths and rates, and one of every defect."""
    (tmp_path / "audio").mkdir()
    quiet_then_loud = np.concatenate([0.02 * sine(300, 3), sine(600, 1), 0.02 * sine(300, 3)])
    soundfile.write(tmp_path / "long.wav", quiet_then_loud, RATE)
    soundfile.write(tmp_path / "audio" / "stereo.flac", np.stack([sine(500, 2.56, 44_100)] * 2, 1), 44_100)
    soundfile.write(tmp_path / "short.ogg", sine(700, 0.5, 22_050), 22_050)
    soundfile.write(tmp_path / "low.mp3", sine(200, 3, 8000), 8000)
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "click.wav", sine(440, 0.09), RATE)
    soundfile.write(tmp_path / "uncaptioned.wav", sine(441, 1), RATE)
    soundfile.write(tmp_path / "comma.wav", sine(442, 1), RATE)
    soundfile.write(tmp_path / "stranger.wav", sine(443, 1), RATE)
    soundfile.write(tmp_path / "audio" / "stranger2.flac", sine(444, 1), RATE)
    (tmp_path / "corrupt.flac").write_bytes(b"fLaC" + bytes(200))
    (tmp_path / "zero.wav").touch()
    (tmp_path / "copy.wav").write_bytes((tmp_path / "long.wav").read_bytes())
    table(
        tmp_path,
        "filename,caption,fold,label",
        "long.wav,A tone in the middle,1,tone",
        'stereo.flac,"Two channels, one tone",1,tone',
        "short.ogg,A short tone,2,tone",
        "low.mp3,A low tone,2,tone",
        "missing.wav,Nothing,1,tone",
        "corrupt.flac,Noise,1,tone",
        "zero.wav,Noise,1,tone",
        "silent.wav,Silence,1,tone",
        "click.wav,A click,1,tone",
        "long.wav,Named again,1,tone",
        "copy.wav,The same bytes,1,tone",
        "uncaptioned.wav, ,1,tone",
        ",A caption without a file,1,tone",
        "",
        "comma.wav,A dog, barking,1,tone",
    )
    return tmp_path


def test_usable_recordings_are_cropped_and_padded(defects):
    folder = AudioFolder(defects)
    assert [clip.name for clip in folder] == ["long.wav", "stereo.flac", "short.ogg", "low.mp3"]
    assert len(folder) == 4
    for clip in folder:
        assert clip.waveform.shape == (40_960,) and clip.waveform.dtype == torch.float32
    long, stereo, short, low = folder
    assert stereo.caption == "Two channels, one tone" and stereo.meta == {"fold": "1", "label": "tone"}
    # The loud second lies at 3 to 4 s; a crop of 2.56 s with all of it, centred, has it at 0.78 to 1.78 s.
    loud = (long.waveform.view(-1, 160).abs().amax(1) > 0.2).nonzero().flatten() / 100
    assert loud[0] == pytest.approx(0.78, abs=0.02) and loud[-1] == pytest.approx(1.77, abs=0.02)
    assert short.waveform[:7000].abs().max() > 0.3 and (short.waveform[8100:] == 0).all()
    for clip, hertz in ((stereo, 500), (low, 200)):
        peak = torch.fft.rfft(clip.waveform).abs().argmax() / 2.56
        assert peak == pytest.approx(hertz, abs=0.5)


def test_every_problem_gets_its_line(defects):
    problems = AudioFolder(defects).problems
    expected = {
        "line 6, missing.wav": "no such file in the folder or its subfolder audio; skipped",
        "line 7, corrupt.flac": "cannot be decoded (",
        "line 8, zero.wav": "is empty (0 bytes); skipped",
        "line 9, silent.wav": "silent (peak 0.0e+00, below 1e-03); skipped",
        "line 10, click.wav": "lasts 0.090 s, less than 0.1 s; skipped",
        "line 11, long.wav": "the same file was named on line 2; skipped",
        "line 12, copy.wav": "same content as long.wav; skipped",
        "line 13, uncaptioned.wav": "no caption; skipped",
        "line 14, no filename": "the row names no file; skipped",
        "line 16, comma.wav": "more cells than columns",  # the blank line 15 is no row, and counted
        "stranger.wav": "has no row in captions.csv; not used",
        "audio/stranger2.flac": "has no row in captions.csv; not used",
    }
    for name, reason in expected.items():
        assert reason in problem(problems, name)
    assert len(problems) == len(expected), problems
    assert not any(str(defects) in line for line in problems)


def test_strict_stops_with_all_problems(defects):
    with pytest.raises(ValueError) as error:
        AudioFolder(defects, strict=True)
    assert all(line in str(error.value) for line in AudioFolder(defects).problems)


def test_a_clean_folder_is_fine_in_strict_mode(tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(440, 1), RATE)
    (tmp_path / "captions.csv").write_bytes("filename, caption\r\na.wav,Überall ein Ton\r\n".encode("utf-8-sig"))
    folder = AudioFolder(tmp_path, duration_s=1.0, strict=True)
    assert folder.problems == [] and folder[0].caption == "Überall ein Ton" and folder[0].meta == {}
    assert folder[0].waveform.shape == (16_000,)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "captions.csv: not found"),
        ("file,text\na.wav,A tone\n", r"wanted columns filename and caption, got \['file', 'text'\]"),
        ("", r"wanted columns filename and caption, got \[\]"),
        ("filename,caption\n", "has no rows"),
        ("filename,caption\na.wav,1234\n", r"no usable recording:\n.*line 2, a.wav: caption without a word"),
        ('filename,caption\na.wav,"A tone\n' + 50_000 * "b.wav,x\n", "line [0-9]+: .*is a quote not closed"),
        ("filename,caption\na.wav,T\xf6ne\n", "not utf-8"),
        ("filename,caption\na.wav,A tone\n", r"no usable recording:\n.*line 2, a.wav: no such file"),
    ],
)
def test_bad_tables(tmp_path, content, message):
    if content is not None:
        (tmp_path / "captions.csv").write_text(content, encoding="latin-1")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        AudioFolder(tmp_path)
    if not any(word in message for word in ("utf-8", "usable", "quote")):
        assert "filename,caption\n" in str(error.value)  # the example of the layout


def test_bad_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone: not found"):
        AudioFolder(tmp_path / "gone")
    for arguments in ({"duration_s": 0.0}, {"duration_s": math.nan}, {"crops_per_clip": 0}):
        with pytest.raises(ValueError, match="wanted duration_s >= 0.1 and crops_per_clip >= 1"):
            AudioFolder(tmp_path, **arguments)


def test_crops_follow_the_sound_and_the_seed(tmp_path):
    # Noise of 4 s between two silences of 4 s, in a folder, and the same with another recording before it.
    noise = np.random.default_rng(0).standard_normal(4 * RATE) * 0.1
    soundfile.write(tmp_path / "a.wav", np.concatenate([np.zeros(4 * RATE), noise, np.zeros(4 * RATE)]), RATE)
    table(tmp_path, "filename,caption", "a.wav,Hiss")
    first, again, other = (AudioFolder(tmp_path, 1.0, seed=seed, crops_per_clip=8) for seed in (0, 0, 1))
    assert len(first) == 8
    same = lambda a, b: all(torch.equal(x.waveform, y.waveform) for x, y in zip(a, b, strict=True))  # noqa: E731
    assert same(first, again) and not same(first, other)
    assert torch.equal(first[0].waveform, AudioFolder(tmp_path, 1.0, seed=9)[0].waveform)
    for i, clip in enumerate(first):  # every crop has at least a tenth of the noise's power, no two are the same
        assert clip.waveform.square().mean() > 0.1 * 0.01 * 0.9
        assert not any(torch.equal(clip.waveform, first[j].waveform) for j in range(i))
    soundfile.write(tmp_path / "b.wav", sine(440, 3), RATE)
    table(tmp_path, "filename,caption", "b.wav,Tone", "a.wav,Hiss")
    assert same(first, [clip for clip in AudioFolder(tmp_path, 1.0, crops_per_clip=8) if clip.name == "a.wav"])


def test_crop_of_exactly_the_length_and_of_a_last_odd_sample():
    rng = np.random.default_rng(0)
    x = torch.ones(1600)
    (piece,) = crop(x, 1600, 5, rng)
    assert torch.equal(piece, x)
    x = torch.zeros(4001)
    x[-1] = 1.0  # off the 10 ms grid: only the very last window has it
    assert crop(x, 1600, 1, rng)[0][-1] == 1.0


def test_crops_start_a_tenth_of_a_second_apart():
    # 1.1 s of a constant in windows of 1 s: the first starts at 0.05 s, and no other start is 0.1 s away from that.
    rng = np.random.default_rng(0)
    assert len(crop(torch.ones(17_600), 16_000, 8, rng)) == 1
    assert len(crop(torch.ones(19_200), 16_000, 8, rng)) in (2, 3)  # starts 0 to 0.2 s, the first at 0.1 s


def test_split(defects):
    train, test = AudioFolder(defects, duration_s=0.5, crops_per_clip=2).split("fold", 2)
    # long.wav and stereo.flac give two crops each to train with; held-out recordings count once.
    assert [clip.name for clip in train] == ["long.wav", "long.wav", "stereo.flac", "stereo.flac"]
    assert [clip.name for clip in test] == ["short.ogg", "low.mp3"]
    with pytest.raises(ValueError, match=r"no column 'take' to split by; there are \['fold', 'label'\]"):
        train.split("take", "A")
    with pytest.raises(ValueError, match=r"fold = '7' leaves one part empty; values are \['1'\]"):
        train.split("fold", 7)


@pytest.mark.skipif("DEAR_ESC10" not in os.environ, reason="DEAR_ESC10 names no folder of ESC-10 recordings")
def test_esc10():
    folder = AudioFolder(os.environ["DEAR_ESC10"], strict=True)  # strict: not one problem
    assert len(folder) == 398  # 400 without the two whose licence does not allow copies
    counts = Counter(clip.meta["label"] for clip in folder)
    assert len(counts) == 10 and counts.pop("rooster") == 38 and set(counts.values()) == {40}
    captions = {label: {c.caption for c in folder if c.meta["label"] == label} for label in counts}
    assert all(len(wordings) == 3 for wordings in captions.values())
    train, test = folder.split("fold", "5")
    assert (len(train), len(test)) == (318, 80)
    assert min(clip.waveform.abs().max() for clip in folder) > 0.01
