"""What a guided teacher draws for the unknown tokens of every clip, made once: cleaner targets than the data."""

from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from dear.components import digest, write_tensors
from dear.data.latents import Latents, stored
from dear.decoding import guided
from dear.masking import CLASSROOM_LAW, training_mask
from dear.text import read_captions

BATCH = 64


class Draws:
    """Tokens (size, N, D) in float16, of the data where known and the teacher's where `masked` (size, N)."""

    def __init__(self, tokens: Tensor, masked: Tensor, captions: list[str]):
        self.tokens, self.masked, self.captions = tokens, masked, captions

    def __len__(self) -> int:
        return len(self.captions)

    def draw(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, D) float32 and what of them is unknown, (B, N), on the generator's device."""
        return self.tokens[indices].to(generator.device).float(), self.masked[indices].to(generator.device)


@torch.no_grad()
def teacher_draws(
    teacher, latents: Latents, path: Path, *, guidance_scale: float = 2.0, temperature: float = 1.0,
    sampling_steps: int = 25, seed: int = 0, progress: bool = True,
) -> Draws:
    """One training mask a clip, and one draw of `teacher`, a TextToAudio, for each unknown token of it.

    The teacher is guided as IMPACT guides (out = out_uncond + w (out_cond - out_uncond)), `temperature` multiplies the
    noise of its reverse steps, and each clip's batch has a generator of its own. Read from `path` if the file is there
    and its fingerprint fits the teacher's weights, the latents and the settings; made and written anew if not.
    """
    for name, value in (("guidance_scale", guidance_scale), ("temperature", temperature)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be a number >= 0, got {value}")
    objective = teacher.objective.cooled(temperature)
    known = {k: v for k, v in vars(objective).items() if not torch.is_tensor(v)}  # the tensors follow from these
    settings = repr((guidance_scale, sampling_steps, seed, CLASSROOM_LAW, sorted(known.items())))
    weights = [v for part in (teacher.text, teacher.backbone, teacher.head) for v in part.state_dict().values()]
    mark = digest([settings, *latents.captions], *weights, latents.mean, latents.std)
    if there := stored(path, mark):
        return Draws(there["tokens"], there["masked"], list(latents.captions))
    found = []
    for start in tqdm(range(0, len(latents), BATCH), f"drawing the teacher's tokens into {path}", disable=not progress):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
        indices = torch.arange(start, min(start + BATCH, len(latents)))
        found.append(_draw(teacher, objective, latents, indices, guidance_scale, sampling_steps, generator))
    tokens, masked = (torch.cat(parts) for parts in zip(*found, strict=True))
    write_tensors(path, {"tokens": tokens, "masked": masked}, {"fingerprint": mark})
    return Draws(tokens, masked, list(latents.captions))


def _draw(
    teacher, objective, latents: Latents, indices: Tensor, scale: float, steps: int, generator: torch.Generator
):
    """Tokens (B, N, D) in float16 and masks (B, N) of some clips."""
    tokens = latents.draw(indices, generator)
    batch, count, width = tokens.shape
    masked = training_mask(batch, count, generator)
    captions = [latents.captions[i] for i in indices.tolist()]
    text, words, pooled = read_captions(teacher.text, captions, teacher.backbone.config.pooled_dim > 0)
    dropped = (torch.full((batch,), drop) for drop in (False, True))
    h = [teacher.backbone(tokens, masked, text, words, drop, pooled)[masked] for drop in dropped]
    noise = torch.randn(int(masked.sum()), width, generator=generator)
    net = guided(teacher.head, scale)
    tokens[masked] = objective.sample(net, torch.cat(h, dim=1), noise, steps, generator)
    return tokens.half(), masked
