"""Captions to vectors with pretrained encoders: Flan-T5 (a vector a token) and CLAP (one vector a caption).

The interface is that of `dear.text.TextEncoder`, `encode(captions) -> (vectors, mask)`. transformers is imported where
it is used, so that the rest of the library does without it. Axes: B captions, L tokens, E size of a vector.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn


class FlanT5(nn.Module):
    """The frozen encoder half of a T5 model, read as IMPACT and AudioDEAR read their captions.

    name: a folder or a hub name; google/flan-t5-large has E = 1024.  length: the most tokens a caption may have, the
    end-of-sentence token included; longer ones are cut. The papers' 77 leave one of 78 text vectors to CLAP.
    """

    def __init__(self, name: str | Path = "google/flan-t5-large", length: int = 77):
        super().__init__()
        self.length = length
        self.tokenizer, self.model = load_pretrained("T5EncoderModel", name)
        self.width = self.model.config.d_model

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Vectors (B, L, E) and mask (B, L) bool of captions, L the longest of them; ValueError for no sentence."""
        ids, mask = tokenize(self.tokenizer, captions, self.length, self.model.device)
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state, mask.bool()


class Clap(nn.Module):
    """The frozen text half of a CLAP model: one vector a caption, in the space that CLAP shares with sound.

    name: a folder or a hub name; laion/clap-htsat-fused and laion/larger_clap_general have E = 512.  length: as in
    `FlanT5`.
    """

    def __init__(self, name: str | Path = "laion/clap-htsat-fused", length: int = 77):
        super().__init__()
        self.length = length
        self.tokenizer, self.model = load_pretrained("ClapTextModelWithProjection", name)
        self.width = self.model.config.projection_dim

    @torch.no_grad()
    def pooled(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (B, E) of captions, as `MaskedTransformer` takes them for `pooled`."""
        ids, mask = tokenize(self.tokenizer, captions, self.length, self.model.device)
        return nn.functional.normalize(self.model(input_ids=ids, attention_mask=mask).text_embeds, dim=-1)

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The pooled vector as a text of one vector: (B, 1, E) and a mask (B, 1) of True, for CLAP alone."""
        vectors = self.pooled(captions)[:, None]
        return vectors, torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device)


def load_pretrained(kind: str, name: str | Path, reader: str = "AutoTokenizer") -> tuple[object, nn.Module]:
    """Reader (tokenizer, processor or feature extractor) and frozen model of a transformers class, in float32.

    From a folder or the hub; only safetensors are read. FileNotFoundError if a file or a weight is missing.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError("pretrained encoders need transformers: pip install 'dear[pretrained]'") from error
    wanted = (
        f"{name} gave no {kind} with {reader}; wanted a folder with config.json, model.safetensors and tokenizer or "
        "preprocessor files, or the name of one on the hub; without network, download it elsewhere and pass its folder"
    )
    try:
        made = getattr(transformers, reader).from_pretrained(name)
        model, told = getattr(transformers, kind).from_pretrained(
            name, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise FileNotFoundError(f"{wanted} ({type(error).__name__})") from error
    if told["missing_keys"]:  # transformers would leave them random, with no more than a warning
        raise FileNotFoundError(f"{wanted} (weights lack {', '.join(sorted(told['missing_keys'])[:3])} ...)")
    return made, model.eval().requires_grad_(False)


def tokenize(tokenizer, captions: Sequence[str], length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token indices and mask (B, L) int64; unlike the small encoder's, an unknown word becomes pieces of words."""
    if isinstance(captions, str) or not captions or not all(isinstance(c, str) and c.strip() for c in captions):
        raise ValueError(f"captions must be a non-empty list of sentences, got {captions!r}")
    made = tokenizer(list(captions), padding=True, truncation=True, max_length=length, return_tensors="pt")
    return made["input_ids"].to(device), made["attention_mask"].to(device)
