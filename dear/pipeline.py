"""TextToAudio: from a prompt to a waveform, for student and teacher alike."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from dear import components
from dear.audio import SAMPLE_RATE, within_full_scale
from dear.backbone import BackboneConfig, MaskedTransformer
from dear.decoding import check_dials, decode
from dear.head import AdaLNHead, HeadConfig
from dear.objectives.diffusion import Diffusion
from dear.objectives.energy import Energy
from dear.pretrained import from_reference
from dear.text import TextConfig, TextEncoder, read_captions
from dear.text_pretrained import Clap, FlanT5, FlanT5AndClap
from dear.vae import VAE, VAEConfig
from dear.vae_pretrained import PretrainedVAE
from dear.vocoder import griffin_lim
from dear.vocoder_pretrained import HifiGan

OBJECTIVES = {"energy": Energy, "diffusion": Diffusion}
SHIPPED = {
    "soundworld": "student",
    "soundworld-teacher": "teacher",
    "soundworld-without-distillation": "student_without_distillation",
}
_PARTS = {
    "text": (TextEncoder, TextConfig),
    "vae": (VAE, VAEConfig),
    "backbone": (MaskedTransformer, BackboneConfig),
    "head": (AdaLNHead, HeadConfig),
}
# What may stand in their places, and in the vocoder's; a saved model names these and does not copy them.
_PRETRAINED = {kind.__name__: kind for kind in (FlanT5, Clap, FlanT5AndClap, PretrainedVAE, HifiGan)}


@dataclass(frozen=True)
class Settings:
    """What a model was trained with and how it is best drawn from; stored as model.json.

    objective: "energy" (student) or "diffusion" (teacher).  guidance: where it acts, on h ("hidden") or on the
    "prediction".  sampling_steps: calls of the head a token.  objective_arguments: what the objective is built with,
    where that is not its default (a teacher of the noise draws nonsense if it is read as one of v).
    """

    objective: str = "energy"
    guidance: str = "hidden"
    guidance_scale: float = 3.0
    guidance_schedule: str = "constant"
    num_inference_steps: int = 16
    sampling_steps: int = 1
    temperature: float = 1.0
    temperature_schedule: str = "constant"
    objective_arguments: dict = field(default_factory=dict)

    def __post_init__(self):
        check_dials(self.guidance_scale, self.guidance, self.guidance_schedule, self.temperature,
                    self.temperature_schedule)


@dataclass(frozen=True)
class AudioOutput:
    """audios (B, S) float32 in [-1, 1], their sampling rate in Hz, and the log-mels (B, T, 64) they were made from."""

    audios: Tensor
    sampling_rate: int
    log_mels: Tensor


class TextToAudio:
    """A text encoder, a backbone, a head, a VAE and a vocoder, called as one.

    objective: what draws with the head, in place of the one that the settings name; it is not saved.
    """

    def __init__(
        self,
        text: nn.Module,
        backbone: nn.Module,
        head: nn.Module,
        vae: nn.Module,
        settings: Settings,
        vocoder: Callable[..., Tensor] = griffin_lim,
        objective=None,
    ):
        if settings.objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {settings.objective!r}")
        if backbone.config.pooled_dim and not hasattr(text, "pooled"):
            raise ValueError(f"the backbone wants a pooled vector of {backbone.config.pooled_dim} a caption, which the "
                             f"text encoder {type(text).__name__} does not give")
        self.text, self.backbone, self.head, self.vae = text, backbone, head, vae
        self.settings, self.vocoder = settings, vocoder
        self.objective = objective or OBJECTIVES[settings.objective](**settings.objective_arguments)

    @classmethod
    def from_pretrained(cls, name: str | Path) -> "TextToAudio":
        """Model by name: "soundworld" and its kin (shipped), a folder that `save_pretrained` wrote, or a hub name.

        A shipped name or an existing folder never touches the network, unless parts of it are named on the hub. Raises
        FileNotFoundError with what was tried, and ValueError if the files are not those of a model.
        """
        file = _find(name) / "model.json"
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
            told = {part: settings["parts"][part] for part in _PARTS}
            if "vocoder" in settings["parts"]:
                told["vocoder"] = settings["parts"]["vocoder"]
            settings = Settings(**{k: v for k, v in settings.items() if k != "parts"})
            parts = {part: from_reference(at, _PRETRAINED) if isinstance(at, dict)
                     else components.load(*_PARTS[part], file.parent / at) for part, at in told.items()}
            return cls(**parts, settings=settings)
        except (TypeError, KeyError, ValueError) as error:  # json's own error is a ValueError
            raise ValueError(f"{file} is not a model of this version: {error}") from error

    def save_pretrained(
        self, folder: str | Path, dtype: torch.dtype | None = None, shared: dict[str, str] | None = None
    ) -> None:
        """Save all parts and settings; model.json goes first and comes last, so that a half-saved folder is no model.

        Of a pretrained part, model.json keeps what it is loaded from (`dear.pretrained.reference`) in place of a copy.
        Of vocoders only a pretrained one is kept; a model without one comes back with Griffin-Lim.
        `dtype` is that of the stored weights. `shared` names parts that already lie elsewhere, as paths relative to
        `folder` (for example {"vae": "../vae"}), which are then referred to, not copied.
        """
        folder, paths = Path(folder), {}
        if unknown := set(shared or {}) - set(_PARTS):
            raise ValueError(f"shared may name {', '.join(_PARTS)}, got {', '.join(sorted(unknown))}")
        (folder / "model.json").unlink(missing_ok=True)
        for part in _PARTS:
            network = getattr(self, part)
            paths[part] = (shared or {}).get(part, getattr(network, "reference", part))
            if paths[part] == part:
                components.save(network, folder / part, dtype)
        if hasattr(self.vocoder, "reference"):
            paths["vocoder"] = self.vocoder.reference
        components.write_json(folder / "model.json", {**dataclasses.asdict(self.settings), "parts": paths})

    def to(self, device) -> "TextToAudio":
        """Move all parts to a device."""
        for part in (*(getattr(self, name) for name in _PARTS), self.vocoder):
            if isinstance(part, nn.Module):
                part.to(device)
        return self

    @torch.no_grad()
    def tokens(self, prompts: Sequence[str], generator: torch.Generator, **settings) -> Tensor:
        """Tokens (B, N, D) drawn for prompts; keyword settings override those of the model (see `decode`)."""
        chosen = dataclasses.asdict(self.settings) | {k: v for k, v in settings.items() if v is not None}
        del chosen["objective"], chosen["objective_arguments"]
        vectors, mask, pooled = read_captions(self.text, prompts, self.backbone.config.pooled_dim > 0)
        return self.draw(vectors, mask, generator=generator, pooled=pooled, **chosen)

    def draw(self, text: Tensor, text_mask: Tensor, **options) -> Tensor:
        """Tokens (B, N, D) of encoded prompts, by `decode`; `dear.fast` has a quicker way to the same."""
        return decode(self.backbone, self.head, self.objective, text, text_mask, **options)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        num_waveforms_per_prompt: int = 1,
        sampling_steps: int | None = None,
    ) -> AudioOutput:
        """Draw waveforms for one prompt or a list of them; prompts vary slowest in the batch.

        num_inference_steps: iterations of parallel decoding, 1 to the number of tokens. guidance_scale: 1 is none.
        sampling_steps: calls of the head a token (a diffusion teacher only). What is None is the model's own setting.
        A clip that would leave [-1, 1] is scaled down as a whole, with a warning.
        A model of the same seed gives the same sound on the same machine; without a generator every call differs.
        """
        if num_waveforms_per_prompt < 1:
            raise ValueError(f"num_waveforms_per_prompt must be at least 1, got {num_waveforms_per_prompt}")
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if not isinstance(prompts, Sequence) or not prompts:
            raise ValueError(f"prompt must be a sentence or a non-empty list of sentences, got {prompt!r}")
        if generator is None:
            generator = torch.Generator(next(self.backbone.parameters()).device)
            generator.seed()
        prompts = [p for p in prompts for _ in range(num_waveforms_per_prompt)]
        tokens = self.tokens(
            prompts,
            generator,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            sampling_steps=sampling_steps,
        )
        return self.waveforms(tokens, generator)

    @torch.no_grad()
    def waveforms(self, tokens: Tensor, generator: torch.Generator) -> AudioOutput:
        """Waveforms of tokens (B, N, D): VAE decoder and vocoder, the second half of a call."""
        log_mels = self.vae.decode(tokens, generator)
        audios = torch.stack([within_full_scale(wave, 5) for wave in self.vocoder(log_mels, generator)])
        return AudioOutput(audios, SAMPLE_RATE, log_mels)


def fingerprint(folder: Path) -> str:
    """First 12 hex digits of the hash of a model's stored weights: which model something was made with.

    Of pretrained parts the names are hashed.
    """
    digest = hashlib.sha256()
    paths = json.loads((folder / "model.json").read_text(encoding="utf-8"))["parts"]
    for part in sorted(paths):
        at = paths[part]
        digest.update(json.dumps(at, sort_keys=True).encode() if isinstance(at, dict)
                      else (folder / at / "model.safetensors").read_bytes())
    return digest.hexdigest()[:12]


def _find(name: str | Path) -> Path:
    if name in SHIPPED:
        folder = components.WEIGHTS / SHIPPED[name]
        if not (folder / "model.json").is_file():
            raise FileNotFoundError(f"the shipped model {name!r} is not at {folder}; run `dear train all` to make it")
        return folder
    if Path(name).is_dir():
        if not (Path(name) / "model.json").is_file():
            raise FileNotFoundError(f"the folder {name} has no model.json; wanted one that save_pretrained wrote")
        return Path(name)
    if str(name).count("/") != 1:
        raise FileNotFoundError(
            f"no model {str(name)!r}: it is neither one of {', '.join(SHIPPED)}, "
            "nor a folder, nor a hub name (owner/name)"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:
        raise FileNotFoundError(
            f"no folder {name} here, and the hub did not give a model of that name "
            f"({type(error).__name__}); download it elsewhere and pass its folder"
        ) from error
