"""Clips to the samples of a shard: a latent and text vectors, made by encoders that are found by name."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dear.audio import log_mel
from dear.components import WEIGHTS, digest, load
from dear.data.corpus import Clip
from dear.text import TextConfig, TextEncoder
from dear.text_pretrained import Clap, FlanT5, FlanT5AndClap
from dear.vae import DECODING, VAE, VAEConfig, patchify
from dear.vae_pretrained import PretrainedVAE


class Refused(ValueError):
    """Why an encoder gives no vectors of a clip. kind: "caption refused" or "not finite"."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind, self.reason = kind, reason


def load_encoders(vae: str = "soundworld", text: Sequence[str] = ("soundworld",),
                  device: str = "cpu") -> tuple[nn.Module, nn.Module]:
    """Return a VAE and a text encoder, frozen, on a device.

    vae: "soundworld" is the one that is shipped; a folder that `dear train vae` wrote; else a folder or a hub name with
    a VAE of diffusers, in the subfolder vae or, of a folder, in itself. text: "soundworld", or a folder that `dear
    train text` wrote, or "t5:NAME", "clap:NAME" or both, with a folder or a hub name.
    """
    found = _vae(vae), _text(text)
    return tuple(part.to(device).eval().requires_grad_(False) for part in found)


def _vae(name: str) -> nn.Module:
    folder = WEIGHTS / "vae" if name == "soundworld" else Path(name)
    config = _config(folder)
    if "steps_per_token" in config:
        return load(VAE, VAEConfig, folder)
    return PretrainedVAE(name, "" if config else "vae")


def _text(names: Sequence[str]) -> nn.Module:
    kinds = {name.partition(":")[0]: name.partition(":")[2] for name in names}
    if len(names) == 1 and kinds.keys().isdisjoint(("t5", "clap")):
        return load(TextEncoder, TextConfig, WEIGHTS / "text" if names[0] == "soundworld" else Path(names[0]))
    if not kinds or len(kinds) < len(names) or not kinds.keys() <= {"t5", "clap"} or not all(kinds.values()):
        raise ValueError(f"the text encoder must be soundworld, a folder, t5:NAME, clap:NAME or one each of the last "
                         f"two, got {', '.join(names) or 'none'}")
    parts = [kind(kinds[key]) for key, kind in (("t5", FlanT5), ("clap", Clap)) if key in kinds]
    return FlanT5AndClap(*parts) if len(parts) == 2 else parts[0]


def _config(folder: Path) -> dict:
    """What the config.json of a folder says; nothing if there is none."""
    path = folder / "config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def fingerprint(encoder: nn.Module) -> str:
    """First 12 hex digits of the hash of an encoder's weights, sizes and words, wherever it was loaded from."""
    told = [type(encoder).__name__, str(getattr(encoder, "config", ""))]
    for part in encoder.modules():
        told.append(str(getattr(part, "length", "")))  # captions are cut there
        told.append(str(getattr(getattr(part, "config", None), "scaling_factor", "")))
        told += sorted(part.tokenizer.get_vocab()) if hasattr(part, "tokenizer") else []
    return digest(told, *(v for k, v in sorted(encoder.state_dict().items()) if k.partition(".")[0] not in DECODING))


@torch.no_grad()
def latent(vae: nn.Module, waveform: Tensor, peak: float | None = None) -> dict[str, Tensor]:
    """Mean and standard deviation of a clip's posterior as tokens (N, D) float16, of a waveform (S,) at 16 kHz.

    peak: remove the clip's offset and scale it to this peak first, as AudioLDM does with 0.5; None leaves it alone.
    """
    if peak is not None:
        waveform = waveform - waveform.mean()
        waveform = waveform * (peak / waveform.abs().max().clamp(min=1e-8))
    mel = log_mel(waveform.to(next(vae.parameters()).device))
    parts = (patchify(part, vae.config.steps_per_token)[0] for part in vae.scaled_posterior(mel[None]))
    return _half(dict(zip(("mean", "std"), parts, strict=True)))


@torch.no_grad()
def text_vectors(text: nn.Module, clip: Clip) -> dict[str, Tensor]:
    """Vectors (K, L, E) float16 and mask (K, L) bool of a clip's K captions; pooled (K, P) if the encoder has it.

    Raises Refused for a caption that the encoder does not take.
    """
    try:
        vectors, mask = text.encode(clip.captions)
        pooled = {"pooled": text.pooled(clip.captions)} if hasattr(text, "pooled") else {}
    except ValueError as error:
        raise Refused("caption refused", str(error)) from error
    return _half({"vectors": vectors, **pooled}) | {"mask": mask.cpu()}


def _half(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    halves = {name: part.cpu().half() for name, part in parts.items()}
    bad = [name for name, part in halves.items() if not part.isfinite().all()]
    if bad:
        raise Refused("not finite", f"{' and '.join(bad)} left the range of float16")
    return halves
