"""The oracle: reads SoundWorld's labels back from a log-mel, and gives the features of the Frechet distance."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from dear.blocks import CENTRE, SPREAD, ConvBlock

ATTRIBUTES = ("relation", "kind", "pitch", "loudness", "kind", "pitch", "loudness")


@dataclass(frozen=True)
class OracleConfig:
    """Sizes of the oracle; `classes` counts the classes of relation, kind, pitch and loudness."""

    mels: int = 64
    frames: int = 256
    width: int = 128
    blocks: int = 3
    features: int = 64
    classes: tuple[int, int, int, int] = (3, 11, 3, 2)


class Oracle(nn.Module):
    """A small convolutional classifier with one head an attribute.

    Besides the labels it learns to read the hidden qualities (place in the register, rate, brightness), how far a
    log-mel was blurred, and how much of it was replaced by a twin with other qualities. Its features therefore see
    texture and coherence, which a classifier of labels alone would learn to ignore.
    """

    def __init__(self, config: OracleConfig = OracleConfig()):  # noqa: B008
        super().__init__()
        self.config = config
        self.stem = nn.Conv1d(config.mels, config.width, 5, stride=2, padding=2)
        self.down = nn.Conv1d(config.width, config.width, 5, stride=2, padding=2)
        self.blocks = nn.Sequential(*(ConvBlock(config.width) for _ in range(config.blocks)))
        self.project = nn.Linear(2 * 4 * config.width, config.features)
        names = dict(zip(("relation", "kind", "pitch", "loudness"), config.classes, strict=True))
        self.heads = nn.ModuleList(nn.Linear(config.features, names[a]) for a in ATTRIBUTES)
        self.qualities = nn.Linear(config.features, 6)
        self.damage = nn.Linear(config.features, 2)

    def features(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Features (B, 64) of log-mels (B, 256, 64): mean and maximum over each quarter of the clip, projected."""
        if log_mel.ndim != 3 or log_mel.shape[1:] != (self.config.frames, self.config.mels):
            shape = tuple(log_mel.shape)
            raise ValueError(f"log_mel must be (B, {self.config.frames}, {self.config.mels}), got {shape}")
        x = (log_mel.transpose(1, 2) - CENTRE) / SPREAD
        x = self.blocks(self.down(F.silu(self.stem(x))))
        quarters = x.unflatten(2, (4, -1))
        return self.project(F.silu(torch.cat([quarters.mean(3), quarters.amax(3)], 1)).flatten(1))

    def forward(self, log_mel: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
        """Logits of the 7 attributes (B, classes), qualities (B, 6), damage (B, 2).

        Damage is smoothness in [-1, 1] (above 0 blurred, below 0 grainy) and twice the spliced share, in [0, 1].
        """
        features = F.silu(self.features(log_mel))
        return [head(features) for head in self.heads], self.qualities(features), self.damage(features)

    @torch.no_grad()
    def read(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Labels (B, 7) as `Clip.labels` has them: relation, then kind, pitch, loudness of both slots; -1 if empty."""
        labels = torch.stack([logits.argmax(1) for logits in self(log_mel)[0]], 1)
        labels[labels[:, 0] == 0, 4:] = -1
        return labels


def blur(log_mel: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    """Mix log-mels (B, T, 64) with their mean over 5 frames x 3 bins; `amount` (B,) in [0, 1]."""
    padded = F.pad(log_mel[:, None], (1, 1, 2, 2), mode="replicate")
    smooth = F.avg_pool2d(padded, (5, 3), stride=1)[:, 0]
    return torch.lerp(log_mel, smooth, amount[:, None, None])


def splice(log_mel: torch.Tensor, twin: torch.Tensor, share: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Replace 8-frame pieces of log-mels (B, T, 64) by those of a twin, each with probability `share` (B,)."""
    batch, frames, _ = log_mel.shape
    pick = torch.rand(batch, frames // 8, generator=generator, device=log_mel.device) < share[:, None]
    return torch.where(pick.repeat_interleave(8, 1)[:, :, None], twin, log_mel)


def oracle_loss(oracle: Oracle, log_mel, twin, labels, qualities, generator) -> tuple[torch.Tensor, dict[str, float]]:
    """Cross-entropy of all attributes plus squared errors of qualities and of the damage done to most of the clips.

    Damage is blur, grain (white noise on the log-mel) or pieces of the twin; a little grain is on all clips, so that
    labels are not read from traces that no vocoder or VAE keeps.
    log_mel and twin (B, T, 64), labels (B, 7) with -1 ignored, qualities (B, 2, 3) with NaN ignored.
    """
    batch, device = len(log_mel), log_mel.device
    draw = torch.rand(5, batch, generator=generator, device=device)
    spoiled, blurred, rough = draw[0] < 0.7, draw[1] < 0.33, draw[1] > 0.67
    amount, share = draw[2] * spoiled * blurred, 0.5 * draw[3] * spoiled * ~blurred * ~rough
    noise = draw[2] * spoiled * rough
    x = blur(splice(log_mel, twin, share, generator), amount)
    x = x + (0.7 * noise + 0.15 * draw[4])[:, None, None] * torch.randn(x.shape, generator=generator, device=device)
    logits, found, damage = oracle(x)
    told = (labels >= 0).any(0).tolist()  # the mean over no label at all would be NaN
    classes = sum(F.cross_entropy(z, labels[:, i], ignore_index=-1) for i, z in enumerate(logits) if told[i])
    known = (~qualities.flatten(1).isnan()) & (share == 0)[:, None]
    hidden = ((found - qualities.flatten(1).nan_to_num()) ** 2 * known).sum() / known.sum().clamp(min=1)
    spoil = F.mse_loss(damage, torch.stack([amount - noise, 2 * share], 1))
    right = (logits[1].argmax(1) == labels[:, 1]).float().mean()
    figures = {"classes": classes, "qualities": hidden, "damage": spoil, "kind": right}
    return classes + 5 * hidden + 10 * spoil, {name: float(value.detach()) for name, value in figures.items()}
