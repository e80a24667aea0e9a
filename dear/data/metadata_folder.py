"""A folder of audio as the library `datasets` reads it: files, and a metadata.csv or metadata.jsonl beside them.

The layout is that of the builder `audiofolder` (huggingface.co/docs/datasets/audio_dataset): a metadata file needs a
column file_name, a path relative to the metadata file's own folder; there may be one metadata file in each folder of a
split (train/metadata.csv), all of the same kind. Here another column holds the caption; in jsonl, also several in a
list. A folder as `dear train --data` reads it, with a captions.csv (filename,caption) and its files beside it or in the
subfolder audio/, will do too.
"""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from dear.data.corpus import LIMIT, SECONDS, Corpus
from dear.data.listing import Candidate, Listing, table, tidy

CAPTIONS = ("caption", "captions", "text")
OWN = "captions.csv"


def metadata_folder(folder: Path, caption: str | None = None, *, seconds: float = SECONDS, limit: float = LIMIT,
                    progress: bool = False) -> Corpus:
    """List the files that the metadata files anywhere below the folder name, or its captions.csv if there is none.

    caption: its column; None is the first of caption, captions, text that is there. Raises FileNotFoundError if there
    is neither, ValueError for two kinds of them, parquet or a missing column, TooManyProblems above the limit.
    """
    tables = sorted(path for path in folder.rglob("metadata.*") if path.suffix in (".csv", ".jsonl", ".parquet"))
    kinds = sorted({path.suffix for path in tables})
    own, named = folder / OWN, "file_name"
    if not tables and own.is_file():
        tables, kinds, named = [own], [".csv"], "filename"
    if not tables:
        raise FileNotFoundError(f"{folder}: holds no metadata.csv or metadata.jsonl, nor does any folder in it; nor "
                                f"has it a {OWN}")
    if kinds == [".parquet"] or len(kinds) > 1:
        raise ValueError(f"{folder}: wanted metadata.csv or metadata.jsonl, one kind in all folders, got "
                         f"{' and '.join('metadata' + kind for kind in kinds)}")
    listing = Listing()
    for path in tables:
        here, column = path.relative_to(folder), None
        rows = _jsonl(path, listing, str(here))
        if kinds == [".csv"]:
            rows = table(path, listing, [named], name=str(here))
        for where, row in rows:
            column = column or _column(path, row, named, caption)
            name, said = row.get(named), row.get(column)
            place = PurePosixPath(here.parent, name if isinstance(name, str) else "")
            if not isinstance(name, str) or not name or place.is_absolute() or ".." in place.parts:
                listing.problem("bad id", where, f"wanted the path of a file in the folder, got {named} {name!r}")
                continue
            if path == own and not (folder / place).is_file():
                place = PurePosixPath("audio", place)
            captions = tuple(tidy(one) for one in (said if isinstance(said, list) else [said]))
            # Percent signs keep the id free of dots, and two names never give one id.
            key = f"folder/{quote(place.as_posix()).replace('.', '%2E')}"
            listing.add(Candidate(where, key, str(folder / place), captions))
    return listing.corpus(f"folder {folder.name}", seconds=seconds, limit=limit, progress=progress)


def _column(path: Path, row: dict, named: str, caption: str | None) -> str:
    """The column of the captions, by a table's first row. Raises ValueError if it or that of files is missing."""
    names = CAPTIONS if caption is None else (caption,)
    found = next((name for name in names if name in row), None)
    if found is None or named not in row:
        raise ValueError(f"{path}: wanted columns {named} and {' or '.join(names)}, got {', '.join(row)}")
    return found


def _jsonl(path: Path, listing: Listing, name: str) -> Iterator[tuple[str, dict]]:
    """Yield (where, row) of a file with a json object on each line; other lines are problems."""
    for i, line in enumerate(path.read_bytes().split(b"\n"), 1):
        where = f"{name} line {i}"
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            listing.problem("not utf-8", where, f"bytes that are not utf-8 ({error.reason} at {error.start})")
            continue
        except json.JSONDecodeError as error:
            listing.problem("not json", where, f"not a json object ({error})")
            continue
        if isinstance(row, dict):
            yield where, row
        else:
            listing.problem("not json", where, f"wanted a json object, got a {type(row).__name__}")
