"""AudioSet: segments of videos with labels, and captions made from the labels.

The layout is that of research.google.com/audioset/download.html: balanced_train_segments.csv,
unbalanced_train_segments.csv and eval_segments.csv begin with three comment lines, of which the third names the
columns, and go on with rows such as

    -0RWZT-miFs, 420.000, 430.000, "/m/03v3yw,/m/0k4j"

(video, start and end in seconds, labels); class_labels_indices.csv (index,mid,display_name) says what the labels mean.
The audio is not published. Downloads keep each segment as a file of its own, named by the video (the data set
agkphysics/AudioSet), by Y and the video (PANNs, and so WavCaps), or by the video and its start in seconds (the package
aac-datasets) or in milliseconds (Google's own segment ids, research.google.com/audioset/download_strong.html).
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dear.data.corpus import SECONDS, YOUTUBE_LIMIT, Corpus, Finding
from dear.data.listing import Candidate, Exclusion, Listing, audio_files, find_table, table

SPLITS = ("balanced_train", "unbalanced_train", "eval")
COLUMNS = ("YTID", "start_seconds", "end_seconds", "positive_labels")
_VIDEO = re.compile(r"[A-Za-z0-9_-]{11}")


def audioset(folder: Path, split: str = "balanced_train", *, exclude: Iterable[Exclusion],
             seconds: float = SECONDS, limit: float = YOUTUBE_LIMIT, progress: bool = False) -> Corpus:
    """List the segments of a split whose audio is somewhere below the folder; `Corpus.subset` takes hours of them.

    exclude: AudioCaps is cut from AudioSet, so name its test set here (`audiocaps.exclusion`) before you train.
    A clip keeps the labels that class_labels_indices.csv knows, and is skipped if there are none. Raises
    FileNotFoundError or ValueError for a table, TooManyProblems above the limit.
    """
    if split not in SPLITS:
        raise ValueError(f"the split of AudioSet must be one of {', '.join(SPLITS)}, got {split!r}")
    listing, names = Listing(), label_names(find_table(folder, "class_labels_indices.csv"))
    rows = table(find_table(folder, f"{split}_segments.csv"), listing, COLUMNS, header=COLUMNS)
    files = files_by_name(folder)
    for where, row in rows:
        mids = [mid for mid in row["positive_labels"].split(",") if mid]
        known, unknown = [mid for mid in mids if mid in names], [mid for mid in mids if mid not in names]
        if unknown:
            lacking = f"class_labels_indices.csv lacks {', '.join(unknown)}"
            listing.notes.append(Finding("unknown label", where, lacking))
        if not known:
            listing.problem("no known label", where, f"none of the labels {row['positive_labels']!r} has a name")
            continue
        add_segment(listing, where, "audioset", row["YTID"], row["start_seconds"], row["end_seconds"],
                    (caption_of(known, names),), files)
    return listing.corpus(f"audioset {split}", exclude=exclude, seconds=seconds, limit=limit, progress=progress)


def label_names(path: Path) -> dict[str, str]:
    """Names of the labels by machine id, in the order of their index. Raises ValueError for a row that is not whole."""
    listing = Listing()
    names = {row["mid"]: row["display_name"] for _, row in table(path, listing, ("index", "mid", "display_name"))}
    if listing.problems:
        raise ValueError(f"{path}: {listing.problems[0]}")
    return names


def caption_of(mids: Sequence[str], names: Mapping[str, str]) -> str:
    """Caption by the template "The sounds of a, b and c", or "The sound of a", labels in the order of `names`.

    A template, because it says what annotators confirmed and no more: a language model would add an order, a place or
    a number that nobody heard. It draws nothing, so that a clip has one caption, today and tomorrow. The words are
    those with which LAION-CLAP turns labels into captions (Wu et al., arXiv 2211.06687).
    """
    chosen = set(mids)
    said = [name.lower() for mid, name in names.items() if mid in chosen]
    if len(said) == 1:
        return f"The sound of {said[0]}"
    return f"The sounds of {', '.join(said[:-1])} and {said[-1]}"


def files_by_name(folder: Path) -> dict[str, str]:
    """Audio files below a folder by their names without suffix; of two with one name, the first in order of paths."""
    files: dict[str, str] = {}
    for file in audio_files(folder):
        files.setdefault(file.stem, str(file))
    return files


def add_segment(listing: Listing, where: str, corpus: str, video: str, start: str, end: str | None,
                captions: tuple[str, ...], files: Mapping[str, str]) -> None:
    """Add a segment of a video (start and end in seconds, as written; no end: 10 s later), or the problem that it is.

    Its id is Google's own: the video, and the start in milliseconds.
    """
    if not is_video(video):
        listing.problem("bad id", where, f"{video!r} is not the id of a video, 11 of A-Z a-z 0-9 - _")
        return
    first = _seconds(start)
    last = first + 10 if end is None else _seconds(end)
    if not 0 <= first < last < math.inf:
        listing.problem("bad times", where, f"{video} from {start!r} to {'10 s later' if end is None else repr(end)}")
        return
    milliseconds = round(first * 1000)
    stems = (f"{prefix}{video}{tail}" for tail in (f"_{milliseconds}", f"_{first:g}", "") for prefix in ("", "Y"))
    path = next((files[stem] for stem in stems if stem in files), None)
    listing.add(Candidate(where, f"{corpus}/{video}_{milliseconds}", path, captions, (f"youtube:{video}",),
                          (first, last)))


def is_video(text: str) -> bool:
    """Whether a text has the form of a video's id."""
    return _VIDEO.fullmatch(text) is not None


def _seconds(text: str) -> float:
    """The number that a cell holds, NaN if it holds none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
