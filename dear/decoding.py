"""Iterative parallel decoding: from nothing but a text to all tokens, a few more in every iteration."""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor

from dear import masking


@torch.no_grad()
def decode(
    backbone: Callable[..., Tensor],
    head: Callable[..., Tensor],
    objective,
    text: Tensor,
    text_mask: Tensor,
    *,
    generator: torch.Generator,
    num_inference_steps: int = 16,
    decoding_schedule: str = "cosine",
    guidance_scale: float = 4.0,
    guidance: str = "hidden",
    guidance_schedule: str = "constant",
    sampling_steps: int = 1,
    temperature: float = 1.0,
    temperature_schedule: str = "constant",
    pooled: Tensor | None = None,
    order: Tensor | None = None,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Draw all tokens of B clips, (B, N, D), in num_inference_steps passes of the backbone (MAR, section 3.4).

    Each iteration asks the backbone for h, draws the tokens at the next places of a random order, and writes them
    down; how many follows masking.decoding_schedule. With guidance a second branch without text runs in the same batch:
        guidance="hidden" (AudioDEAR):   h = w h_cond + (1 - w) h_uncond, then one call of the head
        guidance="prediction" (IMPACT):  the head runs on both, out = out_uncond + w (out_cond - out_uncond)

    text, text_mask, pooled: as MaskedTransformer takes them.  generator: on the device of text; equal seeds give
    equal tokens.  num_inference_steps: 1 to N.  decoding_schedule: "cosine" or "linear".
    guidance_scale: w >= 0, 1 is no guidance and half the work.
    guidance_schedule: "constant", or "linear": rising from 1, with the share of tokens that stand after the iteration,
    to w in the last one (MAR, EAR).
    sampling_steps: passes of the head per token, 1 for energy, 100 for diffusion.
    temperature: factor on the noise that a one-step head starts from, or on that of every reverse step of a diffusion.
    temperature_schedule: "constant", or "linear": `temperature` in the first iteration, from there towards 1 with the
    share of tokens that stood before, so that the first tokens, which all others follow, are drawn nearer their mode.
    order: (B, N), a permutation in each row, None: random.
    callback: called after each iteration with its index and what is still masked, (B, N) bool.
    """
    check_dials(guidance_scale, guidance, guidance_schedule, temperature, temperature_schedule)
    batch, count, width = len(text), backbone.config.tokens, backbone.config.token_dim
    shares = masking.decoding_schedule(decoding_schedule, num_inference_steps, count)
    fresh = {"generator": generator, "device": text.device}
    if order is None:
        order = torch.rand(batch, count, **fresh).argsort(dim=1)
    elif not torch.equal(order.sort(dim=1).values.cpu(), torch.arange(count).expand(batch, -1)):
        raise ValueError(f"order must be ({batch}, {count}) with every position once in each row")
    noise_dim = getattr(objective, "noise_dim", None) or width
    noise = torch.randn(batch, count, noise_dim, dtype=text.dtype, **fresh)

    tokens = text.new_zeros(batch, count, width)
    masked = torch.ones(batch, count, dtype=torch.bool, device=text.device)
    rows = torch.arange(batch, device=text.device)[:, None]
    copies, drop = 1, None
    if guidance_scale != 1:  # rows 0..B-1 see the text, rows B..2B-1 do not
        copies, drop = 2, torch.arange(2 * batch, device=text.device) >= batch
        text, text_mask = text.repeat(2, 1, 1), text_mask.repeat(2, 1)
        pooled = None if pooled is None else pooled.repeat(2, 1)
    placed = 0
    for iteration, share in enumerate(shares):
        here, warmth = order[:, placed : placed + share], temperature
        if temperature_schedule == "linear":
            warmth = temperature + (1 - temperature) * placed / count
        placed += share
        w = guidance_scale
        if guidance_schedule == "linear":
            w = 1 + (guidance_scale - 1) * placed / count

        h = backbone(tokens.repeat(copies, 1, 1), masked.repeat(copies, 1), text, text_mask, drop, pooled)
        branches = [branch[rows, here].flatten(0, 1) for branch in h.chunk(copies)]
        if copies == 1:
            net, cond = head, branches[0]
        elif guidance == "hidden":
            net, cond = head, w * branches[0] + (1 - w) * branches[1]
        else:
            net, cond = guided(head, w), torch.cat(branches, dim=-1)
        start, drawer = noise[rows, here].flatten(0, 1), objective
        if hasattr(objective, "cooled"):
            drawer = objective.cooled(warmth)
        else:
            start = warmth * start
        drawn = drawer.sample(net, cond, start, sampling_steps, generator)
        tokens[rows, here] = drawn.view(batch, share, width)
        masked[rows, here] = False
        if callback is not None:
            callback(iteration, masked.clone())
    return tokens


# The settings of `decode` that another decoder takes as well, with their defaults.
SETTINGS = {name: p.default for name, p in inspect.signature(decode).parameters.items()
            if p.default is not p.empty and name not in ("pooled", "order", "callback")}


def guided(net: Callable[..., Tensor], w: float) -> Callable[..., Tensor]:
    """A net that takes [h_cond, h_uncond] side by side, (R, 2C), and returns out_uncond + w (out_cond - out_uncond).

    Both halves go through the net in one call, so that an objective samples from it as from any other net.
    """

    def net_with_guidance(x: Tensor, cond: Tensor, *times: Tensor) -> Tensor:
        both = torch.cat(cond.chunk(2, dim=-1))
        out_cond, out_uncond = net(x.repeat(2, 1), both, *(t.repeat(2) for t in times)).chunk(2)
        return out_uncond + w * (out_cond - out_uncond)

    return net_with_guidance


def check_dials(
    guidance_scale: float, guidance: str, guidance_schedule: str, temperature: float, temperature_schedule: str
) -> None:
    """ValueError, with what was wanted, for settings that `decode` does not know."""
    if not 0 <= guidance_scale < float("inf"):
        raise ValueError(f"guidance_scale must be a number >= 0 (1 is no guidance), got {guidance_scale}")
    if guidance not in ("hidden", "prediction"):
        raise ValueError(f"guidance must be 'hidden' or 'prediction', got {guidance!r}")
    for name, schedule in (("guidance", guidance_schedule), ("temperature", temperature_schedule)):
        if schedule not in ("constant", "linear"):
            raise ValueError(f"{name}_schedule must be 'constant' or 'linear', got {schedule!r}")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be a number >= 0, got {temperature}")
