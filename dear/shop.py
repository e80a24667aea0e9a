"""Where training from shards reads and writes: shards, the encoders that made them, and what completes a model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dear import processes
from dear.data.encoding import fingerprint, load_encoders
from dear.data.manifest import Manifest
from dear.data.sharded import ShardedLatents
from dear.recipes import Workshop
from dear.vocoder import griffin_lim
from dear.vocoder_pretrained import HifiGan


@dataclass(frozen=True)
class Shop(Workshop):
    """A Workshop whose `data` is the manifest of a folder of shards.

    sizes: tokens, token_dim, text_dim, text_length and pooled_dim, as a backbone has them.  parts: text, vae and
    vocoder for the finished models, on the main process; the others have none.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    parts: dict = field(default_factory=dict)

    def say(self, line: str) -> None:
        """Print a line, on the main process."""
        if self.progress:
            print(line)


def open_shop(folder: Path, runs: Path, out: Path, *, vae: str | None = None, text: Sequence[str] = (),
              vocoder: str | None = None, progress: bool = True) -> Shop:
    """Look at a folder of shards, and at its encoders, before anything is trained.

    vae, text: as `load_encoders` takes them, for shards whose manifest does not name its encoders or names places where
    they are no more.  vocoder: folder or hub name of a HiFi-GAN, None: Griffin-Lim.  Raises ValueError for encoders
    that the shards were not made with, and what loading raises.
    """
    manifest, parts = Manifest.gather(folder), {}

    def look() -> dict[str, int]:
        parts.update(_parts(manifest, vae, text, vocoder))
        clip = next(iter(ShardedLatents(folder, 1)))
        pooled = clip["pooled"].shape[1] if "pooled" in clip else 0
        (_, tokens, token_dim), text_dim = clip["tokens"].shape, clip["vectors"].shape[2]
        return {"tokens": tokens, "token_dim": token_dim, "text_dim": text_dim,
                "text_length": parts["text"].longest + bool(pooled), "pooled_dim": pooled}

    return Shop(manifest, runs, out, progress and processes.is_main(), processes.from_main(look), parts)


def _parts(manifest: Manifest, vae: str | None, text: Sequence[str], vocoder: str | None) -> dict:
    """VAE, text encoder and vocoder of the finished models; the first two have to be those that made the shards."""
    names = (manifest.encoders or {}) | {name: value for name, value in (("vae", vae), ("text", text)) if value}
    if missing := {"vae", "text"} - names.keys():
        raise ValueError(f"the manifest of {manifest.folder} does not say where its encoders are; tell it by "
                         f"{' and '.join(f'--{name}' for name in sorted(missing))}, as `dear data prepare` had them")
    try:
        found = dict(zip(("vae", "text"), load_encoders(names["vae"], names["text"]), strict=True))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; --vae and --text say where the shards' encoders are by now") from error
    for name, part in found.items():
        if (mark := fingerprint(part)) != manifest.settings[name]:
            raise ValueError(f"{manifest.folder} was made with a {name} of fingerprint {manifest.settings[name]}, "
                             f"{names[name]} has {mark}; name the one that made it by --{name}")
    within = "" if vocoder is None or (Path(vocoder) / "config.json").is_file() else "vocoder"
    return found | {"vocoder": griffin_lim if vocoder is None else HifiGan(vocoder, within)}
