"""dear.audio against numpy written from the definition, transformers' mel filters, and what a file gives back."""

import io
import math
import os

import numpy as np
import pytest
import soundfile
import torch

from dear import audio
from dear.audio import SAMPLE_RATE, features, log_mel, mel_filters, player, read, resample, write


def sine(hertz: float, seconds: float = 1.0, peak: float = 0.5, rate: int = SAMPLE_RATE) -> torch.Tensor:
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return peak * torch.sin(2 * math.pi * hertz * time).float()


def noise(samples: int, scale: float = 0.1) -> torch.Tensor:
    return scale * torch.randn(samples, generator=torch.Generator().manual_seed(0))


def log_mel_by_hand(x: np.ndarray) -> np.ndarray:
    """Frame by frame, filter by filter, bin by bin, from FFT and the two formulas of the Slaney scale."""
    hertz = lambda m: m * 200 / 3 if m < 15 else 1000 * 6.4 ** ((m - 15) / 27)  # noqa: E731
    edges = [hertz(m) for m in np.linspace(0, 15 + 27 * math.log(8) / math.log(6.4), 66)]
    bins = np.arange(513) * 16000 / 1024
    filters = [np.interp(bins, edges[i : i + 3], [0, 2 / (edges[i + 2] - edges[i]), 0]) for i in range(64)]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    padded = np.concatenate([x[432:0:-1], x, x[-2:-434:-1]])
    frames = [padded[start : start + 1024] * hann for start in range(0, len(padded) - 1023, 160)]
    return np.log(np.maximum(np.abs(np.fft.rfft(frames)) @ np.array(filters).T, 1e-5))


def test_mel_filters_equal_transformers():
    from transformers.audio_utils import mel_filter_bank

    theirs = mel_filter_bank(513, 64, 0, 8000, 16000, norm="slaney", mel_scale="slaney").T
    np.testing.assert_allclose(mel_filters(torch.float64).numpy(), theirs, atol=1e-12)
    assert mel_filters().dtype == torch.float32 and mel_filters().shape == (64, 513)


def test_mel_filters_of_two_callers_are_independent():
    mel_filters().zero_()
    assert mel_filters().sum() > 0


@pytest.mark.parametrize("samples", [433, 4000, 16000])
def test_log_mel_equals_numpy(samples):
    x = noise(samples).double() + sine(440, samples / 16000).double()
    x[: samples // 4] = 0  # reaches the floor
    np.testing.assert_allclose(log_mel(x).numpy(), log_mel_by_hand(x.numpy()), atol=1e-9)
    # float32 adds noise of about 1e-6 to a mel; near the floor of 1e-5 this is up to 0.1 in the logarithm
    torch.testing.assert_close(log_mel(x.float()).exp(), log_mel(x).exp().float(), atol=1e-5, rtol=1e-5)


def test_ten_seconds_make_1024_frames_and_a_batch_is_its_rows():
    batch = torch.stack([noise(163_840), sine(1000, 10.24)])
    mels = log_mel(batch)
    assert mels.shape == (2, 1024, 64)
    torch.testing.assert_close(log_mel(batch[1]), mels[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_log_mel_keeps_the_dtype(dtype):
    assert log_mel(noise(1600).to(dtype)).dtype == dtype


def test_silence_is_the_floor():
    torch.testing.assert_close(log_mel(torch.zeros(1600)), torch.full((10, 64), math.log(1e-5)))


@pytest.mark.parametrize("bad", [torch.zeros(2, 2, 1600), torch.zeros(432), torch.zeros(1600).short(), [0.0]])
def test_log_mel_says_what_it_wants(bad):
    with pytest.raises(ValueError, match="log_mel wants"):
        log_mel(bad)


@pytest.mark.parametrize("suffix", ["wav", "flac", "WAV"])
@pytest.mark.parametrize("peak", [1.0, 0.5, 1e-3])
def test_loudness_survives_a_file(tmp_path, suffix, peak):
    x = sine(440, peak=peak)
    write(tmp_path / f"a.{suffix}", x)
    back = read(tmp_path / f"a.{suffix}")
    assert back.dtype == torch.float32 and back.shape == x.shape
    step = 2.0**-15
    assert (back - x).abs().max() <= (step if peak == 1.0 else step / 2 + 1e-8)
    assert soundfile.info(tmp_path / f"a.{suffix}").subtype == "PCM_16"


def test_too_loud_is_scaled_and_reported(tmp_path):
    x = sine(440, peak=2.0)
    with pytest.warns(UserWarning, match=r"peak 2\.000 .* scaled down by 6\.0 dB"):
        write(tmp_path / "a.wav", x)
    # Neither wrapped nor clipped: half of x, to a step of 16 bits.
    torch.testing.assert_close(read(tmp_path / "a.wav"), x / 2, atol=2.0**-15, rtol=0)


@pytest.mark.filterwarnings("error")
def test_full_scale_is_not_too_loud(tmp_path):
    write(tmp_path / "a.wav", torch.tensor([1.0, -1.0, 0.0]))


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    write(tmp_path / "a.wav", sine(440))
    before = (tmp_path / "a.wav").read_bytes()

    def broken(path, *args, **kwargs):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(soundfile, "write", broken)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "a.wav", sine(880))
    assert (tmp_path / "a.wav").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.wav"]


def test_the_new_file_appears_whole(tmp_path):
    # Written in place, the old bytes would change under whoever has them open; replaced, a hard link keeps them.
    write(tmp_path / "a.wav", sine(440))
    before = (tmp_path / "a.wav").read_bytes()
    os.link(tmp_path / "a.wav", tmp_path / "old.wav")
    write(tmp_path / "a.wav", sine(880))
    assert (tmp_path / "old.wav").read_bytes() == before != (tmp_path / "a.wav").read_bytes()


@pytest.mark.parametrize(
    "name, waveform, message",
    [
        ("a.mp3", sine(440), "wav or .flac"),
        ("a.wav", torch.zeros(2, 1600), r"one mono clip .* \(2, 1600\)"),
        ("a.wav", torch.zeros(0), "one mono clip"),
        ("a.wav", torch.tensor([0.0, math.nan]), "1 that are NaN"),
        ("no/a.wav", sine(440), "no such folder"),
    ],
)
def test_write_says_what_it_wants(tmp_path, name, waveform, message):
    with pytest.raises((ValueError, OSError), match=message):
        write(tmp_path / name, waveform)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix, subtype", [("wav", "FLOAT"), ("flac", "PCM_24"), ("ogg", "VORBIS"), ("mp3", None)])
def test_read_averages_channels_and_resamples(tmp_path, suffix, subtype):
    left, right = sine(500, 2.0, 0.6, 44_100), sine(500, 2.0, 0.2, 44_100)
    soundfile.write(tmp_path / f"a.{suffix}", torch.stack([left, right], 1).numpy(), 44_100, subtype=subtype)
    x = read(tmp_path / f"a.{suffix}")
    assert x.dtype == torch.float32 and abs(len(x) - 32_000) <= 1200  # mp3 may add a frame of 1152 samples
    middle = features(x[4000:28_000])
    assert middle.peak == pytest.approx(0.4, abs=0.01)  # the mean of 0.6 and 0.2; lossy formats are within 2 %
    assert middle.centroid_hz == pytest.approx(500, abs=5)


def broken_files(folder):
    soundfile.write(folder / "whole.flac", noise(16_000).numpy(), 16_000)
    (folder / "half.flac").write_bytes((folder / "whole.flac").read_bytes()[:9000])
    soundfile.write(folder / "whole.mp3", noise(16_000).numpy(), 16_000)
    (folder / "half.mp3").write_bytes((folder / "whole.mp3").read_bytes()[:2448])
    (folder / "text.wav").write_text("not audio")
    (folder / "text.mp3").write_text("not audio" * 100)
    (folder / "zero.wav").touch()
    soundfile.write(folder / "empty.wav", np.zeros(0), 16_000)
    soundfile.write(folder / "nan.wav", np.array([0.0, np.nan]), 16_000, subtype="FLOAT")


@pytest.mark.parametrize(
    "name, message",
    [
        ("gone.wav", "no such audio file"),
        ("half.flac", r"cannot be decoded \(flac decoder lost sync\)"),
        ("half.mp3", r"cut short, \d+ of 16000 samples"),
        ("text.wav", r"cannot be decoded \(Format not recognised\)"),
        ("text.mp3", r"cannot be decoded \(Format not recognised\)"),
        ("zero.wav", "0 bytes"),
        ("empty.wav", "no samples"),
        ("nan.wav", "not finite"),
    ],
)
def test_read_names_the_file_and_the_reason(tmp_path, name, message):
    broken_files(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=f"{name}: .*{message}"):
        read(tmp_path / name)


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000])
def test_resampling_keeps_a_sine(rate):
    y = resample(sine(1000, rate=rate), rate, 16_000)
    assert y.dtype == torch.float32 and len(y) == 16_000
    # The filter's pass band is flat within 1 % in the middle of the clip; its ends see the edge.
    torch.testing.assert_close(y[1000:-1000], sine(1000)[1000:-1000], atol=5e-3, rtol=0)


def test_resampling_removes_what_would_alias():
    assert features(resample(sine(10_000, rate=44_100), 44_100, 16_000)[1000:-1000]).rms_dbfs < -60
    with pytest.raises(ValueError, match="from_rate"):
        resample(sine(440), 0, 16_000)


def test_features_of_a_sine():
    measured = features(sine(440, 2.56))
    assert measured.duration_s == 2.56 and measured.peak == pytest.approx(0.5, abs=1e-3)
    assert measured.rms_dbfs == pytest.approx(20 * math.log10(0.5 / math.sqrt(2)), abs=0.01)  # amplitude / sqrt 2
    assert measured.centroid_hz == pytest.approx(440, abs=0.5)
    assert str(measured) == "2.56 s, RMS -9.0 dBFS, centroid 0.44 kHz, peak 0.50"
    # Equal amplitudes at 1 and 3 kHz have their centre of power at 2 kHz, 2 : 1 in amplitude at (4 + 3) / 5 = 1.4 kHz.
    assert features(sine(1000) + sine(3000)).centroid_hz == pytest.approx(2000, abs=1)
    assert features(sine(1000) + sine(3000) / 2).centroid_hz == pytest.approx(1400, abs=1)


def test_features_of_silence():
    assert str(features(torch.zeros(1600))) == "0.10 s, RMS -inf dBFS, centroid 0.00 kHz, peak 0.00"


def test_the_player_plays_at_the_loudness_of_the_waveform():
    x = sine(440, peak=0.05)
    samples, rate = soundfile.read(io.BytesIO(player(x).data))
    assert rate == 16_000 and np.abs(samples).max() == pytest.approx(0.05, abs=1e-4)
    with pytest.warns(UserWarning, match="scaled down"):
        player(30 * x)


def test_constants_are_audioldms():
    assert (audio.SAMPLE_RATE, audio.N_FFT, audio.HOP, audio.N_MELS) == (16_000, 1024, 160, 64)
    assert audio.LOG_FLOOR == 1e-5
