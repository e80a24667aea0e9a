"""The corpora by name, for commands: audiocaps, wavcaps, audioset, and folder for one with metadata or captions.csv."""

from collections.abc import Sequence
from pathlib import Path

from dear.data.audiocaps import audiocaps, exclusion
from dear.data.audioset import audioset
from dear.data.corpus import Corpus
from dear.data.metadata_folder import metadata_folder
from dear.data.wavcaps import wavcaps

KINDS = {"audiocaps": audiocaps, "wavcaps": wavcaps, "audioset": audioset, "folder": metadata_folder}


def open_corpus(kind: str, folder: Path, *, exclude_audiocaps: Sequence[Path] = (), split: str | None = None,
                caption: str | None = None, **options) -> Corpus:
    """List a corpus. options: seconds, limit and progress, where they should not be those of its kind.

    split is for audiocaps and audioset, caption (a column) for folder; exclude_audiocaps names csv files of AudioCaps
    whose videos are left out. Raises ValueError for another kind or an option that it has not, and what the kind does.
    """
    if kind not in KINDS:
        raise ValueError(f"the kind of corpus must be one of {', '.join(KINDS)}, got {kind!r}")
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; wanted the tables of {kind} as published, and the audio")
    for name, value, kinds in (("split", split, ("audiocaps", "audioset")), ("caption", caption, ("folder",))):
        if value is not None and kind not in kinds:
            raise ValueError(f"a {name} is for {' and '.join(kinds)}, not for {kind}")
        if value is not None:
            options[name] = value
    if kind == "folder":
        if exclude_audiocaps:
            raise ValueError("a folder's files do not say which videos they are from, so that AudioCaps' cannot be "
                             "left out: take them out of its metadata")
        return metadata_folder(folder, **options)
    exclude = [exclusion(*exclude_audiocaps)] if exclude_audiocaps else []
    return KINDS[kind](folder, exclude=exclude, **options)
