"""AudioCaps: segments of AudioSet with captions that people wrote.

The layout is that of github.com/cdjkim/audiocaps: dataset/train.csv, val.csv and test.csv (and the same names in
dataset2.0) with the columns audiocap_id,youtube_id,start_time,caption. A row is a caption; in val and test the five
captions of a clip stand in five rows that are not neighbours. The audio is not published; how downloads name the 10 s
from start_time on is told in `dear.data.audioset`.
"""

from collections.abc import Iterable
from pathlib import Path

from dear.data.audioset import add_segment, files_by_name, is_video
from dear.data.corpus import SECONDS, YOUTUBE_LIMIT, Corpus
from dear.data.listing import Exclusion, Listing, find_table, has_words, table, tidy

SPLITS = ("train", "val", "test")
COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")


def audiocaps(folder: Path, split: str = "train", *, exclude: Iterable[Exclusion] = (), seconds: float = SECONDS,
              limit: float = YOUTUBE_LIMIT, progress: bool = False) -> Corpus:
    """List the clips of a split, each with all its captions, whose audio is somewhere below the folder.

    A row without a caption or with an audiocap_id that came before is a problem of its own; the clip keeps its other
    captions. Raises FileNotFoundError or ValueError for the table, TooManyProblems above the limit.
    """
    if split not in SPLITS:
        raise ValueError(f"the split of AudioCaps must be one of {', '.join(SPLITS)}, got {split!r}")
    listing = Listing()
    first_rows: dict[tuple[str, str], str] = {}
    captions: dict[tuple[str, str], list[str]] = {}
    seen: dict[str, str] = {}
    for where, row in table(find_table(folder, f"{split}.csv"), listing, COLUMNS):
        caption, segment = tidy(row["caption"]), (row["youtube_id"], row["start_time"])
        before = seen.setdefault(row["audiocap_id"], where)
        if before != where:
            listing.problem("duplicate id", where, f"audiocap_id {row['audiocap_id']} stands on {before} too")
        elif not has_words([caption]):
            listing.problem("empty caption", where, f"no word in the caption {caption!r}")
        else:
            first_rows.setdefault(segment, where)
            captions.setdefault(segment, []).append(caption)
    files = files_by_name(folder)
    for segment, said in captions.items():
        add_segment(listing, first_rows[segment], "audiocaps", *segment, None, tuple(said), files)
    return listing.corpus(f"audiocaps {split}", exclude=exclude, seconds=seconds, limit=limit, progress=progress)


def exclusion(*tables: Path) -> Exclusion:
    """The videos that AudioCaps tables name, to leave them out of other corpora.

    Raises FileNotFoundError, or ValueError for any row that cannot be read: a test clip that slips through is in the
    training data.
    """
    listing, videos = Listing(), set()
    for path in tables:
        for where, row in table(path, listing, ("youtube_id",)):
            if not is_video(row["youtube_id"]):
                listing.problem("bad id", where, f"{row['youtube_id']!r} is not the id of a video")
            videos.add(f"youtube:{row['youtube_id']}")
    if listing.problems:
        raise ValueError(f"cannot leave out all of AudioCaps' {' and '.join(p.name for p in tables)}: "
                         f"{listing.problems[0].where}: {listing.problems[0].what.removesuffix('; skipped')}")
    return Exclusion(f"in AudioCaps' {' and '.join(path.name for path in tables)}", frozenset(videos))
