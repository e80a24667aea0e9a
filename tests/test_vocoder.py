"""dear.vocoder: what a sound measures before log-mel -> waveform, it measures after."""

import math

import pytest
import torch

from dear.audio import features, log_mel
from dear.vocoder import _analyse, _overlap_add, griffin_lim

SAMPLES = 40_960  # 2.56 s
TIME = torch.arange(SAMPLES) / 16_000


def sounds() -> dict[str, torch.Tensor]:
    hiss = torch.randn(SAMPLES, generator=torch.Generator().manual_seed(1))
    partials = [torch.sin(2 * math.pi * 220 * k * TIME) / k for k in range(1, 12)]
    return {
        "tone": 0.3 * torch.sin(2 * math.pi * 440 * TIME),
        "high tone": 0.3 * torch.sin(2 * math.pi * 3000 * TIME),
        "string": 0.15 * sum(partials) * torch.exp(-TIME),
        "chirp": 0.3 * torch.sin(2 * math.pi * (300 * TIME + 332 * TIME**2)),  # 300 to 2000 Hz
        "noise": 0.1 * hiss,
        "bursts": 0.2 * hiss * ((4 * TIME) % 1 < 0.15),  # ten of 37 ms
    }


@pytest.fixture(scope="module")
def inverted():
    """Names, originals (6, S), and their log-mels turned into waveforms."""
    originals = torch.stack(list(sounds().values()))
    return list(sounds()), originals, griffin_lim(log_mel(originals), torch.Generator().manual_seed(0))


def errors(waveform, originals):
    return (log_mel(waveform) - log_mel(originals)).abs().mean((1, 2))


def test_overlap_add_inverts_the_framing_of_log_mel():
    window = torch.hann_window(1024, dtype=torch.float64)
    x = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spectrum = _analyse(x, window)
    assert spectrum.shape == (2, 100, 513)
    envelope = _overlap_add((window**2).expand(1, 100, 1024))
    torch.testing.assert_close(_overlap_add(torch.fft.irfft(spectrum, 1024) * window) / envelope, x)


def test_log_mel_survives(inverted):
    names, originals, waveform = inverted
    assert waveform.shape == originals.shape and waveform.dtype == torch.float32
    # Measured mean |difference| of natural logs over frames and bands: 0.11, 0.14, 0.17, 0.09, 0.03, 0.45; the bounds
    # are 1.5 times that. What is left in bursts is their silence, where the target is log 1e-5.
    bounds = torch.tensor([0.17, 0.21, 0.26, 0.14, 0.05, 0.68])
    got = errors(waveform, originals)
    assert (got < bounds).all(), dict(zip(names, got.tolist(), strict=True))


def test_iterations_matter(inverted):
    _, originals, waveform = inverted
    random_phase = griffin_lim(log_mel(originals), torch.Generator().manual_seed(0), iterations=0)
    assert (errors(waveform, originals) < errors(random_phase, originals) / 3).all()
    # Perraudin's momentum: 32 iterations with it are closer than without it.
    plain = griffin_lim(log_mel(originals), torch.Generator().manual_seed(0), momentum=0.0)
    assert errors(waveform, originals).mean() < 0.95 * errors(plain, originals).mean()


def test_loudness_survives(inverted):
    names, originals, waveform = inverted
    for name, before, after in zip(names, originals, waveform, strict=True):
        change = features(after).rms_dbfs - features(before).rms_dbfs
        # Measured 0 to -0.3 dB; the high tone -1.1 dB, because a mel band of 290 Hz hides how narrow it is.
        assert abs(change) < (1.5 if name == "high tone" else 1.0), (name, change)


def test_quiet_stays_quiet():
    tone = sounds()["tone"]
    loud, quiet = griffin_lim(log_mel(torch.stack([tone, tone / 10])), torch.Generator().manual_seed(0))
    assert features(loud).rms_dbfs - features(quiet).rms_dbfs == pytest.approx(20, abs=0.5)


@pytest.mark.parametrize("hertz", [150, 440, 1700, 5000])
def test_dominant_frequency_survives(hertz):
    tone = 0.3 * torch.sin(2 * math.pi * hertz * TIME[:16_000])
    back = griffin_lim(log_mel(tone[None]), torch.Generator().manual_seed(0))[0]
    peak = torch.fft.rfft(back * torch.hann_window(16_000)).abs().argmax().item()  # one bin is 1 Hz
    # Mel centres are 46 Hz apart below 1 kHz and 4.8 % above: a tone is placed to about a quarter of that.
    assert abs(peak - hertz) < max(12, 0.012 * hertz)


def test_a_chirp_still_rises_and_bursts_are_where_they_were(inverted):
    names, originals, waveform = inverted
    chirp = waveform[names.index("chirp")].view(4, -1)
    centroids = [features(quarter).centroid_hz for quarter in chirp]
    assert centroids == pytest.approx([512, 937, 1362, 1787], rel=0.05)  # 300 + 1700 (i + 1/2) / 4
    row = names.index("bursts")
    energy = lambda x: x.view(-1, 320).square().mean(1).sqrt()  # noqa: E731, 20 ms
    assert torch.corrcoef(torch.stack([energy(originals[row]), energy(waveform[row])]))[0, 1] > 0.95


def test_same_seed_same_waveform():
    mel = log_mel(sounds()["bursts"][None, :8000])
    first, again, other = (griffin_lim(mel, torch.Generator().manual_seed(seed), iterations=4) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=1e-3)


def test_silence_gives_silence():
    waveform = griffin_lim(torch.full((1, 20, 64), math.log(1e-5)), torch.Generator().manual_seed(0))
    assert waveform.isfinite().all() and features(waveform[0]).rms_dbfs < -80


@pytest.mark.parametrize("shape", [(256, 64), (1, 64, 256), (1, 2, 64), (1, 1, 256, 64)])
def test_bad_shapes(shape):
    with pytest.raises(ValueError, match=r"wants log_mel \(B, T, 64\)"):
        griffin_lim(torch.zeros(shape), torch.Generator())


def test_bad_values():
    with pytest.raises(ValueError, match="finite"):
        griffin_lim(torch.full((1, 8, 64), math.nan), torch.Generator())
    for arguments in ({"iterations": -1}, {"momentum": 1.5}):
        with pytest.raises(ValueError, match="iterations >= 0 and 0 <= momentum < 1"):
            griffin_lim(torch.zeros(1, 8, 64), torch.Generator(), **arguments)
