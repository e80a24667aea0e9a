"""Part of an audio file: as much as is asked for is decoded, and what is wrong with the file is said in one word."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from dear.audio import SAMPLE_RATE, resample

_UNKNOWN = 2**63 - 1  # what libsndfile says of a flac that was encoded into a pipe


class Unreadable(ValueError):
    """Why a file gives no waveform. kind: missing file, empty file, no samples, unknown length or corrupt file."""

    def __init__(self, path: str, kind: str, reason: str) -> None:
        super().__init__(path, kind, reason)
        self.kind, self.reason = kind, reason

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.reason}"


@contextmanager
def opened(path: str) -> Iterator[soundfile.SoundFile]:
    """Open an audio file (wav, flac, ogg, mp3); raises Unreadable, for what goes wrong inside the block too."""
    try:
        size = Path(path).stat().st_size
    except OSError as error:
        raise Unreadable(path, "missing file", "no such audio file") from error
    if size == 0:
        raise Unreadable(path, "empty file", "is empty (0 bytes)")
    try:
        with soundfile.SoundFile(path) as file:
            if file.frames <= 0:
                raise Unreadable(path, "no samples", "holds no samples")
            if file.frames == _UNKNOWN:
                raise Unreadable(path, "unknown length", "does not say how long it is; encode it anew, into a file")
            yield file
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        reason = getattr(error, "error_string", str(error)).removeprefix("Error : ").rstrip(".")
        raise Unreadable(path, "corrupt file", f"cannot be decoded ({reason})") from error


def frames_of(file: soundfile.SoundFile, first: int, last: int) -> np.ndarray:
    """Frames (last - first, channels) float32 of an open file; raises Unreadable if they are not all there."""
    file.seek(first)
    frames = file.read(last - first, dtype="float32", always_2d=True)
    if len(frames) < last - first:
        raise Unreadable(file.name, "corrupt file", f"cut short, {first + len(frames)} of {file.frames} frames decode")
    if not np.isfinite(frames).all():
        raise Unreadable(file.name, "corrupt file", "holds samples that are not finite (NaN or infinity)")
    return frames


def excerpt(file: soundfile.SoundFile, first: int, last: int) -> Tensor:
    """Frames first to last of an open file, mono at 16 kHz: (ceil((last - first) 16000 / rate),) float32.

    The resampling filter reaches beyond both ends; it gets what the file has there, so that a crop sounds at its edges
    as it does in the whole.
    """
    rate = file.samplerate
    up, down = SAMPLE_RATE // math.gcd(SAMPLE_RATE, rate), rate // math.gcd(SAMPLE_RATE, rate)
    reach = math.ceil(11 * max(up, down) / (up * down))  # scipy's filter has 10 max(up, down) taps a side, at up * rate
    before = min(reach, first // down)
    frames = frames_of(file, first - before * down, min(last + reach * down, file.frames))
    waveform = resample(torch.from_numpy(frames.mean(axis=1)), rate)[before * up :]
    return waveform[: math.ceil((last - first) * up / down)]
