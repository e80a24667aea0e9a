"""The systems that `dear bench` times: AudioDEAR, IMPACT, ConsistencyTTA, SoundCTM, AudioLCM, AudioTurbo and two older.

Where each network's shape comes from stands at its system. Texts are of full length: 77 vectors.
"""

from collections.abc import Callable
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dear import decoding
from dear.backbone import BackboneConfig, MaskedTransformer
from dear.bench import Pass, System
from dear.head import AdaLNHead, HeadConfig
from dear.masking import decoding_schedule
from dear.objectives.diffusion import Diffusion
from dear.objectives.energy import Energy

WORDS = 77


def masked_systems(
    config: BackboneConfig, width: int = 1024, iterations=(64, 16, 4), steps: int = 100, whole=(4,)
) -> list[System]:
    """Student (energy head) and teacher (diffusion head, `steps` passes a token) on one backbone, as both papers have.

    width: of the 3 blocks of a head.  iterations: of decoding, a system each.  whole: those also run from end to end.
    A pass of the backbone sees the more tokens the more are known; a head draws as many as its iteration places.
    """
    def build() -> nn.Module:
        heads = {f"{name} head": AdaLNHead(HeadConfig(config.token_dim, None, config.width, width, 3, times))
                 for name, times in (("energy", 0), ("diffusion", 1))}
        return nn.ModuleDict({"backbone": MaskedTransformer(config), **heads})

    n = config.tokens
    backbone = Pass("backbone", "backbone", backbone_pass, (0, n // 4, n // 2, 3 * n // 4, n - 1))
    places = tuple(size for size in (1, 4, 16, 64, 256) if size < n) + (n,)
    kinds = {
        "AudioDEAR": ("energy head", 1, Energy(), "hidden", {64: 2.61}, "arXiv 2605.00329; one call of the head a "
                      "token; guidance on h, both branches in one pass of the backbone"),
        "IMPACT": ("diffusion head", steps, Diffusion(prediction="epsilon"), "prediction", {64: 22.34, 16: 5.7, 4: 1.8},
                   f"arXiv 2506.00736; {steps} calls of the head a token; guidance on the noise, both branches in one "
                   "pass of backbone and head"),
    }
    found = []
    for name, (part, calls, objective, guidance, paper, note) in kinds.items():
        head = Pass(part, part, head_pass(part, 2 if guidance == "prediction" else 1), places)
        for t in iterations:
            shares = decoding_schedule("cosine", t, n)
            known = tuple(accumulate(shares[:-1], initial=0))
            clip = ((backbone, known), (head, tuple(share for share in shares for _ in range(calls))))
            run = _decode(part, objective, num_inference_steps=t, guidance=guidance, sampling_steps=calls)
            run = run if t in whole else None
            found.append(System(f"{name}, {t} iterations", build, clip, note, paper.get(t), run))
    return found


def backbone_pass(net: nn.ModuleDict, known: int, batch: int, device: str) -> Callable[[], Tensor]:
    """A pass with guidance: the second half of the rows does not see the text."""
    model, rows = net["backbone"], 2 * batch
    c = model.config
    masked = (torch.arange(c.tokens, device=device) >= known).expand(rows, -1)
    inputs = (noise(device, rows, c.tokens, c.token_dim), masked, *random_text(c, rows, device))
    drop, pooled = torch.arange(rows, device=device) >= batch, random_pooled(c, rows, device)
    return lambda: model(*inputs, drop, pooled)


def head_pass(part: str, branches: int) -> Callable:
    """A pass for `size` tokens of every clip, each of them in so many branches of guidance."""
    def prepare(net: nn.ModuleDict, size: int, batch: int, device: str) -> Callable[[], Tensor]:
        c, rows = net[part].config, branches * size * batch
        x, cond = noise(device, rows, c.noise_dim or c.token_dim), noise(device, rows, c.cond_dim)
        times = [torch.full((rows,), 0.5, device=device)] * c.times
        return lambda: net[part](x, cond, *times)

    return prepare


def _decode(head: str, objective, **options) -> Callable:
    """Decoding of a clip from beginning to end, with guidance."""
    def run(net: nn.ModuleDict, batch: int, device: str) -> Tensor:
        c = net["backbone"].config
        return decoding.decode(
            net["backbone"], net[head], objective, *random_text(c, batch, device), **options,
            pooled=random_pooled(c, batch, device), generator=torch.Generator(device).manual_seed(0),
        )

    return run


def unet(channels: tuple[int, ...], latent: int = 8, kind: str = "UNet2DConditionModel", **more) -> Callable:
    """A function that makes a U-Net of diffusers, two layers a level, as Stable Diffusion has it."""
    def build() -> nn.Module:
        try:
            import diffusers
        except ImportError as error:
            raise ImportError("full-size U-Nets need diffusers: pip install 'dear[pretrained]'") from error
        return getattr(diffusers, kind)(
            in_channels=latent, out_channels=latent, layers_per_block=2, block_out_channels=channels, **more)

    return build


def unet_pass(latent: tuple[int, int, int], branches: int, texts: dict[str, tuple[int, int]], weight: int = 0) -> Pass:
    """A pass of a U-Net for every clip in so many branches of guidance.

    latent: channels, height, width.  texts: vectors and their size, by the name of the argument.  weight: size of the
    features of a guidance weight that the network takes, 0: it takes none.
    """
    def prepare(net: nn.Module, size: int, batch: int, device: str) -> Callable[[], tuple[Tensor]]:
        rows = branches * batch
        inputs = {name: noise(device, rows, *shape) for name, shape in texts.items()}
        if weight:
            inputs["timestep_cond"] = noise(device, rows, weight)
        x = noise(device, rows, *latent)
        return lambda: net(x, 500, return_dict=False, **inputs)

    return Pass("U-Net x 2" if branches == 2 else "U-Net", "", prepare)


class ConvTransformer(nn.Module):
    """AudioLCM's network: transformer blocks whose MLP is convolutions over 9 positions, on time, text and sound.

    Shapes of ConcatDiT2MLP and configs/audiolcm.yaml in github.com/Text-to-Audio/AudioLCM (first release).
    """

    def __init__(self, channels: int = 20, text: int = 1024, width: int = 576, depth: int = 4, heads: int = 8):
        super().__init__()
        self.guidance_in = nn.Linear(256, 256, bias=False)
        self.time_in = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.texts_in = nn.ModuleList(
            nn.Sequential(nn.Linear(text, width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width))
            for _ in range(2)
        )
        self.frames_in = nn.Conv1d(channels, width, 5, padding=2)
        self.positions = nn.Parameter(torch.empty(1000, width))
        self.blocks = nn.ModuleList(ConvBlock(width, heads) for _ in range(depth))
        self.out = nn.Sequential(nn.GroupNorm(16, width), nn.Conv1d(width, channels, 1))

    def forward(self, frames: Tensor, time: Tensor, weight: Tensor, texts: Tensor) -> Tensor:
        """frames: (B, channels, T).  time, weight: (B, 256) features.  texts: (B, 2 L, E), two encoders' vectors."""
        time = self.time_in(time + self.guidance_in(weight))[:, None]
        texts = [read(text) for read, text in zip(self.texts_in, texts.chunk(2, dim=1), strict=True)]
        x = torch.cat([time, *texts, self.frames_in(frames).mT], dim=1)
        x = x + self.positions[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.out(x[:, -frames.shape[2] :].mT)


class ConvBlock(nn.Module):
    """x + out(two self-attentions and a gated MLP of convolutions, of in(norm(x)))."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(32, width)
        self.first, self.last = nn.Conv1d(width, width, 1), nn.Conv1d(width, width, 1)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width, bias=False) for _ in range(2))
        self.proj = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.widen = nn.Conv1d(width, 8 * width, 9, padding=4)
        self.narrow = nn.Conv1d(4 * width, width, 9, padding=4)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, S, width).  Returns the same shape."""
        y = self.first(self.norm(x.mT)).mT
        for norm, qkv, proj in zip(self.norms[:2], self.qkv, self.proj, strict=True):
            q, k, v = qkv(norm(y)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            y = y + proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        value, gate = self.widen(self.norms[2](y).mT).chunk(2, dim=1)
        y = y + self.narrow(value * F.gelu(gate)).mT
        return x + self.last(y.mT).mT


def _frames(net: nn.Module, size: int, batch: int, device: str) -> Callable[[], Tensor]:
    """A pass of AudioLCM's network: 312 frames of 20 channels (10 s), and 2 x 77 text vectors."""
    shapes = ((20, 312), (256,), (256,), (2 * WORDS, 1024))
    inputs = [noise(device, batch, *shape) for shape in shapes]
    return lambda: net(*inputs)


def systems() -> list[System]:
    """All that is compared; a name, its network, its passes a clip, and where the shape comes from."""
    stable = {"attention_head_dim": (5, 10, 20, 20), "cross_attention_dim": 1024, "use_linear_projection": True}
    tango = unet((320, 640, 1280, 1280), **stable)
    small = unet((256, 512, 1024, 1024), time_cond_proj_dim=256, **stable)
    auffusion = unet((320, 640, 1280, 1280), latent=4, attention_head_dim=8, cross_attention_dim=768)
    audioldm2 = unet(
        (128, 256, 384, 640), kind="AudioLDM2UNet2DConditionModel", attention_head_dim=8,
        cross_attention_dim=((None, 768, 1024),) * 4,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * 3),
        up_block_types=(*("CrossAttnUpBlock2D",) * 3, "UpBlock2D"),
    )
    latent, flan = (8, 256, 16), {"encoder_hidden_states": (WORDS, 1024)}
    once, twice = unet_pass(latent, 1, flan, weight=256), unet_pass(latent, 2, flan)
    clip_text = unet_pass((4, 32, 128), 2, {"encoder_hidden_states": (WORDS, 768)})
    two_texts = unet_pass(latent, 2, {"encoder_hidden_states": (8, 768), "encoder_hidden_states_1": (WORDS, 1024)})
    frames = Pass("transformer", "", _frames)
    lcm = ("shape of the code's first release, 160 M; the guidance weight is an input; 10 s, its own latent of 20 "
           "channels x 312 frames")
    return [
        *masked_systems(BackboneConfig.paper()),
        System("ConsistencyTTA", small, ((once, (0,)),), "tango_diffusion_light.json of its code; the guidance weight "
               "is an input, here as a condition of the time, in its code with an embedding of its own", 3.03),
        System("SoundCTM", tango, ((twice, (0,)),), "Tango's network, as its code has it, without the small embeddings "
               "of the target time and the weight; both branches of guidance", 2.48),
        System("AudioLCM, 1 step", ConvTransformer, ((frames, (0,)),), lcm, 2.75),
        System("AudioLCM, 2 steps", ConvTransformer, ((frames, (0, 0)),), lcm, 2.93),
        System("AudioTurbo, 5 steps", auffusion, ((clip_text, (0,) * 5),), "Auffusion's network, which AudioTurbo "
               "fine-tunes: Stable Diffusion 1.5's, by the size of its weights; its own latent of 4 x 32 x 128; both "
               "branches of guidance"),
        System("AudioLDM2, 200 steps", audioldm2, ((two_texts, (0,) * 200),), "audioldm2 of diffusers; both branches"),
        System("Tango, 200 steps", tango, ((twice, (0,) * 200),), "its own network; both branches of guidance"),
    ]


def random_text(c: BackboneConfig, rows: int, device: str) -> tuple[Tensor, Tensor]:
    length = c.text_length - bool(c.pooled_dim)
    return noise(device, rows, length, c.text_dim), torch.ones(rows, length, dtype=torch.bool, device=device)


def random_pooled(c: BackboneConfig, rows: int, device: str) -> Tensor | None:
    return noise(device, rows, c.pooled_dim) if c.pooled_dim else None


def noise(device: str, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator(device).manual_seed(0), device=device)
