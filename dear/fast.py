"""The tokens of `dear.decoding.decode`, sooner: nothing is computed twice, and nothing that is not read.

`decode` is short and says what is meant. This file does the same with less work, exact but for rounding:

    order         tokens stand in the order in which they are drawn, so that what is known and what comes next are
                  slices: nothing is sorted or padded, and no size has to be asked of the device
    text          enters the transformer once a call, not once an iteration
    branches      share every matrix product; the one without text has one position in front, not as many as the text
    last layer    attends and computes only for the tokens that are drawn now
    head          one product makes all its modulations, of a diffusion for many steps at once (`dear.packed`)

The passes themselves are in `dear.passes`. On CUDA each is recorded as a graph, so that no kernel waits for Python.
"""

from collections import OrderedDict
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dear import decoding, packed
from dear.backbone import MaskedTransformer
from dear.graphs import kept, record, replayed
from dear.objectives.energy import Energy, EnergyAllPairs
from dear.passes import Inputs, Passes, State, rows_of
from dear.pipeline import TextToAudio
from dear.text import TextEncoder
from dear.text_pretrained import Clap, FlanT5, FlanT5AndClap


class FastDecoder(Passes):
    """`decode` for one size of batch and one choice of settings, with everything prepared.

    Weights are read when it is built: build it after training, and after moving the nets to their device. Graphs read
    and write tensors of their own, so that one decoder serves one thread.
    """

    @torch.no_grad()
    def __init__(
        self,
        backbone: MaskedTransformer,
        head: nn.Module,
        objective,
        *,
        batch: int,
        dtype: torch.dtype | None = None,
        compiled: bool = False,
        graph: bool | None = None,
        **settings,
    ):
        """backbone, head, objective, and settings (num_inference_steps and so on): as `decode` takes them.

        batch: B of every text that will come.  dtype: of copies of the nets, None: the nets themselves.
        compiled: fuse small operations with torch.compile, which takes minutes at first.
        graph: record CUDA graphs, None: if it can be, on CUDA with an energy or diffusion objective.
        """
        super().__init__(backbone, head, objective, batch, dtype, compiled, **decoding.SETTINGS | settings)
        able = backbone.null_text.is_cuda and bool(self.reverse or isinstance(objective, Energy | EnergyAllPairs))
        if graph and not able:
            raise ValueError("graphs are for CUDA and for an objective that draws nothing random between calls of the "
                             f"head, got {backbone.null_text.device} and {type(objective).__name__}")
        self.graph, self.recorded = able if graph is None else graph, OrderedDict()

    @torch.no_grad()
    def __call__(
        self,
        text: Tensor,
        text_mask: Tensor,
        *,
        generator: torch.Generator,
        pooled: Tensor | None = None,
        order: Tensor | None = None,
    ) -> Tensor:
        """Draw all tokens of B clips, (B, N, D), in the dtype of text; arguments as `decode` takes them."""
        inputs = self.prepare(text, text_mask, generator=generator, pooled=pooled, order=order)
        drawn = self.replay(inputs) if self.graph else self.run(inputs, self.state(), generator)
        return torch.empty_like(drawn).scatter_(1, rows_of(drawn, inputs.order), drawn).to(text.dtype)

    @torch.no_grad()
    def prepare(self, text: Tensor, text_mask: Tensor, *, generator, pooled=None, order=None) -> Inputs:
        """Check and read the text, and draw all that is random, in the order in which `decode` draws it."""
        net, (batch, count) = self.backbone, (self.batch, self.backbone.config.tokens)
        if len(text) != batch:
            raise ValueError(f"this decoder was built for {batch} texts at once, got {len(text)}")
        if order is None:
            order = torch.rand(batch, count, generator=generator, device=text.device).argsort(dim=1)
        elif not torch.equal(order.sort(dim=1).values.cpu(), torch.arange(count).expand(batch, -1)):
            raise ValueError(f"order must be ({batch}, {count}) with every position once in each row")
        size = getattr(self.objective, "noise_dim", None) or net.config.token_dim
        # Drawn in the dtype of the text, as `decode` draws it: other dtypes draw other numbers from the same seed.
        noise = torch.randn(batch, count, size, dtype=text.dtype, generator=generator, device=text.device)
        noise = noise.gather(1, rows_of(noise, order))
        warmth = [now.warmth for now in self.plan for _ in range(now.share)]
        if not hasattr(self.objective, "cooled") and set(warmth) != {1}:
            warmth = torch.tensor(warmth, dtype=torch.promote_types(text.dtype, torch.float32), device=text.device)
            noise = (noise * warmth[:, None]).to(text.dtype)
        z = self.reverse.noise(self.plan, noise, generator) if self.reverse else None
        text, pooled = text.to(self.dtype), None if pooled is None else pooled.to(self.dtype)
        blank = text.new_empty(batch, count, net.config.token_dim)
        net._check(blank, torch.ones_like(order, dtype=torch.bool), text, text_mask, pooled)
        prefix, words = net._prefix(text, text_mask, None, pooled)
        mask = None if words.all() else F.pad(words, (0, count), value=True)[:, None, None]
        places = net.encoder_positions[order], net.decoder_positions[order]
        return Inputs(prefix, mask, order, *places, noise.to(self.dtype), z)

    def replay(self, inputs: Inputs) -> Tensor:
        """What `run` gives, by graphs recorded at the first call for a prefix of this length; KEPT are kept."""
        kind = inputs.prefix.shape[1], inputs.mask is not None
        with torch.cuda.device(inputs.prefix.device):
            if kind not in self.recorded:
                self.recorded[kind] = self.record(Inputs(*(part if part is None else part.clone() for part in inputs)))
            kept(self.recorded, kind)
            graphs, static, state = self.recorded[kind]
            for room, part in zip(static, inputs, strict=True):
                if part is not None:
                    room.copy_(part)
            for graph in graphs:
                graph.replay()
        return state.drawn

    def record(self, static: Inputs) -> tuple[list, Inputs, State]:
        """A graph for every iteration, all reading these inputs and writing one state.

        One graph for all would have 200,000 kernels for a teacher at paper size; 64 launches cost nothing beside them.
        Only the state passes from one to the next.
        """
        state = self.state()
        calls = [partial(self.iterate, now, static, state) for now in self.plan]
        return record(calls, static.prefix.device), static, state


def optimise(
    pipe: TextToAudio, *, dtype: torch.dtype | None = None, compiled: bool = False, graph: bool | None = None
) -> TextToAudio:
    """A pipe with the parts of this one, whose tokens come from a FastDecoder; see there for the options.

    On CUDA the text encoder's passes are recorded as graphs too.

    It notices when an optimiser or `load_state_dict` has changed the weights, or when they have moved. Not so a change
    to their `.data`: build it anew after that.
    """
    return FastPipe(pipe, dtype, compiled=compiled, graph=graph)


class FastPipe(TextToAudio):
    """A TextToAudio with a FastDecoder for each of the sizes and settings that it was last asked for."""

    def __init__(self, pipe: TextToAudio, dtype: torch.dtype | None = None, **options):
        text = pipe.text
        if options.get("graph") is not False and isinstance(text, TextEncoder | FlanT5 | Clap | FlanT5AndClap):
            text = replayed(text, options.get("compiled", False))
        super().__init__(text, pipe.backbone, pipe.head, pipe.vae, pipe.settings, pipe.vocoder, pipe.objective)
        self.options, self.decoders, self.dtype = options, OrderedDict(), dtype or pipe.backbone.null_text.dtype
        self.mark = self.copy = None

    def refresh(self) -> None:
        """Forget all decoders if weights have changed or moved since they were built."""
        mark = [(p.data_ptr(), p._version) for net in (self.backbone, self.head) for p in net.parameters()]
        if mark != self.mark:
            self.decoders.clear()
            self.mark, self.copy = mark, packed.in_dtype(self.backbone, self.dtype)

    def draw(self, text: Tensor, text_mask: Tensor, *, generator, pooled=None, order=None, callback=None, **settings):
        """As TextToAudio.draw; what wants to watch, a callback, gets the plain way."""
        given = {"generator": generator, "pooled": pooled, "order": order}
        if callback is not None:
            return super().draw(text, text_mask, **given, callback=callback, **settings)
        self.refresh()
        key = (len(text), *sorted(settings.items()))
        if key not in self.decoders:
            size = {"batch": len(text), "dtype": self.dtype}
            self.decoders[key] = FastDecoder(self.copy, self.head, self.objective, **size, **self.options, **settings)
        kept(self.decoders, key)
        return self.decoders[key](text, text_mask, **given)
