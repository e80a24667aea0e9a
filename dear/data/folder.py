"""A folder of real recordings with a captions.csv: checked once, cropped where the sound is, held in memory."""

import copy
import csv
import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from dear.audio import SAMPLE_RATE, read
from dear.data.captions import words

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
SHORTEST_S = 0.1  # less than this is a click, whatever the caption says
SILENCE = 1e-3  # peak below -60 dBFS: below the noise of most microphones
_GRID = SAMPLE_RATE // 100  # crops start on a grid of 10 ms
_EXAMPLE = """A folder of recordings looks like this (files beside captions.csv or in the subfolder audio/):
    captions.csv        filename,caption
                        bark.wav,"A dog barks, twice"
                        rain.flac,Rain falls on leaves
    bark.wav
    audio/rain.flac"""


@dataclass(frozen=True)
class Clip:
    """One crop of a recording: waveform (S,) float32 at 16 kHz, caption, filename, and the row's other columns."""

    waveform: Tensor
    caption: str
    name: str
    meta: dict[str, str]


class AudioFolder:
    """The usable recordings of a folder, each cropped or zero-padded to exactly round(16000 duration_s) samples.

    captions.csv (utf-8) needs the columns filename and caption; other columns become `Clip.meta`. Every file is
    decoded once, here (wav, flac, ogg, mp3, any rate, channels averaged); crops stay in memory as float32
    (164 kB for 2.56 s, 65 MB for 400 crops).

    A recording's first crop is its window of highest energy. With crops_per_clip = k up to k - 1 more follow, drawn
    at random from windows within 10 dB of it that start at least 0.1 s apart; they depend on seed and filename only.

    `problems` lists one line for each thing wrong, naming the file or line and what was done. strict=True raises
    ValueError with all of them instead. Raises FileNotFoundError or ValueError when folder, captions file or columns
    are missing, or nothing is usable. progress=True shows a bar.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        duration_s: float = 2.56,
        captions: str = "captions.csv",
        strict: bool = False,
        seed: int = 0,
        crops_per_clip: int = 1,
        progress: bool = False,
    ) -> None:
        if not duration_s >= SHORTEST_S or crops_per_clip < 1:
            raise ValueError(
                f"wanted duration_s >= {SHORTEST_S} and crops_per_clip >= 1, got {duration_s} and {crops_per_clip}"
            )
        self.path = Path(path)
        self.samples = round(duration_s * SAMPLE_RATE)
        self.problems: list[str] = []
        self._clips: list[Clip] = []
        self._firsts: list[int] = []  # index of each recording's first crop
        rows, scan = read_rows(self.path, captions), _Scan(self.path)
        for line, row in tqdm(rows, unit="file", desc="recordings", disable=not progress):
            name = row["filename"]
            try:
                waveform = scan.waveform(line, row)
            except _Unusable as reason:
                self.problems.append(f"{captions} line {line}, {name or 'no filename'}: {reason}; skipped")
                continue
            meta = {column: value for column, value in row.items() if column not in ("filename", "caption", None)}
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            self._firsts.append(len(self._clips))
            for piece in crop(waveform, self.samples, crops_per_clip, rng):
                self._clips.append(Clip(piece, row["caption"], name, meta))
        self.problems += [f"{stranger}: has no row in {captions}; not used" for stranger in scan.strangers()]
        if self.problems and (strict or not self._clips):
            what = "problems, and strict=True" if self._clips else "no usable recording"
            raise ValueError(f"{self.path}: {what}:\n  " + "\n  ".join(self.problems))
        if not self._clips:
            raise ValueError(f"{self.path / captions}: has no rows\n{_EXAMPLE}")

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, i: int) -> Clip:
        return self._clips[i]

    def split(self, column: str = "fold", held_out: str | int = "5") -> tuple["AudioFolder", "AudioFolder"]:
        """Return (train, test): test has the recordings whose column equals held_out, train the others.

        Both share memory with this folder. Test keeps only the first crop, so that each recording counts once.
        """
        columns = list(self._clips[0].meta)
        if column not in columns:
            raise ValueError(f"no column {column!r} to split by; there are {columns or 'only filename and caption'}")
        values = [clip.meta[column] for clip in self._clips]
        if str(held_out) not in values or len(set(values)) == 1:
            raise ValueError(f"{column} = {str(held_out)!r} leaves one part empty; values are {sorted(set(values))}")
        test = [i for i in self._firsts if values[i] == str(held_out)]
        return self._subset([i for i, value in enumerate(values) if value != str(held_out)]), self._subset(test)

    def _subset(self, indices: list[int]) -> "AudioFolder":
        part = copy.copy(self)
        firsts = set(self._firsts)
        part._clips = [self._clips[i] for i in indices]
        part._firsts = [new for new, old in enumerate(indices) if old in firsts]
        return part


class _Unusable(Exception):
    """Why a row gives no clip."""


class _Scan:
    """One pass over the rows that remembers which names, contents and files came before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[str, int] = {}
        self.contents: dict[bytes, str] = {}
        self.files: set[Path] = set()

    def waveform(self, line: int, row: dict) -> Tensor:
        """Return the recording (S,) that a row names; raises _Unusable with the reason."""
        name = row["filename"]
        if not name:
            raise _Unusable("the row names no file")
        file = next((p for p in (self.path / name, self.path / "audio" / name) if p.is_file()), None)
        if file:
            self.files.add(file.resolve())
        if name in self.lines:
            raise _Unusable(f"the same file was named on line {self.lines[name]}")
        self.lines[name] = line
        if None in row:  # where csv.DictReader puts cells beyond the last column
            raise _Unusable("more cells than columns (a caption with a comma needs quotes)")
        if not row["caption"]:
            raise _Unusable("no caption")
        if not words(row["caption"]):
            raise _Unusable(f"caption without a word: {row['caption']!r}")
        if not file:
            raise _Unusable("no such file in the folder or its subfolder audio")
        waveform = _decode(file)
        twin = self.contents.setdefault(hashlib.sha256(file.read_bytes()).digest(), name)
        if twin != name:
            raise _Unusable(f"same content as {twin}")
        return waveform

    def strangers(self) -> list[str]:
        """Return the audio files, relative to the folder, that no row named."""
        folders = [folder for folder in (self.path, self.path / "audio") if folder.is_dir()]
        files = [f for d in folders for f in sorted(d.iterdir()) if f.suffix.lower() in SUFFIXES and f.name[0] != "."]
        return [f.relative_to(self.path).as_posix() for f in files if f.resolve() not in self.files]


def _decode(file: Path) -> Tensor:
    """Return the recording (S,); raises _Unusable if it is broken, too short or silent."""
    try:
        waveform = read(file)
    except (ValueError, OSError) as error:
        raise _Unusable(str(error).removeprefix(f"{file}: ")) from error
    seconds, peak = len(waveform) / SAMPLE_RATE, waveform.abs().max().item()
    if seconds < SHORTEST_S:
        raise _Unusable(f"lasts {seconds:.3f} s, less than {SHORTEST_S} s")
    if peak < SILENCE:
        raise _Unusable(f"silent (peak {peak:.1e}, below {SILENCE:.0e})")
    return waveform


def crop(waveform: Tensor, samples: int, count: int, rng: np.random.Generator) -> list[Tensor]:
    """Return 1 to count pieces (samples,) of a waveform (S,): the loudest window first; zero-padded if S is too short.

    The loudest is the middle one of all windows within 1 % of the highest energy, so that a short sound is centred.
    """
    if len(waveform) <= samples:
        return [torch.nn.functional.pad(waveform, (0, samples - len(waveform)))]
    energy = np.concatenate([[0.0], np.cumsum(waveform.double().numpy() ** 2)])
    starts = np.unique(np.append(np.arange(0, len(waveform) - samples + 1, _GRID), len(waveform) - samples))
    window = energy[starts + samples] - energy[starts]
    loudest = starts[window >= 0.99 * window.max()]
    chosen = [int(loudest[len(loudest) // 2])]
    for start in rng.permutation(starts[window >= 0.1 * window.max()]):
        if len(chosen) == count:
            break
        if min(abs(start - other) for other in chosen) >= SHORTEST_S * SAMPLE_RATE:
            chosen.append(int(start))
    return [waveform[start : start + samples].clone() for start in chosen]


def read_rows(path: Path, captions: str) -> list[tuple[int, dict]]:
    """Return (line number, row) of the captions file, or say what is wrong with it and show a right one."""
    table = path / captions
    if not table.is_file():
        raise FileNotFoundError(f"{table if path.is_dir() else path}: not found\n{_EXAMPLE}")
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            reader.fieldnames = [column.strip() for column in reader.fieldnames or []]
            rows = [(reader.line_num, {k: v.strip() if k is not None else v for k, v in r.items()}) for r in reader]
    except csv.Error as error:
        raise ValueError(f"{table}, line {reader.line_num}: {error}; is a quote not closed?") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{table}: not utf-8 (byte {error.start}: {error.reason}); save it as utf-8") from error
    missing = [column for column in ("filename", "caption") if column not in reader.fieldnames]
    if missing:
        raise ValueError(f"{table}: wanted columns filename and caption, got {reader.fieldnames}\n{_EXAMPLE}")
    return rows
