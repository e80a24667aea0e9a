"""Log-mel back to a waveform. Axes: B batch, T frames, K = 513 frequency bins, S = 160 T samples."""

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, pad

from dear.audio import HOP, N_FFT, N_MELS, PAD, mel_filters

_SHARPENING = 0.5  # smallest value that brings a pure tone's loudness back within 1.5 dB up to 7 kHz
_TINY = 1e-8  # far below the floor of the log-mel (1e-5); keeps divisions finite in digital silence


def griffin_lim(log_mel: Tensor, generator: torch.Generator, iterations: int = 32, momentum: float = 0.99) -> Tensor:
    """Return a waveform whose log-mel is close to the one given.

    log_mel: (B, T, 64), T >= 3, as `dear.audio.log_mel` makes it. generator draws the first phases: same seed, same
    waveform. Returns (B, S) float32 on the same device, S = 160 T, not limited to [-1, 1] (`dear.audio.write` takes
    care of it). Raises ValueError for another shape, too few frames, NaN or infinity.

    Fast Griffin-Lim (Perraudin, Balazs, Sondergaard 2013, algorithm 2) with P1 the projection on spectrograms of real
    signals and P2 the one on spectrograms with the right magnitude:
        t_n = P1(P2(c_{n-1})),  c_n = t_n + momentum (t_n - t_{n-1}).
    Only 64 bands of the magnitude are known here, not 513 bins, so P2 is one step of Richardson and Lucy's
    (multiplicative, non-negative) inversion from wherever P1 has led: |X| <- |X| F^T(m / F|X|) / F^T 1, for mel
    filters F and bands m. Magnitudes thus stay those of a signal inside a band, and match the target across bands.
    """
    _check(log_mel, iterations, momentum)
    filters = mel_filters(device=log_mel.device)
    spread = filters / filters.sum(0).clamp(min=_TINY)  # bands -> bins, each bin a weighted mean of its bands
    bands = log_mel.float().exp()
    power = _sharpness(bands / filters.sum(1)) @ spread
    window = torch.hann_window(N_FFT, device=log_mel.device)
    envelope = _overlap_add((window**2).expand(1, log_mel.shape[1], N_FFT))

    magnitude = (bands / filters.sum(1)) @ spread
    angle = torch.rand(magnitude.shape, generator=generator, device=generator.device).to(log_mel.device)
    spectrum = torch.polar(magnitude, 2 * math.pi * angle)
    previous = torch.zeros_like(spectrum)
    for iteration in range(iterations):
        consistent = _analyse(_overlap_add(torch.fft.irfft(spectrum, N_FFT) * window) / envelope, window)
        magnitude = _modulus(consistent)
        if iteration < iterations * 3 // 4:
            magnitude = magnitude**power
        magnitude = magnitude * ((bands / (magnitude @ filters.T + _TINY)) @ spread)
        # c_n up to a positive factor, which the next line divides out
        spectrum = torch.sub(consistent, previous, alpha=momentum / (1 + momentum))
        spectrum = spectrum * (magnitude / _modulus(spectrum))
        previous = consistent
    return _overlap_add(torch.fft.irfft(spectrum, N_FFT) * window) / envelope


def _sharpness(density: Tensor) -> Tensor:
    """Return the exponent (B, T, 64), 1 to 1.5, that draws the magnitudes of a tone together and leaves noise alone.

    A band cannot tell a line from noise of the same sum of magnitudes, which is up to 6 dB weaker. Its neighbours
    can: spectral flatness (geometric over arithmetic mean) of 5 bands, averaged over 9 frames (90 ms), is above
    0.8 for noise and near 0 for a tone.
    """
    mean = avg_pool1d(density.transpose(1, 2), 9, 1, 4, count_include_pad=False).transpose(1, 2) + _TINY
    flatness = avg_pool1d(mean.log(), 5, 1, 2, count_include_pad=False).exp()
    flatness = flatness / avg_pool1d(mean, 5, 1, 2, count_include_pad=False)
    return 1 + _SHARPENING * (1 - flatness / 0.8).clamp(min=0)


def _analyse(waveform: Tensor, window: Tensor) -> Tensor:
    """(B, S) -> (B, T, K) complex, framed exactly as `dear.audio.log_mel` frames it."""
    padded = pad(waveform[:, None], (PAD, PAD), mode="reflect")[:, 0]
    return torch.fft.rfft(padded.unfold(1, N_FFT, HOP) * window)


def _overlap_add(frames: Tensor) -> Tensor:
    """(B, T, 1024) -> (B, S): add the frames up 160 samples apart and cut the reflected 432 off both ends.

    Over the envelope of the squared window this is the least-squares inverse of `_analyse`. torch.istft would cut 512
    and lose the first 80 samples; torch.nn.functional.fold is eight times slower than seven shifted sums.
    """
    batch, count, _ = frames.shape
    hops = -(-N_FFT // HOP)
    pieces = pad(frames, (0, hops * HOP - N_FFT)).view(batch, count, hops, HOP)
    total = frames.new_zeros(batch, count + hops - 1, HOP)
    for hop in range(hops):
        total[:, hop : hop + count] += pieces[:, :, hop]
    return total.flatten(1)[:, PAD : PAD + count * HOP]


def _modulus(spectrum: Tensor) -> Tensor:
    """|X|, never below 1e-8; twice as fast as the overflow-proof abs."""
    return (spectrum.real.square() + spectrum.imag.square() + _TINY**2).sqrt()


def _check(log_mel: Tensor, iterations: int, momentum: float) -> None:
    if log_mel.ndim != 3 or log_mel.shape[2] != N_MELS or log_mel.shape[1] * HOP <= PAD:
        raise ValueError(f"griffin_lim wants log_mel (B, T, {N_MELS}) with T >= 3, got {tuple(log_mel.shape)}")
    if not log_mel.isfinite().all():
        raise ValueError("griffin_lim wants a finite log_mel, got NaN or infinity")
    if iterations < 0 or not 0 <= momentum < 1:
        raise ValueError(f"wanted iterations >= 0 and 0 <= momentum < 1, got {iterations} and {momentum}")
