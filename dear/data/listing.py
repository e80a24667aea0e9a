"""What listing a corpus finds: tables read row by row, audio files by name, headers looked at, faults named."""

import csv
import io
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from dear.data.corpus import Clip, Corpus, Finding
from dear.data.excerpt import Unreadable, opened
from dear.data.folder import SUFFIXES

_SLACK_S = 0.5  # a file may be a codec's packet longer or shorter than its segment


@dataclass(frozen=True)
class Exclusion:
    """Recordings to leave out, as `Clip.sources` names them ("youtube:vfY_TJq7n_U"), and why."""

    reason: str
    sources: frozenset[str]


@dataclass(frozen=True)
class Candidate:
    """A clip that a table speaks of, before its file was looked at.

    where: table and line, to name it in messages. path: its file, or None if there is none. segment: start and end in
    seconds within the recording that it was cut from, None if the whole file is meant. The rest as in `Clip`.
    """

    where: str
    id: str
    path: str | None
    captions: tuple[str, ...]
    sources: tuple[str, ...] = ()
    segment: tuple[float, float] | None = None


@dataclass
class Listing:
    """Candidates by id, problems of rows that gave none, and notes, while the tables of one corpus are read."""

    candidates: dict[str, Candidate] = field(default_factory=dict)
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    def problem(self, kind: str, where: str, what: str) -> None:
        """Count and name a row that is skipped."""
        self.problems.append(Finding(kind, where, f"{what}; skipped"))

    def add(self, candidate: Candidate) -> None:
        """Take a candidate; a second one with the same id is a problem, and so is one without a word of caption."""
        if not has_words(candidate.captions):
            self.problem("empty caption", candidate.where, f"no word in the caption {' '.join(candidate.captions)!r}")
        elif first := self.candidates.get(candidate.id):
            self.problem("duplicate id", candidate.where, f"the same clip as {first.where}")
        else:
            self.candidates[candidate.id] = candidate

    def corpus(self, name: str, *, exclude: Iterable[Exclusion] = (), seconds: float, limit: float,
               progress: bool = False) -> Corpus:
        """Look at the header of every candidate's file, and return the corpus of those that can be read.

        Clips keep the order of the tables. Raises TooManyProblems above the limit or if no clip is left.
        """
        exclude, kept, excluded = tuple(exclude), [], []
        for candidate in self.candidates.values():
            reason = next((e.reason for e in exclude if not e.sources.isdisjoint(candidate.sources)), None)
            if reason is None:
                kept.append(candidate)
            else:
                excluded.append(Finding(reason, candidate.where, f"{candidate.id} is {reason}; left out"))
        clips, problems, notes = [], list(self.problems), list(self.notes)
        with ThreadPoolExecutor(8) as pool:  # opening a file is waiting for a disk
            looked = tqdm(pool.map(_look, kept), name, len(kept), unit="file", disable=not progress)
            for clip, finding in looked:
                if clip is not None:
                    clips.append(clip)
                if finding is not None:
                    (problems if clip is None else notes).append(finding)
        return Corpus(name, clips, problems=problems, notes=notes, excluded=excluded, seconds=seconds, limit=limit)


def _look(candidate: Candidate) -> tuple[Clip | None, Finding | None]:
    """The clip of a candidate, or None and why; a clip may come with a note."""
    where = candidate.where
    if candidate.path is None:
        return None, Finding("missing file", where, f"no audio file for {candidate.id}; skipped")
    try:
        with opened(candidate.path) as file:
            lasts = file.frames / file.samplerate
    except Unreadable as error:
        return None, Finding(error.kind, where, f"{candidate.path}: {error.reason}; skipped")
    (start, end), note = (0.0, lasts), None
    if candidate.segment is not None:
        start, end = place(lasts, *candidate.segment)
        if end <= start:
            return None, Finding("segment outside its file", where, f"{candidate.path} lasts {lasts:.2f} s, "
                                 f"the segment starts at {candidate.segment[0]:g} s; skipped")
        wanted = candidate.segment[1] - candidate.segment[0]
        if end - start < wanted - _SLACK_S:
            note = Finding("segment longer than its file", where,
                           f"{candidate.id} lasts {end - start:.2f} s of {wanted:g} s; padded")
    return Clip(candidate.id, candidate.path, start, end, candidate.captions, candidate.sources), note


def place(lasts: float, start: float, end: float) -> tuple[float, float]:
    """Where the segment [start, end) of a recording lies in a file of `lasts` seconds; nowhere if end <= start.

    Downloaders keep the segment alone, so a file about as long as the segment, or shorter, is the segment; a file
    that is longer is the whole recording, which is cut.
    """
    if lasts <= end - start + _SLACK_S:
        return 0.0, min(lasts, end - start)
    return start, min(lasts, end)


def has_words(captions: Iterable[str]) -> bool:
    """Whether every caption has a letter, and there is one."""
    captions = tuple(captions)
    return bool(captions) and all(any(c.isalpha() for c in caption) for caption in captions)


def tidy(text: object) -> str:
    """Text without line breaks and double spaces; what is no text is empty."""
    return " ".join(text.split()) if isinstance(text, str) else ""


def find_table(folder: Path, name: str) -> Path:
    """Return the table of this name in a folder or, if it is not there, in the one subfolder that has it.

    Raises FileNotFoundError if there is none, ValueError if two subfolders have one.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    found = [folder / name] if (folder / name).is_file() else sorted(folder.glob(f"*/{name}"))
    if not found:
        raise FileNotFoundError(f"{folder}: holds no {name}, nor does any folder in it")
    if len(found) > 1:
        raise ValueError(f"{folder}: which {name} is meant, {' or '.join(str(p.relative_to(folder)) for p in found)}? "
                         f"Copy one into {folder.name} itself")
    return found[0]


def table(path: Path, listing: Listing, columns: Collection[str], header: Sequence[str] | None = None,
          name: str | None = None) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (where, row) of a csv; rows with too few or too many cells or bytes that are not utf-8 are problems.

    columns must be in the first row, or header names them and lines that start with # are comments (AudioSet). name
    is what `where` calls the table, by default its file name. Raises FileNotFoundError, or ValueError for missing
    columns or a quote that is not closed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table")
    # One bad byte should cost one row, not the table: what cannot be decoded becomes U+FFFD, and is found there.
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    names, line = header, 0
    try:
        for cells in reader:
            where, line = f"{name or path.name} line {line + 1}", reader.line_num
            if not cells or header is not None and cells[0].startswith("#"):
                continue
            if names is None:
                names = [cell.strip() for cell in cells]
                if not set(columns) <= set(names):
                    raise ValueError(f"{path}: wanted columns {', '.join(columns)}, got {', '.join(names)}")
            elif any("\ufffd" in cell for cell in cells):
                listing.problem("not utf-8", where, f"bytes that are not utf-8 in {' | '.join(cells)!r}")
            elif len(cells) != len(names):
                few = "few" if len(cells) < len(names) else "many"
                listing.problem(f"too {few} columns", where, f"{len(cells)} columns, wanted {', '.join(names)}")
            else:
                yield where, dict(zip(names, (cell.strip() for cell in cells), strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, the row that starts on line {line + 1}: {error}; is a quote not closed?") from error
    if names is None:
        raise ValueError(f"{path}: wanted columns {', '.join(columns)}, got an empty table")


def audio_files(folder: Path) -> Iterator[Path]:
    """Audio files anywhere below a folder, hidden ones left out, in the order of their names."""
    seen = set()
    for home, folders, files in os.walk(folder, followlinks=True):  # audio often lies on another disk, behind a link
        folders[:] = sorted(name for name in folders if name[0] != ".") if os.path.realpath(home) not in seen else []
        seen.add(os.path.realpath(home))
        for name in sorted(files):
            if name[0] != "." and name.lower().endswith(SUFFIXES):
                yield Path(home, name)
