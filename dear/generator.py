"""The trainable whole of teacher and student: text encoder, backbone and head, and the loss of one step."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from dear.backbone import BackboneConfig, MaskedTransformer
from dear.distillation import gradient_norm_ratio, hidden_state_loss
from dear.head import AdaLNHead, HeadConfig
from dear.masking import CLASSROOM_LAW, training_mask
from dear.text import TextConfig, TextEncoder


class Generator(nn.Module):
    """Text encoder, backbone and head; `forward` gives the hidden states of every token.

    text: None for texts that a frozen encoder has read already, which then come as vectors.
    mean: also a linear map from h to the mean of the token, which only training reads (`training_loss`).
    """

    def __init__(self, text: TextConfig | None, backbone: BackboneConfig, head: HeadConfig, mean: bool = False):
        super().__init__()
        self.text = None if text is None else TextEncoder(text)
        self.backbone, self.head = MaskedTransformer(backbone), AdaLNHead(head)
        self.mean = nn.Linear(backbone.width, backbone.token_dim) if mean else None

    def forward(
        self, tokens: Tensor, masked: Tensor, text: Tensor, words: Tensor, drop: Tensor, pooled: Tensor | None = None
    ) -> list[Tensor]:
        """Hidden states (B, N, C) after each decoder layer, the last being h.

        text: ids (B, L) of words or, without a text encoder, vectors (B, L, E).  words: (B, L) bool, where they count.
        drop: (B,) bool, whose text is left out.  pooled: (B, P), if the backbone takes one more vector for a text.
        """
        if self.text is not None:
            text = self.text(text, words)
        return self.backbone(tokens, masked, text, words, drop, pooled, return_layers=True)[1]


@torch.no_grad()
def grown(model: Generator, decoder_layers: int, head_depth: int) -> Generator:
    """The same function in a larger network, as a start for training on (the idea of Net2Net, arXiv 1511.05641).

    A new decoder layer adds nothing at first because its two last matrices are zero, a new block of the head because
    its gate is. decoder_layers, head_depth: of the larger network; fewer than there are is a ValueError. A head without
    a time that noise enters by the modulation (main="hidden") has no such start and is a ValueError too.
    """
    backbone, head = model.backbone.config, model.head.config
    if decoder_layers < backbone.decoder_layers or head_depth < head.depth:
        raise ValueError(f"a network of {backbone.decoder_layers} decoder layers and {head.depth} blocks of the head "
                         f"cannot grow to {decoder_layers} and {head_depth}; ask for as many or more")
    if head.main == "hidden" and not head.times and head_depth > head.depth:
        raise ValueError("new blocks of a head with main='hidden' and no time would change its function at once")
    backbone, head = replace(backbone, decoder_layers=decoder_layers), replace(head, depth=head_depth)
    text = None if model.text is None else model.text.config
    larger = Generator(text, backbone, head, mean=model.mean is not None)
    new = larger.load_state_dict(model.state_dict(), strict=False).missing_keys
    for name, parameter in larger.backbone.named_parameters():
        if f"backbone.{name}" in new and name.endswith(("proj.weight", "mlp.2.weight")):
            parameter.zero_()
    return larger


def training_loss(model: nn.Module, objective, tokens: Tensor, text: Tensor, words: Tensor,
                  generator: torch.Generator, *, teacher: Generator | None = None, distillation_weight: float = 1000.0,
                  layers: str | tuple[int, ...] = "last", text_drop: float = 0.1,
                  mask_law: tuple[float, float, float] = CLASSROOM_LAW,
                  mean_weight: float = 1.0, masked: Tensor | None = None,
                  average: Generator | None = None, pooled: Tensor | None = None) -> tuple[Tensor, dict]:
    """Objective on the masked tokens, plus `distillation_weight` x hidden-state loss if there is a teacher.

        L = L_objective + lambda L_distill        (AudioDEAR, arXiv 2605.00329; lambda = 1000)

    tokens (B, N, D); text, words, pooled: as `Generator.forward` takes them. Every clip has a mask ratio of its own:
    `mask_law` holds low, mean and std of `sample_mask_ratios`; IMPACT's is (0.7, 1.0, 0.25). `masked` (B, N) gives the
    masks instead. Teacher and student see the same tokens, masks and dropped texts. Objectives with a target learn from
    the head of `average`, the moving average that `train` keeps, or of the model itself. The objective is a mean over
    masked tokens, L_distill a mean over masked tokens and width; the figure "gradient_ratio" is
    |grad lambda L_distill| / |grad L_objective|, both with respect to the student's h, so that lambda can be read.

    A model that was built with `mean` also learns the mean of each token from h, L + mean_weight |P h - x|^2 / D. The
    papers do without. A diffusion loss tells h little at a time: half of its noise levels can be answered from the
    noisy token alone, and all of them are random. Without this term a classroom teacher had the kind of sound right
    in 16 per cent after 1200 steps, with it in 34.
    """
    batch, count, _ = tokens.shape
    if masked is None:
        masked = training_mask(batch, count, generator, mask_law)
    drop = torch.rand(batch, generator=generator, device=tokens.device) < text_drop
    states = model(tokens, masked, text, words, drop, pooled)
    h = states[-1]
    target = model.head if average is None else average.head
    loss = objective.loss(model.head, tokens[masked], h[masked], generator, target).mean()
    figures = {"objective": float(loss.detach())}
    if model.mean is not None:
        regression = (model.mean(h[masked]) - tokens[masked]).square().mean()
        figures["mean"] = float(regression.detach())
        loss = loss + mean_weight * regression
    if teacher is None:
        return loss, figures

    def distance() -> Tensor:
        with torch.no_grad():
            target = teacher(tokens, masked, text, words, drop, pooled)
        return hidden_state_loss(states, target, masked, layers)

    if distillation_weight == 0:  # then a figure to log is all that the teacher is needed for
        figures["distill"] = lambda: float(distance().detach())
        return loss, figures
    distill = distance()
    figures["distill"] = float(distill.detach())
    whole = loss + distillation_weight * distill
    figures["gradient_ratio"] = lambda: gradient_norm_ratio(distillation_weight * distill, loss, [h])
    return whole, figures
