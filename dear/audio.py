"""Waveforms: log-mel as AudioLDM has it, reading, writing, resampling, playing. Axes: B batch, S samples, T frames."""

import math
import os
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

SAMPLE_RATE = 16_000
N_FFT = 1024
HOP = 160
N_MELS = 64
LOG_FLOOR = 1e-5
PAD = (N_FFT - HOP) // 2  # 432 samples of reflection on each side make T = S / HOP exactly


@lru_cache(maxsize=1)
def _slaney_filters() -> np.ndarray:
    """Build the (64, 513) Slaney filters in float64: triangles between 66 points evenly spaced in mels."""
    linear_step, knee_hz, log_step = 200 / 3, 1000.0, math.log(6.4) / 27  # Hz per mel below the knee, log Hz above
    knee_mel = knee_hz / linear_step
    top_mel = knee_mel + math.log(SAMPLE_RATE / 2 / knee_hz) / log_step
    mels = np.linspace(0.0, top_mel, N_MELS + 2)
    edges = np.where(mels < knee_mel, mels * linear_step, knee_hz * np.exp(log_step * (mels - knee_mel)))
    bins = np.linspace(0.0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clip(min=0.0)
    return triangles * 2.0 / (high - low)


def mel_filters(dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> Tensor:
    """Return the (64, 513) matrix that maps a magnitude spectrum to mels, 0 to 8000 Hz, Slaney scale and norm.

    The scale is 3 f / 200 below 1 kHz and 15 + 27 ln(f / 1000) / ln 6.4 above (Slaney, Auditory Toolbox, 1998);
    the norm divides each triangle by half its width in Hz, so that its area is 1.
    """
    return torch.tensor(_slaney_filters(), dtype=dtype, device=device)


def log_mel(waveform: Tensor) -> Tensor:
    """Return the log-mel of a waveform: log(max(mel |STFT|, 1e-5)), natural logarithm, magnitude to the power 1.

    waveform: (B, S) or (S,), floating point, 16 kHz, in [-1, 1], S >= 433 (reflection needs them).
    Returns (B, T, 64) or (T, 64) with T = S // 160, on the same device and in the same dtype (half precision is
    computed in float32). Frame t looks at samples 160 t - 432 to 160 t + 592 through a periodic Hann window.
    The convention is AudioLDM's (Liu et al. 2023): n_fft = window = 1024, hop 160, center=False.
    """
    if not isinstance(waveform, Tensor) or not waveform.is_floating_point() or waveform.ndim not in (1, 2):
        raise ValueError(f"log_mel wants a floating-point tensor (B, S) or (S,), got {_describe(waveform)}")
    if waveform.shape[-1] <= PAD:
        raise ValueError(f"log_mel wants at least {PAD + 1} samples, got {waveform.shape[-1]}: pad the clip with zeros")
    exact = waveform if waveform.dtype == torch.float64 else waveform.float()
    batch = exact.reshape(-1, exact.shape[-1])
    padded = torch.nn.functional.pad(batch[:, None], (PAD, PAD), mode="reflect")[:, 0]
    window = torch.hann_window(N_FFT, dtype=exact.dtype, device=exact.device)
    spectrum = torch.stft(padded, N_FFT, HOP, window=window, center=False, return_complex=True)
    mel = mel_filters(exact.dtype, exact.device) @ spectrum.abs()
    logs = mel.clamp(min=LOG_FLOOR).log().transpose(1, 2)
    return logs.reshape(*waveform.shape[:-1], -1, N_MELS).to(waveform.dtype)


def resample(waveform: Tensor, from_rate: int, to_rate: int = SAMPLE_RATE) -> Tensor:
    """Resample (..., S) by polyphase filtering; returns (..., ceil(S to_rate / from_rate)), dtype and device kept."""
    for name, rate in (("from_rate", from_rate), ("to_rate", to_rate)):
        if int(rate) != rate or rate <= 0:
            raise ValueError(f"{name} must be a positive whole number of Hz, got {rate}")
    if from_rate == to_rate:
        return waveform
    from scipy.signal import resample_poly  # imported where it is used: it costs a third of a second

    common = math.gcd(int(from_rate), int(to_rate))
    samples = resample_poly(waveform.cpu().numpy(), int(to_rate) // common, int(from_rate) // common, axis=-1)
    return torch.as_tensor(samples, dtype=waveform.dtype, device=waveform.device)


def read(path: str | os.PathLike) -> Tensor:
    """Read wav, flac, ogg or mp3 as a mono float32 waveform (S,) at 16 kHz; channels are averaged.

    Raises FileNotFoundError, or ValueError naming the file: not decodable (with the decoder's reason), cut short,
    empty, or with samples that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such audio file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: is empty (0 bytes)")
    try:
        with soundfile.SoundFile(path) as file:
            announced, rate = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        reason = getattr(error, "error_string", str(error)).removeprefix("Error : ").rstrip(".")
        if reason.startswith("File does not exist"):  # what libsndfile says of an .mp3 that is no mp3
            reason = "Format not recognised"
        raise ValueError(f"{path}: cannot be decoded ({reason}); wanted wav, flac, ogg or mp3") from error
    if len(samples) == 0:
        raise ValueError(f"{path}: holds no samples")
    if len(samples) < 0.9 * announced:  # the announced length of an mp3 can be an estimate, a little off
        raise ValueError(f"{path}: cut short, {len(samples)} of {announced} samples can be decoded")
    if not np.isfinite(samples).all():
        raise ValueError(f"{path}: holds samples that are not finite (NaN or infinity)")
    return resample(torch.from_numpy(samples.mean(axis=1)), rate)


def write(path: str | os.PathLike, waveform: Tensor, sample_rate: int = SAMPLE_RATE) -> None:
    """Write a mono waveform (S,) in [-1, 1] as 16-bit wav or flac (by suffix), at the loudness that it has.

    Nothing is normalised: reading back gives the same samples within half a step of 2^-15 (full scale 1.0 comes
    back one step lower). A clip that leaves [-1, 1] is scaled as a whole to peak 1, with a warning that says by how
    much: clipping would bend the wave and add frequencies that the model never made. The file appears whole
    or not at all. Raises ValueError for another suffix, a wrong shape, an empty clip, NaN or infinity.
    """
    path = Path(path)
    container = {".wav": "WAV", ".flac": "FLAC"}.get(path.suffix.lower())
    if container is None:
        raise ValueError(f"{path}: wanted a name that ends in .wav or .flac, got {path.suffix or 'no suffix'}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder to write {path.name} to; create it first")
    samples = within_full_scale(_checked(waveform, "write"))
    pcm = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        soundfile.write(beside, pcm, sample_rate, subtype="PCM_16", format=container)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@dataclass(frozen=True)
class AudioFeatures:
    """What a clip measures: seconds, RMS in dB of full scale (-inf if silent), spectral centroid in Hz, peak."""

    duration_s: float
    rms_dbfs: float
    centroid_hz: float
    peak: float

    def __str__(self) -> str:
        return (
            f"{self.duration_s:.2f} s, RMS {self.rms_dbfs:.1f} dBFS, "
            f"centroid {self.centroid_hz / 1000:.2f} kHz, peak {self.peak:.2f}"
        )


def features(waveform: Tensor, sample_rate: int = SAMPLE_RATE) -> AudioFeatures:
    """Measure a mono waveform (S,).

    RMS = 20 log10 sqrt(mean x^2); centroid = sum_k f_k |X_k|^2 / sum_k |X_k|^2 over the spectrum X of the whole clip
    through a Hann window, 0 for silence.
    """
    samples = _checked(waveform, "features")
    rms = math.sqrt(np.mean(samples**2))
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / sample_rate)
    return AudioFeatures(
        duration_s=len(samples) / sample_rate,
        rms_dbfs=20 * math.log10(rms) if rms > 0 else -math.inf,
        centroid_hz=float((hertz * power).sum() / power.sum()) if power.sum() > 0 else 0.0,
        peak=float(np.abs(samples).max()),
    )


def player(waveform: Tensor, sample_rate: int = SAMPLE_RATE):
    """Return IPython's player for a mono waveform (S,), at the loudness that the waveform has (see `write`)."""
    from IPython.display import Audio  # only notebooks have it

    return Audio(within_full_scale(_checked(waveform, "player")), rate=sample_rate, normalize=False)


def _checked(waveform: Tensor, caller: str) -> np.ndarray:
    """Return the waveform as float64 numpy (S,), or say what is wrong with it."""
    samples = waveform.detach().cpu().double().numpy() if isinstance(waveform, Tensor) else np.asarray(waveform, float)
    if samples.ndim != 1 or samples.size == 0:
        raise ValueError(f"{caller} wants one mono clip (S,), S > 0, got {_describe(waveform)}: pass rows one by one")
    bad = samples.size - int(np.isfinite(samples).sum())
    if bad:
        raise ValueError(f"{caller} wants finite samples, got {bad} that are NaN or infinite")
    return samples


def within_full_scale(samples, stacklevel: int = 3):
    """Return samples (numpy or torch, any shape), scaled as a whole to peak 1 with a warning if they leave [-1, 1]."""
    peak = float(abs(samples).max())
    if peak <= 1.0:
        return samples
    told = f"peak {peak:.3f} leaves [-1, 1]: clip scaled down by {20 * math.log10(peak):.1f} dB to peak 1"
    warnings.warn(told, stacklevel=stacklevel)
    return samples / peak


def _describe(value: object) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{getattr(value, 'dtype', '')} of shape {tuple(shape)}"
