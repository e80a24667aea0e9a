"""The stages of a clip, each timed apart: text, a pass of the backbone, a call of the head, VAE, vocoder."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache, partial

import torch
from torch import Tensor, nn

from dear import cost, fullsize
from dear.bench import default_dtype, time_calls
from dear.fast import optimise
from dear.graphs import Replayed
from dear.pipeline import TextToAudio

LONGEST = 4.0  # seconds spent on one row, unless a single run takes longer


def stages(
    nets: nn.ModuleDict, size: str, batch: int, dtype: str, repeats: int, device: str
) -> Iterator[tuple[dict, Callable[[], dict]]]:
    """What a clip passes through, each with a function that times it: one pass of a network, or a whole part.

    nets: "backbone", "student" and "teacher" of the size, in a dtype.
    """
    def timed(told: dict, prepare: Callable[[int, str], Callable]) -> dict:
        with torch.no_grad():
            with default_dtype(dtype):
                call = prepare(batch, device)
            call()
            return told | {"dtype": dtype, "seconds": asdict(time_calls(call, repeats, device, at_most=LONGEST))}

    n = cost.SIZES[size].backbone.tokens
    parts = {"backbone, half the tokens known": partial(fullsize.backbone_pass, nets, n // 2)}
    for model, branches in (("student", 1), ("teacher", 2)):
        parts[f"head, {model}, a 16th of the tokens"] = partial(fullsize.head_pass(model, branches), nets, n // 16)
    parts |= surroundings(batch == 1) if size == "paper" else shipped(device)
    for name, prepare in parts.items():
        told = {"size": size, "batch": batch, "stage": name}
        yield told, partial(timed, told, prepare)


def shipped(device: str) -> dict[str, Callable[[int, str], Callable[[], object]]]:
    """The classroom's other parts, and its whole way, of the shipped student with its own settings, in float32."""
    caption, drawn = "a quiet high rain", lambda: torch.Generator(device).manual_seed(0)

    @cache
    def pipe() -> TextToAudio:
        with default_dtype("float32"):
            return TextToAudio.from_pretrained("soundworld").to(device)

    def vae(batch: int, _: str) -> Callable[[], object]:
        tokens = pipe().tokens([caption] * batch, drawn())
        return lambda: pipe().vae.decode(tokens, drawn())

    def vocoder(batch: int, _: str) -> Callable[[], object]:
        mels = vae(batch, device)()
        return lambda: pipe().vocoder(mels, drawn())

    def way(path: str, whole: bool, batch: int, _: str) -> Callable[[], object]:
        one, prompts = pipe() if path == "plain" else optimise(pipe()), [caption] * batch
        return lambda: one(prompts, generator=drawn()) if whole else one.tokens(prompts, drawn())

    parts = {"text": lambda batch, _: lambda: pipe().text.encode([caption] * batch), "VAE": vae, "vocoder": vocoder}
    return parts | {f"text to {end}, {path}": partial(way, path, end == "waveform")
                    for path in ("plain", "optimised") for end in ("tokens", "waveform")}


class Reader(nn.Module):
    """A text encoder of transformers as a function of token indices and mask (B, L), of which one output is read."""

    def __init__(self, net: nn.Module, output: str):
        super().__init__()
        self.net, self.output = net, output

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return getattr(self.net(input_ids=ids, attention_mask=mask), self.output)


def surroundings(quick: bool = False) -> dict[str, Callable[[int, str], Callable[[], object]]]:
    """What stands before and after the tokens of AudioDEAR and IMPACT: prepare(batch, device), by the part's name.

    Flan-T5 large and CLAP's text encoder read texts of full length; the VAE and the vocoder are those of AudioLDM.
    quick: the encoders also as `dear.fast` has them, which on a GPU takes half a minute to compile.
    """
    def t5() -> nn.Module:
        from transformers import T5Config, T5EncoderModel

        return Reader(T5EncoderModel(T5Config(
            d_model=1024, d_kv=64, d_ff=2816, num_layers=24, num_heads=16, feed_forward_proj="gated-gelu",
        )), "last_hidden_state")

    def clap() -> nn.Module:
        from transformers import ClapTextConfig, ClapTextModelWithProjection

        return Reader(ClapTextModelWithProjection(ClapTextConfig()), "text_embeds")

    def read(build: Callable[[], nn.Module], soon: bool, batch: int, device: str) -> Callable[[], object]:
        net, ids = _made(device, build), torch.full((batch, fullsize.WORDS), 5, device=device)
        return partial(Replayed(net, device.startswith("cuda")) if soon else net, ids, torch.ones_like(ids))

    def vae(batch: int, device: str) -> Callable[[], object]:
        from diffusers import AutoencoderKL

        net = _made(device, lambda: AutoencoderKL(
            in_channels=1, out_channels=1, latent_channels=8, block_out_channels=(128, 256, 512), layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3))
        return partial(net.decode, fullsize.noise(device, batch, 8, 256, 16))

    def vocoder(batch: int, device: str) -> Callable[[], object]:
        from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

        net = _made(device, lambda: SpeechT5HifiGan(SpeechT5HifiGanConfig(
            model_in_dim=64, upsample_initial_channel=1024, upsample_rates=[5, 4, 2, 2, 2],
            upsample_kernel_sizes=[16, 16, 8, 4, 4], normalize_before=False)))
        return partial(net, fullsize.noise(device, batch, 1024, 64))

    texts = {f"{name}'s text{end}": partial(read, build, soon) for name, build in (("Flan-T5", t5), ("CLAP", clap))
             for end, soon in (("", False), (", optimised", True))[: 1 + quick]}
    return texts | {"VAE": vae, "vocoder": vocoder}


def _made(device: str, build: Callable[[], nn.Module]) -> nn.Module:
    """A network with the weights that its own class begins with, as it has buffers."""
    with torch.device(device):
        return build().eval().requires_grad_(False)
