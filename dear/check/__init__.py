"""Answers to exercises: right, or which typical mistake. Every function returns one sentence to print."""

from dear.check.judge import RIGHT
from dear.check.plane import (
    consistency_target,
    energy_loss,
    energy_score,
    flow_loss,
    jump,
    meanflow_target,
    pairs,
    pseudo_huber,
    shortcut_target,
)
from dear.check.sound import adaln_block, attention, cka, guide_hidden, head_loss, hidden_loss, kl, log_mel, patchify

__all__ = [
    "RIGHT",
    "adaln_block",
    "attention",
    "cka",
    "consistency_target",
    "energy_loss",
    "energy_score",
    "flow_loss",
    "guide_hidden",
    "head_loss",
    "hidden_loss",
    "jump",
    "kl",
    "log_mel",
    "meanflow_target",
    "pairs",
    "patchify",
    "pseudo_huber",
    "shortcut_target",
]
