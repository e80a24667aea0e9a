"""Backbone blocks and heads as `dear.fast` calls them: weights in tuples, rows of all branches in one matrix.

These are `dear.backbone.Block`, `dear.head.AdaLNHead` and `Diffusion.sample` over again, exact but for rounding.
R rows, C width of the backbone, W of the head, M = (3 depth + 2) W modulations.
"""

import copy
import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from dear.head import AdaLNHead
from dear.objectives.diffusion import Diffusion, respaced

MODULATED = 1024  # rows whose modulations are made in one product: enough for speed, at paper size 23 MB


class BlockWeights(NamedTuple):
    """A block of the backbone: weight and bias of each of its layers."""

    norm1: tuple[Tensor, Tensor]
    qkv: tuple[Tensor, Tensor]
    proj: tuple[Tensor, Tensor]
    norm2: tuple[Tensor, Tensor]
    widen: tuple[Tensor, Tensor]
    narrow: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, block: nn.Module) -> "BlockWeights":
        """Those of a backbone.Block, on a CPU copied (see `by_columns`)."""
        layers = (block.norm1, block.qkv, block.proj, block.norm2, block.mlp[0], block.mlp[2])
        return cls(*map(pair, layers))


class Rows(NamedTuple):
    """How a matrix of rows falls into clips: those of the first branch, each with its text, then those of the second.

    sizes: rows of each branch.  mask: (B, 1, 1, S) bool, of the first branch; the one without text has no padding.
    ends: (branches B + 1,) int32, where clips begin and end, if one kernel may attend for all of them, else None.
    """

    heads: int
    batch: int
    sizes: Sequence[int]
    mask: Tensor | None
    ends: Tensor | None


def enter(branches: list[list[Tensor]], norm: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Rows (R, C) of all branches, each given as pieces (B, S_i, C) to join, and their norm."""
    x = torch.cat([torch.cat(pieces, dim=1).flatten(0, 1) for pieces in branches])
    return x, F.layer_norm(x, x.shape[-1:], *norm)


def reenter(
    x: Tensor, lengths: Sequence[int], ground: Tensor, unknown: Tensor, placed: int, norm: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """What an encoder gave, with the tokens that it has not seen, as the decoder's rows (R, C), and their norm.

    x: (B sum of lengths, C), of each branch the text, then `placed` tokens.  ground: (B, N, C), what is added to the
    tokens.  unknown: (C,), in place of each that is not known.
    """
    batch, branches = len(ground), []
    for part, length in zip(x.split([batch * length for length in lengths]), lengths, strict=True):
        front, known = part.view(batch, length, -1).tensor_split([length - placed], dim=1)
        branches.append([front, known + ground[:, :placed], ground[:, placed:] + unknown])
    return enter(branches, norm)


def attend(y: Tensor, weights: BlockWeights, rows: Rows) -> Tensor:
    """What attention mixes for each of the rows y (R, C), which look only at their own clip and branch: (R, C)."""
    q, k, v = F.linear(y, *weights.qkv).view(len(y), 3, rows.heads, -1).unbind(1)
    return _mix(q, k, v, rows, rows)


def attend_to_some(
    x: Tensor, y: Tensor, weights: BlockWeights, rows: Rows, left: int, some: Rows
) -> tuple[Tensor, Tensor]:
    """The same for some rows (R', C), and these of x (R, C): of the last `left` of each clip the first.

    x: what y is the norm of.  some: how the rows that are asked for fall into clips.
    """
    width, (weight, bias), share = x.shape[-1], weights.qkv, some.sizes[0] // rows.batch
    x, asking = (torch.cat([part.view(rows.batch, -1, width)[:, -left:][:, :share].flatten(0, 1)
                            for part in matrix.split(rows.sizes)]) for matrix in (x, y))
    q = F.linear(asking, weight[:width], bias[:width]).view(len(asking), rows.heads, -1)
    k, v = F.linear(y, weight[width:], bias[width:]).view(len(y), 2, rows.heads, -1).unbind(1)
    return x, _mix(q, k, v, some, rows)


def finish(
    x: Tensor, mixed: Tensor, weights: BlockWeights, norm: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The rest of a block on rows (R, C), from what attention has mixed, and the norm that stands after the block."""
    x = x + F.linear(mixed, *weights.proj)
    y = F.linear(F.layer_norm(x, x.shape[-1:], *weights.norm2), *weights.widen)
    x = x + F.linear(F.gelu(y), *weights.narrow)
    return x, F.layer_norm(x, x.shape[-1:], *norm)


class PackedHead:
    """An AdaLNHead whose modulations are one matrix: a net as objectives take it, in one of few dtypes."""

    def __init__(self, head: AdaLNHead, dtype: torch.dtype, steer: Callable[..., Tensor]):
        """steer: `steered`, or compiled."""
        layers = [block.modulation[1] for block in head.blocks] + [head.modulation[1]]
        weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
        scales = bias.view(-1, head.config.width)[1::3]  # shift, scale, gate; the last has no gate
        scales += 1
        cast = lambda two: tuple(t.to(dtype) for t in two)  # noqa: E731
        self.modulation, self.hidden_in = cast((by_columns(weight), bias)), cast(pair(head.hidden_in))
        self.noise_in, self.out = cast(pair(head.noise_in)), cast(pair(head.out))
        self.mlps = [(cast(pair(block.mlp[0])), cast(pair(block.mlp[2]))) for block in head.blocks]
        self.times, self.main, self.steer = in_dtype(head.times, dtype), head.config.main, steer

    def __call__(self, x: Tensor, cond: Tensor, *times: Tensor) -> Tensor:
        """As AdaLNHead with one sample a condition."""
        main, steer = F.linear(x, *self.noise_in), F.linear(cond, *self.hidden_in)
        if self.main == "hidden":
            main, steer = steer, main
        for embed, t in zip(self.times, times, strict=True):
            steer = steer + embed(t)
        return self.steer(main, F.linear(F.silu(steer), *self.modulation), self.mlps, self.out)


def steered(main: Tensor, modulation: Tensor, mlps: list, out: tuple[Tensor, Tensor]) -> Tensor:
    """The blocks of a head: main (R, W) under modulation (R, (3 depth + 2) W), of which scales are 1 + scale."""
    size, parts = main.shape[-1:], modulation.chunk(3 * len(mlps) + 2, dim=-1)
    for i, (widen, narrow) in enumerate(mlps):
        shift, scale, gate = parts[3 * i : 3 * i + 3]
        y = torch.addcmul(shift, F.layer_norm(main, size, eps=1e-6), scale)
        main = torch.addcmul(main, gate, F.linear(F.silu(F.linear(y, *widen)), *narrow))
    return F.linear(torch.addcmul(parts[-2], F.layer_norm(main, size, eps=1e-6), parts[-1]), *out)


class Reverse:
    """Diffusion.sample for a head: embeds every time once, and makes the modulations of many steps in one product.

    A token and the sums it is built from are kept in float32 whatever the dtype of the head, which costs nothing.
    """

    def __init__(self, objective: Diffusion, head: AdaLNHead, steps: int, dtype: torch.dtype):
        if not 1 <= steps <= objective.train_steps:
            raise ValueError(f"steps must lie in 1..{objective.train_steps}, got {steps}")
        weight = head.out.weight
        indices = respaced(objective.train_steps, steps)
        t = torch.tensor(indices, device=weight.device).to(weight) / objective.train_steps
        self.embeddings = head.times[0](t).to(dtype)
        self.clip, self.wide = objective.clip, torch.promote_types(dtype, torch.float32)
        abar = objective.alphas_cumprod[indices].tolist()
        terms = [_terms(objective.prediction, now, after) for now, after in zip(abar, [*abar[1:], 1.0], strict=True)]
        self.terms = torch.tensor(terms, dtype=self.wide, device=weight.device)
        self.sigmas = [objective.temperature * math.sqrt((1 - after) / (1 - now) * (1 - now / after))
                       for now, after in zip(abar, abar[1:], strict=False)]

    def noise(self, schedule: list, like: Tensor, generator: torch.Generator) -> Tensor:
        """What all reverse steps of all iterations add, (steps - 1, B N, D), drawn as `Diffusion.sample` would."""
        batch, count, width = like.shape
        z = like.new_empty(len(self.sigmas), batch * count, width)
        for now in schedule:
            for step in z[:, batch * now.placed : batch * (now.placed + now.share)]:
                step.normal_(generator=generator)
        warmth = torch.tensor([now.warmth for now in schedule for _ in range(batch * now.share)], dtype=self.wide)
        scale = torch.tensor(self.sigmas, dtype=self.wide)[:, None] * warmth
        return torch.mul(z, scale[..., None].to(z.device), out=z)

    def __call__(self, step, head: PackedHead, h: Tensor, start: Tensor, z: Tensor, w: float | None) -> Tensor:
        """Tokens (R, D) from noise (R, D), reverse steps' noise z (steps - 1, R, D) and h (R, C), or (2 R, C) with w.

        step: `reverse_step`, or compiled.
        """
        hidden, x = F.linear(h, *head.hidden_in), start.to(self.wide)
        w = None if w is None else x.new_full((), w)  # as a tensor, so that a compiled step need not know its value
        per = max(1, MODULATED // len(hidden))
        for first in range(0, len(self.terms), per):
            steer = F.silu(hidden + self.embeddings[first : first + per, None])
            for i, modulation in enumerate(F.linear(steer, *head.modulation), first):
                x = step(x, modulation, self.terms[i], z[i] if i < len(z) else None, w, self.clip,
                         head.noise_in, head.mlps, head.out)
        return x.to(start.dtype)


def reverse_step(
    x: Tensor, modulation: Tensor, terms: Tensor, z: Tensor | None, w: Tensor | None, clip: float | None,
    noise_in: tuple[Tensor, Tensor], mlps: list, out: tuple[Tensor, Tensor],
) -> Tensor:
    """One step of Diffusion.sample, x (R, D) to (R, D); with w for both branches, whose modulations have 2 R rows."""
    main = F.linear(x.to(modulation.dtype), *noise_in)
    if w is not None:
        main = main.repeat(2, 1)
    predicted = steered(main, modulation, mlps, out).to(x.dtype)
    if w is not None:
        predicted, without = predicted.chunk(2)
        predicted = without + w * (predicted - without)
    a, b, c, d = terms.unbind()
    x0 = torch.addcmul(a * x, b, predicted)
    if clip is not None:
        x0 = x0.clamp(-clip, clip)
    x = torch.addcmul(c * x0, d, x)
    return x if z is None else x + z


def _terms(prediction: str, now: float, after: float) -> tuple[float, float, float, float]:
    """a, b, c, d of x0 = a x + b net(x) and x_s = c x0 + d x, from abar_t and abar_s: see `Diffusion.sample`."""
    beta, signal, sigma = 1 - now / after, math.sqrt(now), math.sqrt(1 - now)
    a, b = (1 / signal, -sigma / signal) if prediction == "epsilon" else (signal, -sigma)
    return a, b, math.sqrt(after) * beta / (1 - now), math.sqrt(1 - beta) * (1 - after) / (1 - now)


def in_dtype(net, dtype: torch.dtype):
    """A net, or a copy of it in another dtype; of what has no parameters, itself."""
    if not isinstance(net, nn.Module) or all(p.dtype == dtype for p in net.parameters()):
        return net
    return copy.deepcopy(net).to(dtype)


def _mix(q: Tensor, k: Tensor, v: Tensor, asking: Rows, rows: Rows) -> Tensor:
    """Attention of each clip and branch on its own, (R', C): q of the rows that ask (R', heads, C / heads), k, v (R).

    All at once where a kernel can, which needs CUDA and half the precision; else branch by branch.
    """
    if rows.ends is not None:
        lengths = [max(r.sizes) // r.batch for r in (asking, rows)]
        return varlen_attn(q, k, v, asking.ends, rows.ends, *lengths).flatten(1)
    parts = [[part.view(rows.batch, -1, *part.shape[1:]).transpose(1, 2) for part in matrix.split(r.sizes)]
             for matrix, r in ((q, asking), (k, rows), (v, rows))]
    mixed = [F.scaled_dot_product_attention(*qkv, attn_mask=None if i else rows.mask)
             for i, qkv in enumerate(zip(*parts, strict=True))]
    return torch.cat([part.transpose(1, 2).flatten(0, 1).flatten(1) for part in mixed])


def attends_at_once(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether one kernel attends for clips of several lengths: it is for CUDA from Ampere on, and half the precision.

    Older cards (V100, T4) hold float16 too, and would fail in the middle of a decoding.
    """
    halved = dtype in (torch.bfloat16, torch.float16)
    return device.type == "cuda" and halved and torch.cuda.get_device_capability(device) >= (8, 0)


def ends_of(batch: int, sizes: Sequence[int], device: torch.device) -> Tensor:
    """Rows.ends of branches with so many rows each."""
    lengths = [size // batch for size in sizes for _ in range(batch)]
    return torch.tensor(list(accumulate(lengths, initial=0)), dtype=torch.int32, device=device)


def pair(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer as functional calls take them; see `by_columns`."""
    return by_columns(layer.weight), layer.bias


def by_columns(weight: Tensor) -> Tensor:
    """The same matrix, on a CPU with its columns in one piece: products with few rows are up to 4 times as fast."""
    return weight if weight.is_cuda or weight.ndim < 2 else weight.t().contiguous().t()
