"""Recorded passes of text encoders: on a CPU they are plain, on a GPU bit for bit the same."""

import pytest
import torch
from torch import nn

from dear.fast import optimise
from dear.graphs import Replayed, replayed
from dear.pipeline import TextToAudio
from dear.text import TextConfig, TextEncoder


def encoder() -> TextEncoder:
    return TextEncoder(TextConfig(("a", "bell", "bird", "low"), length=6, width=16, layers=1, heads=2)).eval()


class Both(nn.Module):
    """Two encoders as one, as FlanT5AndClap is."""

    def __init__(self):
        super().__init__()
        self.t5, self.clap = encoder(), encoder()

    def encode(self, captions):
        return self.t5.encode(captions)


def test_a_recorded_encoder_shares_its_weights_and_leaves_the_plain_one_alone():
    plain = encoder()
    quick = replayed(plain)
    assert isinstance(quick.forward, Replayed) and "forward" not in vars(plain)
    assert quick.positions is plain.positions
    with torch.no_grad():
        plain.positions.add_(1)
    for mine, theirs in zip(quick.encode(["a low bell", "bird"]), plain.encode(["a low bell", "bird"]), strict=True):
        assert torch.equal(mine, theirs)


def test_of_two_encoders_in_one_each_is_recorded():
    plain = Both()
    quick = replayed(plain)
    assert all(isinstance(part.forward, Replayed) for part in (quick.t5, quick.clap))
    assert not any("forward" in vars(part) for part in (plain, quick, plain.t5, plain.clap))
    assert [name for name, _ in quick.named_parameters()] == [name for name, _ in plain.named_parameters()]


def test_an_optimised_pipe_records_its_text_encoder_unless_told_not_to():
    pipe = TextToAudio.from_pretrained("soundworld")
    assert isinstance(optimise(pipe).text.forward, Replayed)
    assert optimise(pipe, graph=False).text is pipe.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are CUDA's")
def test_a_graph_gives_the_same_bit_for_bit_and_follows_the_weights():
    plain = encoder().cuda()
    quick = replayed(plain)
    kept = []
    for captions in (["a low bell"], ["bird"], ["a low bell"], ["a low bird"], ["bell", "bird"]):
        kept.append([part.encode(captions)[0] for part in (quick, plain)])
    assert len(quick.forward.recorded) == 3
    with torch.no_grad():
        plain.positions.add_(1)
    kept.append([part.encode(["bird"])[0] for part in (quick, plain)])
    plain.to(torch.float64)  # moves the weights
    kept.append([part.encode(["bird"])[0] for part in (quick, plain)])
    for mine, theirs in kept:  # after all calls, so that none overwrote what another gave
        assert torch.equal(mine, theirs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are CUDA's")
def test_what_cannot_be_recorded_runs_plainly_and_says_so():
    class Asking(nn.Module):
        def forward(self, x):
            return x * (2 if x.sum().item() > 0 else 3)

    quick, ones = Replayed(Asking()), torch.ones(2, device="cuda")
    with pytest.warns(UserWarning, match="Asking runs without a graph"):
        assert quick(ones).tolist() == [2, 2]
    assert quick(-ones).tolist() == [-3, -3]
    plain = encoder().cuda()  # and another is recorded as before
    assert torch.equal(replayed(plain).encode(["bird"])[0], plain.encode(["bird"])[0])
