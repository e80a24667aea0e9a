"""The iterations of a `dear.fast.FastDecoder`: work for the device alone, which can be recorded and replayed.

Nothing here draws a random number (but an objective that has no way of its own here), and the host reads nothing that
the device computes: how many tokens are known, and where the next ones stand, follows from the schedule.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dear import decoding, masking, packed
from dear.backbone import MaskedTransformer
from dear.head import AdaLNHead
from dear.objectives.diffusion import Diffusion
from dear.packed import pair


class Iteration(NamedTuple):
    """One pass of the schedule: `share` tokens after the first `placed`, with guidance weight w and so warm a noise."""

    placed: int
    share: int
    w: float
    warmth: float


class Inputs(NamedTuple):
    """What the iterations read: text as prefix (B, P, C), and all else in the order of drawing.

    mask: (B, 1, 1, P + N) bool, True is looked at; None: all is.  order: (B, N).  seen, places: (B, N, C), the
    encoder's and the decoder's positions.  noise: (B, N, noise_dim), as warm as its iteration has it.
    z: (steps - 1, B N, D), what the reverse steps of a diffusion add, or None.
    """

    prefix: Tensor
    mask: Tensor | None
    order: Tensor
    seen: Tensor
    places: Tensor
    noise: Tensor
    z: Tensor | None


class State(NamedTuple):
    """What the iterations write, in the order of drawing: tokens drawn (B, N, D), and as the encoder sees them, known.

    around: (B, N + 2 window, D + 1), tokens at their places, with a 1 where one is known, between margins of zeros.
    """

    drawn: Tensor
    known: Tensor
    around: Tensor | None


class Passes:
    """All passes of backbone and head that draw the tokens of a batch, with weights and schedule made ready."""

    def __init__(
        self, backbone: MaskedTransformer, head: nn.Module, objective, batch: int, dtype: torch.dtype | None,
        compiled: bool, *, num_inference_steps: int, decoding_schedule: str, guidance_scale: float, guidance: str,
        guidance_schedule: str, sampling_steps: int, temperature: float, temperature_schedule: str,
    ):
        """All as FastDecoder takes them."""
        decoding.check_dials(guidance_scale, guidance, guidance_schedule, temperature, temperature_schedule)
        ramps = (guidance_scale, guidance_schedule, temperature, temperature_schedule)
        shares = masking.decoding_schedule(decoding_schedule, num_inference_steps, backbone.config.tokens)
        self.plan, self.batch, self.objective = plan(shares, *ramps), batch, objective
        self.sampling_steps, self.joint = sampling_steps, guidance == "hidden"
        self.branches = 1 if guidance_scale == 1 else 2
        self.dtype = dtype or backbone.null_text.dtype
        self.backbone = packed.in_dtype(backbone, self.dtype)
        self.encoder, self.decoder = ([packed.BlockWeights.of(block) for block in blocks]
                                      for blocks in (self.backbone.encoder, self.backbone.decoder))
        self.at_once = packed.attends_at_once(self.backbone.null_text.device, self.dtype)
        self.ends = {}
        self.token_in = pair(self.backbone.token_in)
        steps = packed.enter, packed.reenter, packed.finish, packed.steered, packed.reverse_step
        self.enter, self.reenter, self.finish, steer, self.reverse_step = map(fused, steps) if compiled else steps
        adaptive = isinstance(head, AdaLNHead)
        self.head = packed.PackedHead(head, self.dtype, steer) if adaptive else packed.in_dtype(head, self.dtype)
        self.reverse = None
        if adaptive and head.config.main == "noise" and isinstance(objective, Diffusion):
            self.reverse = packed.Reverse(objective, head, sampling_steps, self.dtype)

    def state(self) -> State:
        """Room for what the iterations write."""
        c = self.backbone.config
        shapes = ((c.tokens, c.token_dim), (c.tokens, c.width), (c.tokens + 2 * c.window, c.token_dim + 1))
        drawn, known, around = (self.backbone.null_text.new_empty(self.batch, *shape) for shape in shapes)
        return State(drawn, known, around if c.window else None)

    @torch.inference_mode()
    def run(self, inputs: Inputs, state: State, generator: torch.Generator | None = None) -> Tensor:
        """All iterations: drawn (B, N, D), in that order. The host reads nothing that the device computes."""
        for now in self.plan:
            self.iterate(now, inputs, state, generator)
        return state.drawn

    def iterate(self, now: Iteration, inputs: Inputs, state: State, generator: torch.Generator | None = None) -> None:
        """Draw the tokens of one iteration and write them down where the next one reads them."""
        net, here = self.backbone, slice(now.placed, now.placed + now.share)
        if now.placed == 0 and state.around is not None:
            state.around.zero_()
        drawn = self.draw(now, self.hidden(now, inputs, state), inputs, generator).view(self.batch, now.share, -1)
        state.drawn[:, here] = drawn
        torch.add(F.linear(drawn, *self.token_in), inputs.seen[:, here], out=state.known[:, here])
        if state.around is not None:
            marked = F.pad(drawn, (0, 1), value=1.0)
            state.around.scatter_(1, rows_of(marked, inputs.order[:, here] + net.config.window), marked)

    def hidden(self, now: Iteration, inputs: Inputs, state: State) -> Tensor:
        """Hidden states h of the tokens to draw, (branches B share, C), those with text first."""
        net, placed, left = self.backbone, now.placed, self.backbone.config.tokens - now.placed
        fronts = [inputs.prefix, net.null_text.expand(self.batch, 1, -1)][: self.branches]
        lengths = [front.shape[1] + placed for front in fronts]
        mask = None if inputs.mask is None else inputs.mask[..., : lengths[0]]
        both = self.enter([[front, state.known[:, :placed]] for front in fronts], self.encoder[0].norm1)
        x = self.through(*both, self.rows(lengths, mask), self.encoder, net.encoder_norm)
        ground = self.ground(inputs, state)
        both = self.reenter(x, lengths, ground, net.mask_embedding, placed, self.decoder[0].norm1)
        rows, some = self.rows([length + left for length in lengths], inputs.mask), self.rows([now.share] * len(fronts))
        return self.through(*both, rows, self.decoder, net.decoder_norm, (left, some))

    def rows(self, lengths: list[int], mask: Tensor | None = None) -> packed.Rows:
        """How rows fall into clips, of each branch so long; where they end is told to the device once a decoder."""
        sizes, ends = tuple(self.batch * length for length in lengths), None
        if self.at_once and mask is None:
            if sizes not in self.ends:
                self.ends[sizes] = packed.ends_of(self.batch, sizes, self.backbone.null_text.device)
            ends = self.ends[sizes]
        return packed.Rows(self.backbone.config.heads, self.batch, sizes, mask, ends)

    def through(
        self, x: Tensor, y: Tensor, rows: packed.Rows, blocks: list, norm: nn.Module,
        some: tuple[int, packed.Rows] | None = None,
    ) -> Tensor:
        """The norm of what blocks make of rows x (R, C), y their first norm.

        some: how many positions are left at the end of each clip, and as Rows the first of them, for which alone the
        last block computes.
        """
        norms = [weights.norm1 for weights in blocks[1:]] + [pair(norm)]
        for i, (weights, after) in enumerate(zip(blocks, norms, strict=True), 1):
            if some and i == len(blocks):
                x, mixed = packed.attend_to_some(x, y, weights, rows, *some)
            else:
                mixed = packed.attend(y, weights, rows)
            x, y = self.finish(x, mixed, weights, after)
        return y

    def ground(self, inputs: Inputs, state: State) -> Tensor:
        """What the decoder adds to a token, known or not, (B, N, C): its position and, with a window, what is near."""
        if state.around is None:
            return inputs.places
        conv = self.backbone.neighbours
        windows = state.around.unfold(1, conv.kernel_size[0], 1).flatten(2)  # (B, N, (D + 1)(2 window + 1))
        near = F.linear(windows, conv.weight.flatten(1), conv.bias)
        return inputs.places + near.gather(1, rows_of(near, inputs.order))

    def draw(self, now: Iteration, h: Tensor, inputs: Inputs, generator: torch.Generator | None) -> Tensor:
        """Tokens of one iteration, (B share, D), from their hidden states (branches B share, C)."""
        start = inputs.noise[:, now.placed : now.placed + now.share].flatten(0, 1)
        w = now.w if self.branches == 2 else None
        if w is not None and self.joint:
            h, without = h.chunk(2)
            h, w = torch.lerp(without, h, w), None  # w h + (1 - w) without
        if self.reverse:
            z = inputs.z[:, self.batch * now.placed : self.batch * (now.placed + now.share)]
            return self.reverse(self.reverse_step, self.head, h, start, z, w)
        net, objective = self.head, self.objective
        if w is not None:
            net, h = decoding.guided(net, w), torch.cat(h.chunk(2), dim=-1)
        if hasattr(objective, "cooled"):
            objective = objective.cooled(now.warmth)
        return objective.sample(net, h, start, self.sampling_steps, generator)


def plan(shares: Sequence[int], scale: float, rise: str, temperature: float, warming: str) -> list[Iteration]:
    """The schedule with every iteration's guidance weight and temperature, as `decode` has them."""
    count, placed, found = sum(shares), 0, []
    for share in shares:
        warmth = temperature + (1 - temperature) * placed / count if warming == "linear" else temperature
        placed += share
        w = 1 + (scale - 1) * placed / count if rise == "linear" else scale
        found.append(Iteration(placed - share, share, w, warmth))
    return found


@cache
def fused(function):
    """A function of tensors and sizes, compiled once for all sizes."""
    return torch.compile(function, dynamic=True)


def rows_of(x: Tensor, index: Tensor) -> Tensor:
    """index (B, I) for gather and scatter of whole rows of x, (B, I, width of x)."""
    return index[..., None].expand(-1, -1, x.shape[-1])
