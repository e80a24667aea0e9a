"""CUDA graphs: work that is recorded once and replayed, so that no kernel waits for Python."""

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

KEPT = 4  # what was recorded or built for the sizes last used; more of them would fill the memory


def record(calls: Sequence[Callable[[], object]], device: torch.device) -> list[torch.cuda.CUDAGraph]:
    """A graph for each of the calls, which must find all they read at fixed places, and leave there what they write.

    They may share memory, as they are replayed in turn: what a call returns is overwritten by the next. All are called
    once before, since libraries choose kernels and ask for workspace in a first call, which recording forbids.
    """
    side, pool, graphs = _side(device), torch.cuda.graph_pool_handle(), []
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(side)
    for call in calls:
        graphs.append(torch.cuda.CUDAGraph())
        with torch.cuda.graph(graphs[-1], pool=pool):
            call()
    return graphs


class Replayed:
    """The forward pass of a network that draws nothing, recorded for each choice of sizes when it first comes.

    compiled: fuse small operations with torch.compile first. What it gives follows the weights, also where they have
    moved.
    """

    def __init__(self, net: nn.Module, compiled: bool = False):
        self.forward = torch.compile(net.forward) if compiled else net.forward
        self.name, self.weights, self.recorded = type(net).__name__, list(net.parameters()), OrderedDict()

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Tensor:
        """The network's one output; inputs that are not on CUDA are simply passed on."""
        if not all(part.is_cuda for part in inputs):
            return self.forward(*inputs)
        key = *((part.shape, part.dtype) for part in inputs), *(weight.data_ptr() for weight in self.weights)
        with torch.cuda.device(inputs[0].device):
            if key not in self.recorded:
                self.recorded[key] = self.record([part.clone() for part in inputs])
            kept(self.recorded, key)
            if self.recorded[key] is None:
                return self.forward(*inputs)
            graph, rooms, made = self.recorded[key]
            for room, part in zip(rooms, inputs, strict=True):
                room.copy_(part)
            graph.replay()
        return made.clone()

    def record(self, rooms: list[Tensor]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor] | None:
        """The graph, what it reads, and what it writes; None for a network that cannot be recorded.

        Versions of transformers differ in which of their networks ask the host for a number in the middle of a pass.
        """
        made = []
        try:
            (graph,) = record([lambda: made.append(self.forward(*rooms))], rooms[0].device)
        except RuntimeError as error:
            warnings.warn(f"{self.name} runs without a graph, as it cannot be recorded: {error}", stacklevel=3)
            return None
        return graph, rooms, made[-1]


def replayed(text: nn.Module, compiled: bool = False) -> nn.Module:
    """A text encoder of this library that shares the weights of this one, and whose forward passes are `Replayed`."""
    quick, parts = copy.copy(text), {n: part for n, part in text.named_children() if hasattr(part, "encode")}
    if parts:  # FlanT5AndClap is two encoders, each of the others one
        quick._modules = dict(text.named_children()) | {name: replayed(part, compiled) for name, part in parts.items()}
    else:
        quick.forward = Replayed(text, compiled)
    return quick


def kept(cache: OrderedDict, key) -> None:
    """Note that a key was used, and drop what was used least recently beyond KEPT."""
    cache.move_to_end(key)
    if len(cache) > KEPT:
        cache.popitem(last=False)


@lru_cache
def _side(device: torch.device) -> torch.cuda.Stream:
    """One stream to warm up on: each new one would keep a workspace of its own."""
    return torch.cuda.Stream(device)
