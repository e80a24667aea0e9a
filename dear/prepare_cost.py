"""What `dear data prepare` costs a clip: audio, VAE and texts timed part by part, and what shards hold and how fast.

The encoders have the sizes of AudioLDM's VAE, Flan-T5 large and CLAP, and random weights; they run in float32 on one
clip at a time, as there. Tokenising a caption and writing a sample are left out: they take next to nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from dear import cost, fullsize
from dear.bench import time_calls
from dear.data.corpus import Clip, Corpus, crop_generator
from dear.data.encoding import latent, text_vectors
from dear.data.sharded import ShardedLatents
from dear.data.shards import prepare
from dear.stages import LONGEST, surroundings
from dear.text_pretrained import Clap, FlanT5
from dear.vae_pretrained import PretrainedVAE, PretrainedVAEConfig

USUAL = 16  # vectors of a caption: AudioCaps' and WavCaps' have 8 to 9 words on average, and a word may make two tokens
CLIPS = 32  # in the shard that is written and read
CAPTION = "A dog barks while birds sing in the distance"
AUDIO, LATENT, TEXT, SHARD = "audio, read and resampled", "log-mel and VAE encoder", "text", "shard read"  # stages
PEAK = 0.5  # to which clips are scaled before AudioLDM's VAE


@contextmanager
def tasks(device: str, repeats: int) -> Iterator[Iterator[tuple[dict, Callable[[], dict]]]]:
    """Give what there is to time, each with a function that returns its row; files are kept while the block lasts."""
    with TemporaryDirectory() as home:
        recording = Path(home, "recording.flac")
        noise = 0.1 * np.random.default_rng(0).standard_normal(30 * 32_000)
        soundfile.write(recording, noise, 32_000)  # 30 s at the rate of WavCaps: the part that is wanted is decoded
        clips = [Clip(f"noise/{i}", str(recording), 0.0, 30.0, (CAPTION,), (f"freesound:{i}",)) for i in range(CLIPS)]
        yield _tasks(Corpus("noise", clips), Path(home), device, repeats)


def _tasks(corpus: Corpus, home: Path, device: str, repeats: int) -> Iterator[tuple[dict, Callable[[], dict]]]:
    def timed(told: dict, make: Callable[[], tuple[Callable[[], object], dict]]) -> dict:
        call, more = make()
        call()
        found = time_calls(call, repeats, device, at_most=LONGEST)
        return told | {"clips": 1, "dtype": "float32", "seconds": asdict(found)} | more

    def texts(length: int) -> tuple[Callable[[], object], dict]:
        return partial(text_vectors, text(device, length), corpus[0]), {"length": length}

    def shards(length: int) -> tuple[Callable[[], object], dict]:
        made = prepare(corpus, home / f"shards{length}", partial(blank_encoders, length), progress=False)
        reading, size = ShardedLatents(made.folder, CLIPS), made.totals["bytes"] / made.totals["clips"]
        return lambda: list(reading), {"length": length, "clips": CLIPS, "bytes_per_clip": round(size)}

    parts = {AUDIO: lambda: (lambda: corpus.read(0, crop_generator(corpus[0], 0)), {}),
             LATENT: lambda: (partial(latent, vae(device), 0.1 * fullsize.noise("cpu", corpus.samples), PEAK), {})}
    parts |= {f"{TEXT}, {length} tokens": partial(texts, length) for length in (USUAL, fullsize.WORDS)}
    parts |= {f"{SHARD}, texts of {length} tokens": partial(shards, length) for length in (USUAL, fullsize.WORDS)}
    for name, make in parts.items():
        yield {"stage": name}, partial(timed, {"stage": name}, make)


def vae(device: str) -> PretrainedVAE:
    """AudioLDM's VAE with random weights."""
    net = surroundings()["VAE"](1, device).func.__self__  # its `decode`
    return _stand_in(PretrainedVAE, net, config=PretrainedVAEConfig(mels=64, channels=8, step=4, steps_per_token=4))


def text(device: str, length: int) -> SimpleNamespace:
    """What `text_vectors` asks of Flan-T5 large and CLAP, with random weights; every caption has `length` tokens."""
    def tokenizer(captions: list[str], **_) -> dict[str, Tensor]:
        ids = torch.full((len(captions), length), 5)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    nets = (surroundings()[name](1, device).func.net for name in ("Flan-T5's text", "CLAP's text"))
    t5, clap = (_stand_in(kind, net, tokenizer=tokenizer, length=length)
                for kind, net in zip((FlanT5, Clap), nets, strict=True))
    return SimpleNamespace(encode=t5.encode, pooled=clap.pooled)


def _stand_in(kind: type[nn.Module], net: nn.Module, **attributes) -> nn.Module:
    """A pretrained part with a network that no folder holds, and all its own methods."""
    made = kind.__new__(kind)
    nn.Module.__init__(made)
    made.model = net
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def blank_encoders(length: int) -> tuple[nn.Module, nn.Module]:
    """Encoders of the paper's shapes that compute nothing: what a shard takes does not depend on what it says."""
    return _BlankVAE(1, 1), _BlankText(length)


class _BlankVAE(nn.Linear):
    config = PretrainedVAEConfig(mels=64, channels=8, step=4, steps_per_token=4)

    def scaled_posterior(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        frames, bands = log_mel.shape[1] // self.config.step, log_mel.shape[2] // self.config.step
        return (torch.zeros(1, self.config.channels, frames, bands),) * 2


class _BlankText(nn.Module):
    def __init__(self, length: int):
        super().__init__()
        self.length = length

    def encode(self, captions: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        shape = len(captions), self.length
        return torch.zeros(*shape, cost.SIZES["paper"].backbone.text_dim), torch.ones(shape, dtype=torch.bool)

    def pooled(self, captions: tuple[str, ...]) -> Tensor:
        return torch.zeros(len(captions), cost.SIZES["paper"].backbone.pooled_dim)
