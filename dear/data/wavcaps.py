"""WavCaps: 400,000 recordings of four sources with captions that a language model made from their descriptions.

The layout is that of the data set cvssp/WavCaps: json_files/AudioSet_SL/as_final.json,
json_files/BBC_Sound_Effects/bbc_final.json, json_files/FreeSound/fsd_final.json and
json_files/SoundBible/sb_final.json, each {"num_captions_per_audio": 1, "data": [{"id", "caption", "duration", ...},
...]}. FreeSound's fsd_final_2s.json beside it names recordings of the same source, and is not read. The zip files
unpack to .../waveforms/AudioSet_SL_flac and so on, often renamed to AudioSet_SL: a file is <id>.flac below a folder of
either name. Ids of AudioSet_SL are those of PANNs, "Y" + video + ".wav"; the others have no suffix.

json_files/blacklist/blacklist_exclude_test_ac.json, {"AudioSet": ["YvfY_TJq7n_U.wav", ...], "FreeSound": ["112199",
...]}, holds what the authors left out of their own trainings for the sake of test sets, AudioCaps' among them.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from dear.data.audioset import is_video
from dear.data.corpus import LIMIT, SECONDS, Corpus
from dear.data.folder import SUFFIXES
from dear.data.listing import Candidate, Exclusion, Listing, audio_files, tidy

TABLES = {"AudioSet_SL": "as_final.json", "BBC_Sound_Effects": "bbc_final.json", "FreeSound": "fsd_final.json",
          "SoundBible": "sb_final.json"}
BLACKLIST = Path("json_files", "blacklist", "blacklist_exclude_test_ac.json")
_SITES = {"AudioSet_SL": "youtube", "BBC_Sound_Effects": "bbc", "FreeSound": "freesound", "SoundBible": "soundbible"}
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def wavcaps(folder: Path, *, exclude: Iterable[Exclusion], seconds: float = SECONDS, limit: float = LIMIT,
            progress: bool = False) -> Corpus:
    """List the recordings of every source whose json file is there and whose flac files lie below the folder.

    exclude: recordings to leave out, first of all AudioCaps' test set (`audiocaps.exclusion`); the published blacklist
    is added where it is in its place. Raises FileNotFoundError if there is no json file, ValueError if one is not as
    published, TooManyProblems above the limit.
    """
    tables = {source: folder / "json_files" / source / name for source, name in TABLES.items()}
    tables = {source: path for source, path in tables.items() if path.is_file()}
    if not tables:
        names = ", ".join(f"json_files/{source}/{name}" for source, name in TABLES.items())
        raise FileNotFoundError(f"{folder}: holds none of {names}")
    exclude = list(exclude)
    if (folder / BLACKLIST).is_file():
        exclude.append(blacklist(folder / BLACKLIST))
    listing, files = Listing(), _files(folder)
    for source, path in tables.items():
        for i, item in enumerate(_items(path)):
            _add(listing, f"{path.name} item {i}", source, item, files)
    return listing.corpus(f"wavcaps {' '.join(tables)}", exclude=exclude, seconds=seconds, limit=limit,
                          progress=progress)


def blacklist(path: Path) -> Exclusion:
    """The recordings that a published blacklist names. Raises ValueError if it does not look like one."""
    found = _load(path)
    if not isinstance(found, dict) or not {"AudioSet", "FreeSound"} <= set(found):
        raise ValueError(f"{path}: wanted lists named AudioSet and FreeSound, got {_keys(found)}")
    videos = {f"youtube:{_stem(name).removeprefix('Y')}" for name in found["AudioSet"]}
    return Exclusion(f"in {path.name}", frozenset(videos | {f"freesound:{_stem(name)}" for name in found["FreeSound"]}))


def _add(listing: Listing, where: str, source: str, item: object, files: dict[tuple[str, str], str]) -> None:
    """Add one item of "data", or the problem that it is."""
    if not isinstance(item, dict) or "id" not in item or "caption" not in item:
        listing.problem("no id or caption", where, f"wanted an object with id and caption, got {_keys(item)}")
        return
    name = _stem(item["id"])
    # A slash would lead out of the source's folder, and a video's id is what the test set is recognised by.
    if not _NAME.fullmatch(name) or source == "AudioSet_SL" and not (name[0] == "Y" and is_video(name[1:])):
        wanted = "Y and the id of a video" if source == "AudioSet_SL" else "letters, digits, - and _"
        listing.problem("bad id", where, f"wanted {wanted}, got the id {item['id']!r}")
        return
    recording = f"{_SITES[source]}:{name[1:] if source == 'AudioSet_SL' else name}"
    listing.add(Candidate(where, f"wavcaps/{source}/{name}", files.get((source, name)), (tidy(item["caption"]),),
                          (recording,)))


def _items(path: Path) -> list:
    found = _load(path)
    items = found.get("data") if isinstance(found, dict) else None
    if not isinstance(items, list):
        raise ValueError(f'{path}: wanted an object with a list "data", got {_keys(found)}')
    return items


def _load(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not json ({error}); was the download whole?") from error


def _keys(value: object) -> str:
    return f"keys {', '.join(value) or 'none'}" if isinstance(value, dict) else f"a {type(value).__name__}"


def _stem(name: object) -> str:
    """An id without the suffix of an audio file; ids are texts, but a number is understood."""
    text = str(name)
    return text[: text.rindex(".")] if text.lower().endswith(SUFFIXES) else text


def _files(folder: Path) -> dict[tuple[str, str], str]:
    """Audio files by source and id; a source's folder is named after it, with or without _flac."""
    files: dict[tuple[str, str], str] = {}
    for file in audio_files(folder):
        parts = (part.removesuffix("_flac") for part in file.relative_to(folder).parts[:-1])
        source = next((part for part in parts if part in TABLES), None)
        if source is not None:
            files.setdefault((source, file.stem), str(file))
    return files
