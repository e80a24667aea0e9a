"""A corpus of captioned recordings on disk: a list of clips, each read by itself, cropped at random or padded."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dear.audio import SAMPLE_RATE
from dear.data.excerpt import Unreadable, excerpt, frames_of, opened

SECONDS = 10.24  # AudioLDM's clip: 1024 frames, 256 steps of the latent
LIMIT = 0.05  # share that may be skipped of a corpus that is published with its audio
# Of what is published as names of videos, many are gone: downloads found 45,187 of AudioCaps' 49,838 training clips
# (github.com/MorenoLaQuatra/audiocaps-download) and 18,685 of AudioSet's 22,160 (the data set agkphysics/AudioSet).
YOUTUBE_LIMIT = 0.25


class TooManyProblems(ValueError):
    """More of a corpus was skipped than the limit allows; `corpus` is what was found."""

    def __init__(self, message: str, corpus: "Corpus") -> None:
        super().__init__(message)
        self.corpus = corpus


@dataclass(frozen=True)
class Finding:
    """Something to tell of a corpus. kind: what it is counted as. where: table and line. what: one sentence."""

    kind: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True, slots=True)
class Clip:
    """A stretch of an audio file with its captions.

    id: names the clip in all corpora at once, stays the same when files or rows are added, and has no dot, so that it
    can be the key of a sample in a tar file. start, end: seconds within the file. sources: the recordings it was cut
    from, as "youtube:vfY_TJq7n_U" or "freesound:180913"; two clips that share one must not be in training and test.
    """

    id: str
    path: str
    start: float
    end: float
    captions: tuple[str, ...]
    sources: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Length of the stretch, before cropping and padding."""
        return self.end - self.start


class Corpus:
    """Clips in a fixed order, of which `read` gives waveforms of one length; no audio is held in memory.

    seconds: length of what `read` returns. problems: rows and files that were skipped. notes: what is odd about clips
    that were kept. excluded: clips left out on purpose. limit: share that may be skipped; above it, or if no clip is
    left, TooManyProblems. It can be pickled and handed to worker processes.
    """

    def __init__(self, name: str, clips: Sequence[Clip], *, problems: Sequence[Finding] = (),
                 notes: Sequence[Finding] = (), excluded: Sequence[Finding] = (), seconds: float = SECONDS,
                 limit: float = LIMIT) -> None:
        if not 0 < seconds < math.inf or not 0 <= limit <= 1:
            raise ValueError(f"wanted seconds > 0 and a limit in [0, 1], got {seconds} and {limit}")
        self.name, self.clips, self.seconds, self.limit = name, tuple(clips), seconds, limit
        self.problems, self.notes, self.excluded = tuple(problems), tuple(notes), tuple(excluded)
        self.samples = round(seconds * SAMPLE_RATE)
        if self.share > limit or not self.clips:
            why = f"{self.share:.1%} skipped, more than the limit of {limit:.1%}" if self.clips else "no usable clip"
            more = "; mend them, or allow more by --limit" if self.clips else ""
            raise TooManyProblems(f"{name}: {why} ({_counts(self.problems) or 'nothing was skipped'}){more}", self)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, i: int) -> Clip:
        return self.clips[i]

    @property
    def hours(self) -> float:
        """Hours that one pass reads: a clip counts with at most `seconds`, however long its recording is.

        Counted so, AudioCaps (138), WavCaps (at most 1140) and 500 hours of AudioSet come near the 1.7 thousand of
        AudioDEAR; the recordings of WavCaps alone last 7.6 thousand.
        """
        return sum(min(clip.seconds, self.seconds) for clip in self.clips) / 3600

    @property
    def share(self) -> float:
        """Problems as a share of clips and problems, in [0, 1]."""
        return len(self.problems) / max(1, len(self.clips) + len(self.problems))

    def read(self, i: int, generator: torch.Generator) -> Tensor:
        """Return clip i as a mono float32 waveform (samples,) at 16 kHz.

        A longer clip is cropped at a start that the generator (on the CPU) draws, each alike likely; a shorter one is
        zero-padded at its end. Decodes what it returns and no more. Raises Unreadable, a ValueError with the file.
        """
        clip = self.clips[i]
        with opened(clip.path) as file:
            rate = file.samplerate
            first, last = round(clip.start * rate), min(round(clip.end * rate), file.frames)
            wanted = math.ceil(self.samples * rate / SAMPLE_RATE)
            if last - first > wanted:
                first += int(torch.randint(last - first - wanted + 1, (), generator=generator))
                last = first + wanted
            waveform = excerpt(file, first, last)
        return torch.nn.functional.pad(waveform, (0, max(0, self.samples - len(waveform))))[: self.samples]

    def subset(self, hours: float, seed: int = 0) -> "Corpus":
        """Return a random part of at least `hours`, by less than one clip more, in the order of this corpus.

        Every clip has a place in a queue that its id and the seed alone decide, and the front of the queue is taken:
        a larger part holds every smaller one, and clips that come or go change little. Raises ValueError if the
        corpus has fewer hours.
        """
        if not 0 < hours <= self.hours:
            raise ValueError(f"{self.name}: wanted {hours:g} hours, more than 0 and at most the {self.hours:.4g} there")
        queue = sorted(range(len(self)), key=lambda i: hashlib.sha256(f"{seed}/{self.clips[i].id}".encode()).digest())
        taken, left = [], hours * 3600
        for i in queue:
            if left <= 0:
                break
            taken.append(i)
            left -= min(self.clips[i].seconds, self.seconds)
        return self._with([self.clips[i] for i in sorted(taken)], limit=1.0)  # what is skipped was judged by the whole

    def decoded(self, progress: bool = False) -> "Corpus":
        """Return the clips whose files decode to their end; the others become problems, which the limit counts too.

        Reads all audio once, where listing a corpus looks at the headers alone.
        """
        clips, broken = [], []
        for clip in tqdm(self.clips, f"decoding {self.name}", unit="file", disable=not progress):
            try:
                with opened(clip.path) as file:
                    for start in range(0, file.frames, 1 << 20):
                        frames_of(file, start, min(start + (1 << 20), file.frames))
            except Unreadable as error:
                broken.append(Finding(error.kind, clip.id, f"{error}; skipped"))
            else:
                clips.append(clip)
        return self._with(clips, broken)

    def report(self, first: int = 20) -> Iterator[str]:
        """Yield lines: clips, hours, captions; what was excluded, noted and skipped, counted, the `first` named."""
        whole = sum(clip.seconds for clip in self.clips) / 3600
        yield (f"{self.name}: {len(self)} clips, {self.hours:.2f} hours at {self.seconds:g} s a clip at most "
               f"(recordings: {whole:.2f} hours), {sum(len(clip.captions) for clip in self.clips)} captions")
        for title, found in (("left out", self.excluded), ("noted", self.notes), ("skipped", self.problems)):
            if found:
                yield f"{title}: {_counts(found)}"
                yield from (f"  {finding}" for finding in found[:first])
            if len(found) > first:
                yield f"  and {len(found) - first} more"

    def _with(self, clips: Sequence[Clip], problems: Sequence[Finding] = (), limit: float | None = None) -> "Corpus":
        return Corpus(self.name, clips, problems=(*self.problems, *problems), notes=self.notes, excluded=self.excluded,
                      seconds=self.seconds, limit=self.limit if limit is None else limit)


def crop_generator(clip: Clip, seed: int) -> torch.Generator:
    """Generator that the clip's id and the seed alone decide: the same crop in any order and in any process."""
    return generator_of(f"crop/{seed}/{clip.id}")  # not the queue of `subset`


def generator_of(text: str) -> torch.Generator:
    """Generator on the CPU that a text alone decides."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))


def _counts(found: Sequence[Finding]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in Counter(finding.kind for finding in found).most_common())
