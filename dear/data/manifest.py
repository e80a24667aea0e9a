"""The manifest of a folder of shards: what is in them, how it was made, and how to tell that it is whole."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from dear.components import digest, write_json
from dear.data.corpus import Corpus

FILE = "manifest.json"
VERSION = 1


@dataclass
class Manifest:
    """manifest.json of a folder.

    settings: what decides the bytes of the shards. shards: name -> clips, captions, seconds of sound, bytes, sha256,
    skipped (id, kind, reason). encoders: vae and text as `dear.data.encoding.load_encoders` takes them, by which
    training finds again what settings know by their fingerprints; None in folders made before it was kept. It holds
    nothing of how often or how fast the work was done, so that equal folders have equal manifests.
    """

    folder: Path
    corpus: str
    settings: dict
    shards: dict[str, dict] = field(default_factory=dict)
    encoders: dict | None = None

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Raises FileNotFoundError if there is none, ValueError if it is of another version or damaged."""
        path = folder / FILE
        if not path.is_file():
            raise FileNotFoundError(f"{folder} has no {FILE}: wanted a folder that `dear data prepare` wrote")
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            if told["version"] != VERSION:
                raise ValueError(f"version {told['version']}, this is {VERSION}")
            return cls(folder, told["corpus"], told["settings"], told["shards"], told.get("encoders"))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no manifest that can be read ({error}); move the folder away") from error

    @classmethod
    def gather(cls, folder: Path) -> "Manifest":
        """Of a folder of whole shards or, if it holds several such folders, of all of them as one.

        Shards are then named by their paths in the folder. Raises as `read` does, and ValueError if a folder is not
        finished or if they were not made with the same encoders, length of clips and peak.
        """
        found = [cls.read(one) for one in shard_folders(folder) or [folder]]
        for one in found:
            if not one.whole:
                raise ValueError(f"{one.folder} is not finished ({len(one.shards)} shards); the same `dear data "
                                 "prepare` continues it")
        if found[0].folder == folder:
            return found[0]
        for name in ("vae", "text", "seconds", "peak"):
            if len({one.settings[name] for one in found}) > 1:
                told = ", ".join(f"{one.folder.name} {one.settings[name]}" for one in found)
                raise ValueError(f"the folders of shards in {folder} cannot be read together, their {name} differs "
                                 f"({told}); prepare them with the same options, or take one of them")
        shards = {f"{one.folder.name}/{name}": entry for one in found for name, entry in one.shards.items()}
        settings = found[0].settings | {"clips": sum(one.settings["clips"] for one in found)}
        encoders = next((one.encoders for one in found if one.encoders), None)  # older folders do not say
        return cls(folder, " + ".join(one.corpus for one in found), settings, shards, encoders)

    @classmethod
    def open(cls, folder: Path, corpus: str, settings: dict, encoders: dict | None = None) -> "Manifest":
        """The folder's manifest, or a new one. Raises ValueError if the folder was made with other settings.

        The same encoders may lie elsewhere by now: where they are is then written anew.
        """
        if not (folder / FILE).exists():
            return cls(folder, corpus, settings, encoders=encoders)
        found = cls.read(folder)
        keys = [k for k in found.settings | settings if found.settings.get(k) != settings.get(k)]
        if keys:
            other = ", ".join(f"{k} {found.settings.get(k)} -> {settings.get(k)}" for k in keys)
            raise ValueError(f"{folder} was made with other settings ({other}); use the same to continue "
                             "it, or another folder")
        if encoders not in (None, found.encoders):
            found = replace(found, encoders=encoders)
            found.write()
        return found

    def add(self, name: str, entry: dict) -> None:
        """Enter a whole shard, on disk too."""
        replace(self, shards=self.shards | {name: entry}).write()
        self.shards[name] = entry

    def write(self) -> None:
        """Write the file beside, then rename."""
        shards = dict(sorted(self.shards.items()))
        told = {} if self.encoders is None else {"encoders": self.encoders}
        write_json(self.folder / FILE, {"version": VERSION, "corpus": self.corpus, "settings": self.settings, **told,
                                        "totals": self.totals, "shards": shards})

    @property
    def totals(self) -> dict[str, float]:
        """Clips, captions, hours of sound, bytes and skipped clips of all shards."""
        entries = [self.shards[name] for name in sorted(self.shards)]
        counted = {key: sum(entry[key] for entry in entries) for key in ("clips", "captions", "bytes")}
        return counted | {"hours": round(sum(entry["seconds"] for entry in entries) / 3600, 6),
                          "skipped": sum(len(entry["skipped"]) for entry in entries)}

    @property
    def fingerprint(self) -> str:
        """First 12 hex digits of the hash of all shards' checksums: which data something was made with."""
        return digest(self.shards[name]["sha256"] for name in sorted(self.shards))

    @property
    def whole(self) -> bool:
        """Whether every clip of the corpus is in a shard or was skipped."""
        return self.totals["clips"] + self.totals["skipped"] == self.settings["clips"]

    def far(self, shards: int) -> str:
        """How far the work is: of all `shards`, those that are done, and their clips."""
        done = self.totals["clips"] + self.totals["skipped"]
        return f"{len(self.shards)} of {shards} shards ({done} of {self.settings['clips']} clips)"


def shard_folders(folder: Path) -> list[Path]:
    """The folder itself if it has a manifest, else the folders in it that have one."""
    return [folder] if (folder / FILE).is_file() else [path.parent for path in sorted(folder.glob(f"*/{FILE}"))]


def shard_name(i: int) -> str:
    """File name of shard i."""
    return f"shard-{i:06d}.tar"


def corpus_digest(corpus: Corpus) -> str:
    """First 12 hex digits of the hash of all that a corpus says of its clips but where their files lie."""
    return digest(json.dumps([c.id, c.start, c.end, c.captions, c.sources]) for c in corpus.clips)
