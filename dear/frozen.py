"""Heads alone: the hidden states of a frozen teacher, computed once, and heads that any objective trains on them."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dear.blocks import fastest_device
from dear.components import digest, write_tensors
from dear.data.latents import Latents, stored
from dear.masking import training_mask
from dear.text import read_captions
from dear.training import TrainConfig, train

BATCH = 64  # clips at once
PAIRS = 65_536  # rows that get a pair of noise and the teacher's end


@dataclass(frozen=True)
class HiddenStates:
    """What a head learns from, a row for every unknown token of one mask a clip, in float16.

    h, null: (R, C), hidden states with the caption and without.  mean, std: (R, D), of the token's posterior.
    fingerprint: of the model, the latents and the seed they were made with.
    """

    h: Tensor
    null: Tensor
    mean: Tensor
    std: Tensor
    fingerprint: str

    def __len__(self) -> int:
        return len(self.h)

    def draw(self, indices: Tensor, generator: torch.Generator, *, targets: int = 1, both: bool = False,
             text_drop: float = 0.1) -> tuple[Tensor, Tensor]:
        """Tokens x and their conditions, on the generator's device; the tokens are drawn from the posterior anew.

        targets: 1 gives x (B, D), K gives K draws of each token, (K, B, D).  both: cond is (B, 2C), h with the caption
        and without side by side, for objectives that guide a teacher; else it is (B, C), h with the caption, but
        without in a share `text_drop` of the rows.
        """
        h, null, mean, std = (part[indices].to(generator.device).float()
                              for part in (self.h, self.null, self.mean, self.std))
        shape = mean.shape if targets == 1 else (targets, *mean.shape)
        x = mean + std * torch.randn(shape, generator=generator, device=mean.device)
        if both:
            return x, torch.cat([h, null], dim=1)
        drop = torch.rand(len(h), 1, generator=generator, device=h.device) < text_drop
        return x, torch.where(drop, null, h)


@torch.no_grad()
def hidden_states(master, latents: Latents, path: Path, *, seed: int = 0, progress: bool = True) -> HiddenStates:
    """Hidden states of a model's backbone for all clips, one training mask each, or those at `path` if they fit.

    master: TextToAudio.  Each batch of clips has a generator of its own. The file carries a fingerprint of text
    encoder, backbone, latents and seed.
    """
    weights = [v for part in (master.text, master.backbone) for v in part.state_dict().values()]
    mark = digest([str(seed), *latents.captions], *weights, latents.mean, latents.std)
    if found := stored(path, mark):
        return HiddenStates(**found, fingerprint=mark)
    rows, device = [], fastest_device()
    master.to(device)
    for start in tqdm(range(0, len(latents), BATCH), f"computing hidden states into {path}", disable=not progress):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
        indices = torch.arange(start, min(start + BATCH, len(latents)))
        tokens = latents.draw(indices, generator)
        masked = training_mask(*tokens.shape[:2], generator)
        captions = [latents.captions[i] for i in indices.tolist()]
        text, words, pooled = read_captions(master.text, captions, master.backbone.config.pooled_dim > 0)
        states = [master.backbone(tokens.to(device), masked.to(device), text, words,
                                  torch.full((len(tokens),), drop, device=device), pooled).cpu()[masked]
                  for drop in (False, True)]
        rows.append([part.half() for part in (*states, latents.mean[indices][masked], latents.std[indices][masked])])
    names = ("h", "null", "mean", "std")
    found = {name: torch.cat(parts) for name, parts in zip(names, zip(*rows, strict=True), strict=True)}
    write_tensors(path, found, {"fingerprint": mark})
    return HiddenStates(**found, fingerprint=mark)


@dataclass(frozen=True)
class PairedStates:
    """The same for rectified flow, made once as AudioTurbo makes it: pairs (R, 2D) of a teacher's end and its noise.

    cond: (R, C), what the student sees.  fingerprint: of the states and of how pairs were made from them.
    """

    pairs: Tensor
    cond: Tensor
    fingerprint: str

    def __len__(self) -> int:
        return len(self.cond)

    def draw(self, indices: Tensor, generator: torch.Generator, **options) -> tuple[Tensor, Tensor]:
        """Pairs (B, 2D) and conditions (B, C) of the rows, on the generator's device; nothing is left to choose."""
        return tuple(part[indices].to(generator.device).float() for part in (self.pairs, self.cond))


@torch.no_grad()
def paired(states: HiddenStates, objective, *, both: bool, rows: int = PAIRS, seed: int = 0,
           progress: bool = True) -> PairedStates:
    """Pairs by `objective`, a Rectified with a teacher, for the first `rows` rows, or all if there are fewer."""
    pairs, conds, rows = [], [], min(rows, len(states))
    for start in tqdm(range(0, rows, 1024), "the teacher's pairs", disable=not progress):
        generator = torch.Generator(fastest_device()).manual_seed(seed * 1_000_003 + start)
        x, cond = states.draw(torch.arange(start, min(start + 1024, rows)), generator, both=both)
        pairs.append(objective.pairs(x, cond, generator).half().cpu())
        conds.append(objective.teacher.seen(cond).half().cpu())
    mark = digest([states.fingerprint, str((both, seed))], *pairs)
    return PairedStates(torch.cat(pairs), torch.cat(conds), mark)


def train_head(head: nn.Module, objective, states: HiddenStates | PairedStates, config: TrainConfig, out: Path, *,
               target: str = "average", targets: int = 1, both: bool = False, progress: bool = True,
               about: dict | None = None) -> nn.Module:
    """Train a head in place with any objective on hidden states; returns it holding the moving average.

    head: net(x or noise, cond, *times).  config.batch_size: rows a step.  out, about: as `train` has them.
    target: what objectives that need one learn from, the moving "average" or the head "itself".
    targets, both: as `HiddenStates.draw` has them.
    """
    if target not in ("average", "itself"):
        raise ValueError(f"target must be 'average' or 'itself', got {target!r}")
    average = copy.deepcopy(head) if target == "average" else None

    def loss(net, indices, generator):
        x, cond = states.draw(indices, generator, targets=targets, both=both)
        return objective.loss(net, x, cond, generator, average or net).mean(), {}

    told = {"states": states.fingerprint, "target": target, "targets": targets, "both": both} | (about or {})
    return train(head, loss, len(states), config, out, progress=progress, about=told, average=average)
