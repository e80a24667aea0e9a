"""Captions to vectors: one interface, `encode(captions) -> (vectors, mask)`, and the small encoder that is shipped."""

import difflib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dear.backbone import Block
from dear.data.captions import words


@dataclass(frozen=True)
class TextConfig:
    """Vocabulary and sizes of the small text encoder; `length` is the most words a caption may have."""

    vocabulary: tuple[str, ...]
    length: int = 24
    width: int = 128
    layers: int = 2
    heads: int = 4


class TextEncoder(nn.Module):
    """A small transformer over a word vocabulary, trained beside sound (`contrastive.py`), then with the teacher."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.index = {word: i for i, word in enumerate(config.vocabulary)}
        self.embedding = nn.Embedding(len(config.vocabulary), config.width)
        self.positions = nn.Parameter(0.5 * torch.randn(config.length, config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        nn.init.normal_(self.embedding.weight, std=0.5)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Vectors (B, L, E) of word indices (B, L); `mask` (B, L) bool is True where there is a word."""
        x = self.embedding(ids) + self.positions[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, mask[:, None, None, :])
        return self.norm(x)

    def tokenize(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Word indices (B, L) and mask (B, L) of captions, L the longest of them.

        Unknown words are left out with a warning that names them and the nearest known words. An empty caption, or
        one without a known word, is a ValueError, as is one of more than `length` known words.
        """
        if isinstance(captions, str) or not captions or not all(isinstance(c, str) for c in captions):
            raise ValueError(f"captions must be a non-empty list of sentences, got {captions!r}")
        unique = dict.fromkeys(captions)  # so that each warns once
        known = dict(zip(unique, map(self._row, unique), strict=True))
        rows = [known[caption] for caption in captions]
        length = max(map(len, rows))
        ids, mask = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), True
        return ids, mask

    @property
    def longest(self) -> int:
        """The most vectors that `encode` gives of a caption."""
        return self.config.length

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Vectors (B, L, E) and mask (B, L) of captions on the encoder's device; see `tokenize` for what it refuses."""
        ids, mask = (x.to(self.positions.device) for x in self.tokenize(captions))
        return self(ids, mask), mask

    def _row(self, caption: str) -> list[int]:
        found = words(caption)
        if not found:
            raise ValueError(f"the prompt {caption!r} has no words; describe a sound, for example 'a low bell'")
        known = [word for word in found if word in self.index]
        unknown = [word for word in dict.fromkeys(found) if word not in self.index]
        hints = [f"'{word}'{self._nearest(word)}" for word in unknown]
        if not known:
            raise ValueError(f"the prompt {caption!r} has no word that this model knows: {', '.join(hints)}; "
                             f"it knows {', '.join(self.config.vocabulary)}")
        if unknown:
            told = ", ".join(hints)
            warnings.warn(f"left out of {caption!r}, because this model never saw them: {told}", stacklevel=4)
        if len(known) > self.config.length:
            raise ValueError(f"the prompt has {len(known)} words, this model takes {self.config.length}: {caption!r}")
        return [self.index[word] for word in known]

    def _nearest(self, word: str) -> str:
        near = difflib.get_close_matches(word, self.config.vocabulary, n=3, cutoff=0.6)
        return f" (did you mean {' or '.join(near)}?)" if near else ""


def read_captions(text: nn.Module, captions: Sequence[str], pooled: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Vectors (B, L, E), mask (B, L) and, if `pooled`, one more vector (B, P) of captions, as a backbone takes them."""
    return *text.encode(captions), text.pooled(captions) if pooled else None


def vocabulary_of(captions: Iterable[str]) -> tuple[str, ...]:
    """Every word of the captions, sorted."""
    return tuple(sorted({word for caption in captions for word in words(caption)}))
