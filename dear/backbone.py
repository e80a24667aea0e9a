"""The masked transformer: from the tokens that are known, and a text, to a hidden state for every token."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class BackboneConfig:
    """Size of a MaskedTransformer; the defaults are what the classroom's begin with.

    tokens, token_dim: N and D.  text_dim: E, size of a text vector.  text_length: the most vectors a text may have,
    the pooled one included.  pool: the mean of a text's vectors is what is seen of it ("only"), one vector more
    ("also"), or not used ("no").  width, heads: of the hidden states; heads divides width.  encoder_layers,
    decoder_layers: blocks before and after the mask embeddings enter.  pooled_dim: size of one more vector for the
    whole text (CLAP's), 0: none.  window: the decoder also sees, side by side, the known tokens up to this far away,
    0: no. IMPACT has no window and learns to look at neighbours from much more data; a classroom run cannot: after 400
    steps its predictions were as good without any neighbour as with all of them, R2 0.1 for a sweep, with a window 0.7.
    """

    tokens: int = 32
    token_dim: int = 64
    text_dim: int = 128
    text_length: int = 24
    width: int = 160
    encoder_layers: int = 2
    decoder_layers: int = 2
    heads: int = 5
    pooled_dim: int = 0
    window: int = 4
    pool: str = "no"

    @classmethod
    def paper(cls) -> "BackboneConfig":
        """The base size of IMPACT and AudioDEAR: 256 tokens, 12 + 12 layers of 768, 77 Flan-T5 vectors and 1 CLAP."""
        return cls(
            tokens=256, token_dim=128, text_dim=1024, text_length=78, width=768,
            encoder_layers=12, decoder_layers=12, heads=12, pooled_dim=512, window=0,
        )


class MaskedTransformer(nn.Module):
    """IMPACT's backbone: encode text and known tokens, fill the unknown with a mask embedding, decode all of them.

    The design is MAR's (arXiv 2406.11838), a masked autoencoder; IMPACT (arXiv 2506.00736) prepends the text.
    """

    def __init__(self, config: BackboneConfig):
        super().__init__()
        if config.width % config.heads:
            raise ValueError(f"heads must divide width, got {config.heads} heads and width {config.width}")
        if config.pool not in ("no", "only", "also"):
            raise ValueError(f"pool must be 'no', 'only' or 'also', got {config.pool!r}")
        if config.window < 0:
            raise ValueError(f"window must be 0 (none) or a number of tokens, got {config.window}")
        self.config = config
        width = config.width
        self.token_in = nn.Linear(config.token_dim, width)
        self.text_in = nn.Linear(config.text_dim, width)
        self.pooled_in = nn.Linear(config.pooled_dim, width) if config.pooled_dim else None
        self.text_positions = nn.Parameter(torch.empty(config.text_length, width))
        self.encoder_positions = nn.Parameter(torch.empty(config.tokens, width))
        self.decoder_positions = nn.Parameter(torch.empty(config.tokens, width))
        self.null_text = nn.Parameter(torch.empty(width))
        self.mask_embedding = nn.Parameter(torch.empty(width))
        self.encoder = nn.ModuleList(Block(width, config.heads) for _ in range(config.encoder_layers))
        self.encoder_norm = nn.LayerNorm(width)
        w = config.window
        self.neighbours = nn.Conv1d(config.token_dim + 1, width, 2 * w + 1, padding=w) if w else None
        self.decoder = nn.ModuleList(Block(width, config.heads) for _ in range(config.decoder_layers))
        self.decoder_norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if "." not in name:
                nn.init.normal_(parameter, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(
        self,
        tokens: Tensor,
        masked: Tensor,
        text: Tensor,
        text_mask: Tensor,
        drop: Tensor | None = None,
        pooled: Tensor | None = None,
        return_layers: bool = False,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Hidden state h (B, N, C) of every token; what stands in tokens at unknown positions is never read.

        tokens: (B, N, D).  masked: (B, N) bool, True is unknown; rows may differ in number.  text: (B, L, E).
        text_mask: (B, L) bool, True is a word.  drop: (B,) bool, True replaces the text by the learned null text.
        pooled: (B, pooled_dim), wanted if and only if the model has pooled_dim.

        With return_layers also a list of the decoder's hidden states, (B, N, C) after each decoder layer, the last
        one being h itself (after the final norm). Encoder layers are left out: they exist at known positions only,
        while it is the unknown ones that a student has to get right.
        """
        self._check(tokens, masked, text, text_mask, pooled)
        prefix, words = self._prefix(text, text_mask, drop, pooled)
        length = prefix.shape[1]

        # Known tokens first, in their order. Rows with fewer than the longest are padded with unread positions.
        order = masked.byte().argsort(dim=1, stable=True)
        known = (~masked).sum(dim=1, keepdim=True)
        longest = max(int(known.max()), 1)  # one padded position when nothing is known spares a special case
        seen = order[:, :longest]
        clean = tokens.masked_fill(masked[..., None], 0)  # so that not even a NaN can leak through padding
        x = self.token_in(_rows(clean, seen)) + self.encoder_positions[seen]
        attend = _attention_mask(words, torch.arange(longest, device=seen.device) < known)
        x = torch.cat([prefix, x], dim=1)
        for block in self.encoder:
            x = block(x, attend)
        x = self.encoder_norm(x)

        # Back to their places; order.argsort() says where in the encoder's output a position went.
        prefix, x = x[:, :length], x[:, length:]
        x = _rows(x, order.argsort(dim=1).clamp(max=longest - 1))
        x = torch.where(masked[..., None], self.mask_embedding, x) + self.decoder_positions
        if self.neighbours is not None:
            marked = torch.cat([clean, ~masked[..., None]], dim=-1)
            x = x + self.neighbours(marked.transpose(1, 2)).transpose(1, 2)
        attend = _attention_mask(words, torch.ones_like(masked))
        x = torch.cat([prefix, x], dim=1)
        layers = []
        for block in self.decoder:
            x = block(x, attend)
            layers.append(x[:, length:])
        h = self.decoder_norm(x[:, length:])
        return (h, [*layers[:-1], h]) if return_layers else h

    def _prefix(
        self, text: Tensor, text_mask: Tensor, drop: Tensor | None, pooled: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Text as the transformer sees it: vectors (B, P, C) and where they count (B, P); P is the longest text."""
        text, words = text.masked_fill(~text_mask[..., None], 0), text_mask
        if self.config.pool != "no":
            mean = text.sum(dim=1, keepdim=True) / words.sum(dim=1).clamp(min=1)[:, None, None]
            rest = slice(0 if self.config.pool == "only" else None)
            text = torch.cat([mean, text[:, rest]], dim=1)
            words = torch.cat([words.any(dim=1, keepdim=True), words[:, rest]], dim=1)
        prefix = self.text_in(text)
        if pooled is not None:
            prefix = torch.cat([self.pooled_in(pooled)[:, None], prefix], dim=1)
            words = F.pad(words, (1, 0), value=True)
        prefix = prefix + self.text_positions[: prefix.shape[1]]
        if drop is not None:
            first = torch.arange(words.shape[1], device=words.device) == 0
            prefix = torch.where((drop[:, None] & first)[..., None], self.null_text, prefix)
            words = torch.where(drop[:, None], first, words)
        if words.all():  # one question to the device instead of three
            return prefix, words
        if not words.any(dim=1).all():
            raise ValueError("a text without a word: text_mask has a row of False; set drop for that row instead")
        used = words.any(dim=0)
        return prefix[:, used], words[:, used]

    def _check(
        self, tokens: Tensor, masked: Tensor, text: Tensor, text_mask: Tensor, pooled: Tensor | None
    ) -> None:
        c, batch = self.config, len(tokens)
        if tokens.shape != (batch, c.tokens, c.token_dim) or masked.shape != tokens.shape[:2]:
            raise ValueError(
                f"tokens must be (B, {c.tokens}, {c.token_dim}) and masked (B, {c.tokens}), "
                f"got {tuple(tokens.shape)} and {tuple(masked.shape)}"
            )
        longest = c.text_length - bool(c.pooled_dim) - (c.pool == "also")
        if text.ndim != 3 or text.shape[::2] != (batch, c.text_dim) or not 1 <= text.shape[1] <= longest:
            raise ValueError(f"text must be ({batch}, 1 to {longest}, {c.text_dim}), got {tuple(text.shape)}")
        if text_mask.shape != text.shape[:2] or text_mask.dtype != torch.bool or masked.dtype != torch.bool:
            raise ValueError(
                f"text_mask must be {tuple(text.shape[:2])}, and both masks bool, "
                f"got {tuple(text_mask.shape)}, {text_mask.dtype} and {masked.dtype}"
            )
        wanted = (batch, c.pooled_dim) if c.pooled_dim else None
        got = None if pooled is None else tuple(pooled.shape)
        if got != wanted:
            raise ValueError(f"pooled must be {wanted}, as the model was built, got {got}")


class Block(nn.Module):
    """A pre-norm transformer block: attention, then an MLP four times as wide, each added to its input."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, attend: Tensor | None = None) -> Tensor:
        """x: (B, S, C).  attend: (B, 1, 1, S) bool, True is looked at; None: everything.  Returns (B, S, C)."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attend)
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x[b, index[b, i]] for all b and i: (B, S, C) and (B, I) -> (B, I, C)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def _attention_mask(*parts: Tensor) -> Tensor:
    """Join masks of keys, each (B, S_i), to one for attention. (Leaving it out where it is all True gains nothing.)"""
    return torch.cat(parts, dim=1)[:, None, None, :]
