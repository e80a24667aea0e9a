"""Captions to vectors with pretrained encoders: Flan-T5 (a vector a token), CLAP (one vector a caption), or both.

The interface is that of `dear.text.TextEncoder`, `encode(captions) -> (vectors, mask)` of at most `longest` vectors a
caption, and `pooled(captions)` for the vector of a whole caption. Axes: B captions, L tokens, E size of a vector.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dear.pretrained import load_pretrained, reference


class FlanT5(nn.Module):
    """The frozen encoder half of a T5 model, read as IMPACT and AudioDEAR read their captions.

    name: a folder or a hub name; google/flan-t5-large has E = 1024.  length: the most tokens a caption may have, the
    end-of-sentence token included; longer ones are cut. The papers' 77 leave one of 78 text vectors to CLAP.
    revision: of the hub.  dtype: of the weights; vectors are float32 whatever it is.
    """

    def __init__(self, name: str | Path = "google/flan-t5-large", length: int = 77, *, revision: str | None = None,
                 dtype: torch.dtype = torch.float32):
        super().__init__()
        self.length, self.reference = length, reference(self, name=name, length=length, revision=revision, dtype=dtype)
        self.tokenizer, self.model = load_pretrained("T5EncoderModel", name, revision=revision, dtype=dtype)
        self.width, self.longest = self.model.config.d_model, length

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Vectors (B, L, E) and mask (B, L) bool of captions, L the longest of them; ValueError for no sentence."""
        ids, mask = tokenize(self.tokenizer, captions, self.length, self.model.device)
        return self(ids, mask), mask.bool()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Vectors (B, L, E) float32 of token indices and mask (B, L) int64."""
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()


class Clap(nn.Module):
    """The frozen text half of a CLAP model: one vector a caption, in the space that CLAP shares with sound.

    name: a folder or a hub name; laion/clap-htsat-fused and laion/larger_clap_general have E = 512.  length, revision,
    dtype: as in `FlanT5`.
    """

    def __init__(self, name: str | Path = "laion/clap-htsat-fused", length: int = 77, *, revision: str | None = None,
                 dtype: torch.dtype = torch.float32):
        super().__init__()
        self.length, self.reference = length, reference(self, name=name, length=length, revision=revision, dtype=dtype)
        self.tokenizer, self.model = load_pretrained(
            "ClapTextModelWithProjection", name, revision=revision, dtype=dtype
        )
        self.width, self.longest = self.model.config.projection_dim, 1

    @torch.no_grad()
    def pooled(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (B, E) of captions, as `MaskedTransformer` takes them for `pooled`."""
        return self(*tokenize(self.tokenizer, captions, self.length, self.model.device))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors (B, E) float32 of token indices and mask (B, L) int64."""
        return nn.functional.normalize(self.model(input_ids=ids, attention_mask=mask).text_embeds.float(), dim=-1)

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The pooled vector as a text of one vector: (B, 1, E) and a mask (B, 1) of True, for CLAP alone."""
        vectors = self.pooled(captions)[:, None]
        return vectors, torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device)


class FlanT5AndClap(nn.Module):
    """Both together, 77 + 1 vectors, as AudioDEAR reads its captions; a backbone's `pooled_dim` is then CLAP's size."""

    def __init__(self, t5: FlanT5, clap: Clap):
        super().__init__()
        self.t5, self.clap, self.reference = t5, clap, reference(self, t5=t5.reference, clap=clap.reference)
        self.width, self.longest = t5.width, t5.longest

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Flan-T5's vectors (B, L, E) and mask (B, L) of captions."""
        return self.t5.encode(captions)

    def pooled(self, captions: Sequence[str]) -> Tensor:
        """CLAP's unit vectors (B, E) of captions."""
        return self.clap.pooled(captions)


def tokenize(tokenizer, captions: Sequence[str], length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token indices and mask (B, L) int64; unlike the small encoder's, an unknown word becomes pieces of words."""
    if isinstance(captions, str) or not captions or not all(isinstance(c, str) and c.strip() for c in captions):
        raise ValueError(f"captions must be a non-empty list of sentences, got {captions!r}")
    made = tokenizer(list(captions), padding=True, truncation=True, max_length=length, return_tensors="pt")
    return made["input_ids"].to(device), made["attention_mask"].to(device)
