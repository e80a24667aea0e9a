"""What a pretrained text encoder is to IMPACT, in small: text and sound pulled together before the teacher learns.

IMPACT reads captions with Flan-T5 and CLAP, which know language and sound already. A text encoder that starts from
nothing learns from the teacher's loss alone very late: text lowers it by a few per cent only (after 1600 steps the
teacher still ignored the caption). So it first learns which caption belongs to which sound, as CLAP did.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dear.backbone import Block
from dear.text import TextConfig, TextEncoder


class Pair(nn.Module):
    """A text encoder beside a small transformer over audio tokens, which is not needed after the training."""

    def __init__(self, text: TextConfig, tokens: int, token_dim: int, layers: int = 2):
        super().__init__()
        self.text, width = TextEncoder(text), text.width
        self.token_in = nn.Linear(token_dim, width)
        self.positions = nn.Parameter(0.5 * torch.randn(tokens, width))
        self.blocks = nn.ModuleList(Block(width, text.heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.text_out, self.audio_out = nn.Linear(width, width), nn.Linear(width, width)
        self.log_scale = nn.Parameter(torch.tensor(2.66))  # log(1 / 0.07), CLIP's start; without its cap

    def forward(self, tokens: Tensor, ids: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (B, E) of clips, tokens (B, N, D), and of captions, ids and words (B, L)."""
        x = self.token_in(tokens) + self.positions
        for block in self.blocks:
            x = block(x)
        counts = words.sum(dim=1, keepdim=True)
        text = (self.text(ids, words) * words[..., None]).sum(dim=1) / counts
        return F.normalize(self.audio_out(self.norm(x).mean(dim=1)), dim=-1), F.normalize(self.text_out(text), dim=-1)


def contrastive_loss(audio: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of unit vectors (B, E): row i of audio belongs to row i of text, and is told from all others.

        L = (CE(s A T', i) + CE(s T A', i)) / 2        (CLIP, arXiv 2103.00020, figure 3; CLAP, arXiv 2206.04769)
    """
    logits, right = scale * audio @ text.T, torch.arange(len(audio), device=audio.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
