"""Answers to the exercises on sound, its tokens and its networks (notebooks 04 to 09)."""

from collections.abc import Callable

import torch
from torch import Tensor

from dear.audio import HOP, LOG_FLOOR, N_FFT, PAD, mel_filters
from dear.check.judge import RIGHT, judge, scores


def log_mel(answer: Callable[[Tensor], Tensor]) -> str:
    """Judge answer(waveform (S,)) -> (T, 64), the log-mel of `dear.audio.log_mel`."""
    wave = 0.1 * torch.randn(4800, generator=torch.Generator().manual_seed(0))
    wave[3200:] = 0
    padded = torch.nn.functional.pad(wave[None], (PAD, PAD), mode="reflect")[0]
    frames, filters, window = padded.unfold(0, N_FFT, HOP), mel_filters(), torch.hann_window(N_FFT)
    magnitude = torch.fft.rfft(frames * window).abs()
    mel = magnitude @ filters.T
    right = mel.clamp(min=LOG_FLOOR).log()
    found, count = answer(wave), len(right)
    shape = tuple(found.shape) if isinstance(found, Tensor) else None
    if shape == (64, count):
        return "The axes are swapped: wanted time first, (T, 64)."
    if shape == (count, 513):
        return "These are the 513 bins of the spectrum: the mel filters are missing."
    if shape == (count + 1, 64):
        return "One frame too many: pad 432 samples on each side, not 512, so that T = S / 160."
    if shape == ((len(wave) - N_FFT) // HOP + 1, 64):
        return "Frames are missing at the ends: mirror 432 samples on each side first."
    if shape is not None and len(shape) == 2 and shape[1] == 64 and shape[0] != count:
        return f"Wrong hop: {shape[0]} frames for {len(wave)} samples, wanted {count}, one every 160 samples."
    return judge(found, {
        RIGHT: right,
        "The logarithm is missing.": mel,
        "This is the power |X|^2; wanted the magnitude |X|.": (magnitude**2 @ filters.T).clamp(min=LOG_FLOOR).log(),
        "This is the logarithm to base 10; wanted the natural one.": mel.clamp(min=LOG_FLOOR).log10(),
        "These are decibels; wanted the natural logarithm.": 20 * mel.clamp(min=LOG_FLOOR).log10(),
        "The floor was added; wanted the larger of the mel value and the floor.": (mel + LOG_FLOOR).log(),
        "The floor is missing: digital silence gives minus infinity.": mel.log(),
        "The window is missing: frames with hard edges smear every tone over all bins.":
            (torch.fft.rfft(frames).abs() @ filters.T).clamp(min=LOG_FLOOR).log(),
    }, "a log-mel")  # fmt: skip


def kl(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Judge answer(mean (B, C, ...), log_variance (B, C, ...)) -> (B, ...): KL to N(0, 1), summed over axis 1."""
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 4, 3, 5, generator=generator)
    variance = log_variance.exp()
    right = 0.5 * (mean**2 + variance - 1 - log_variance).sum(1)
    return judge(answer(mean, log_variance), {
        RIGHT: right,
        "The factor 1/2 is missing.": 2 * right,
        "The sign is wrong: a divergence is never negative.": -right,
        "This is the mean over channels; wanted the sum, as channels are independent.": right / mean.shape[1],
        "The log-variance was read as a log-standard-deviation: the variance is exp(log_variance).":
            0.5 * (mean**2 + variance**2 - 1 - 2 * log_variance).sum(1),
        "The standard deviation stands where the variance belongs.":
            0.5 * (mean**2 + variance.sqrt() - 1 - log_variance).sum(1),
        "The log-variance itself stands where the variance belongs.":
            0.5 * (mean**2 + log_variance - 1 - log_variance).sum(1),
    }, "one number for each clip and step")  # fmt: skip


def patchify(answer: Callable[[Tensor, int], Tensor]) -> str:
    """Judge answer(latent (B, C, T), patch) -> tokens (B, T / patch, C patch), as `dear.vae.patchify`."""
    batch, channels, steps, patch = 2, 3, 8, 2
    latent = torch.arange(batch * channels * steps, dtype=torch.float32).reshape(batch, channels, steps)
    count, width = steps // patch, channels * patch
    pieces = latent.unflatten(2, (count, patch))
    right = pieces.transpose(1, 2).flatten(2)
    found = answer(latent, patch)
    if isinstance(found, Tensor) and found.shape == (batch, width, count):
        return f"The axes are swapped: wanted (B, N, D) = {tuple(right.shape)}, got (B, D, N)."
    return judge(found, {
        RIGHT: right,
        "This is a plain reshape: a token holds many steps of one channel; move the channel axis first.":
            latent.reshape(batch, count, width),
        "A token's numbers are in another order: wanted both steps of channel 0, then of channel 1, ...":
            pieces.permute(0, 2, 3, 1).flatten(2),
        "A token holds steps that lie far apart: cut time into N pieces of `patch` steps, not into `patch` of N.":
            latent.unflatten(2, (patch, count)).permute(0, 3, 1, 2).flatten(2),
    }, "tokens (B, N, D)")  # fmt: skip


def attention(answer: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> str:
    """Judge answer(q, k, v (B, L, C), mask (B, L) bool) -> (B, L, C): softmax attention to where mask is True."""
    q, k, v = 2 * torch.randn(3, 2, 4, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]])

    def attend(scale: float = 8**-0.5, looked_at: Tensor = mask, axis: int = 2) -> Tensor:
        scores = (scale * q @ k.transpose(1, 2)).masked_fill(~looked_at[:, None, :], -torch.inf)
        return scores.softmax(axis).nan_to_num() @ v

    return judge(answer(q, k, v, mask), {
        RIGHT: attend(),
        "The scale 1 / sqrt(C) is missing: scores grow with the width, and the softmax saturates.": attend(scale=1.0),
        "The scores are divided by C; wanted sqrt(C).": attend(scale=1 / 8),
        "The mask is not used: padding is looked at.": attend(looked_at=torch.ones_like(mask)),
        "The mask is the wrong way round: True is a word, and words are looked at.": attend(looked_at=~mask),
        "The softmax runs over the queries; wanted over the keys, so that each word's weights sum to 1.":
            attend(axis=1),
        "The softmax is missing.": (8**-0.5 * q @ k.transpose(1, 2)).masked_fill(~mask[:, None, :], 0) @ v,
    }, "one vector for each word")  # fmt: skip


def adaln_block(answer: Callable[..., Tensor]) -> str:
    """Judge answer(x, shift, scale, gate (R, W), mlp) -> (R, W): a block of the head, `dear.head.Block`."""
    generator = torch.Generator().manual_seed(0)
    x, shift, scale, gate = torch.randn(4, 5, 8, generator=generator)
    x, mix = 1 + 3 * x, torch.randn(8, 8, generator=generator)

    def mlp(z: Tensor) -> Tensor:
        return torch.sin(z) @ mix

    n = torch.nn.functional.layer_norm(x, (8,), eps=1e-6)
    inner = shift + (1 + scale) * n
    return judge(answer(x, shift, scale, gate, mlp), {
        RIGHT: x + gate * mlp(inner),
        "x itself is missing: a block adds to what comes in.": gate * mlp(inner),
        "The gate is missing.": x + mlp(inner),
        "The gate is 1 + gate: at gate 0 a block must be the identity.": x + (1 + gate) * mlp(inner),
        "The gate acts before the MLP; wanted after it.": x + mlp(gate * inner),
        "The scale stands alone; wanted 1 + scale, so that 0 changes nothing.": x + gate * mlp(shift + scale * n),
        "Shift and scale are swapped.": x + gate * mlp(scale + (1 + shift) * n),
        "The shift is scaled too: scale first, then shift.": x + gate * mlp((1 + scale) * (n + shift)),
        "The norm is missing inside the branch.": x + gate * mlp(shift + (1 + scale) * x),
        "The norm belongs to the branch alone: x itself goes on as it is.": n + gate * mlp(inner),
    }, "the block's output")  # fmt: skip


def head_loss(answer: Callable[..., Tensor]) -> str:
    """Judge answer(head, x (R, D), h (R, C), generator) -> (R,): energy score of 2 samples head(noise (., 4), h)."""
    generator = torch.Generator().manual_seed(0)
    x, h, calls = 2 * torch.randn(5, 6, generator=generator), torch.randn(5, 7, generator=generator), []
    into, steer = torch.randn(4, 6, generator=generator), torch.randn(7, 6, generator=generator)

    def head(noise: Tensor, cond: Tensor) -> Tensor:
        calls.append((noise, cond))
        if noise.shape[1] != 4 or cond.shape[1] != 7:
            return torch.zeros(len(noise), 6)
        return noise @ into + torch.tanh(cond @ steer)

    found = answer(head, x, h, torch.Generator().manual_seed(1))
    once = len(calls)
    answer(head, x, h, torch.Generator().manual_seed(1))
    if not calls or any(noise.shape[1] == 7 and cond.shape[1] == 4 for noise, cond in calls):
        return "h and the noise are swapped: head(noise, h)." if calls else "The head was never called."
    if wide := [noise.shape[1] for noise, _ in calls if noise.shape[1] != 4]:
        return f"This head takes noise of 4 numbers, got {wide[0]}: the noise need not be as wide as a token."
    noise, cond = (torch.cat(part) for part in zip(*calls[:once], strict=True))
    rows = [(cond == row).all(1).nonzero()[:, 0] for row in h]
    if len(noise) != 10 or any(len(found) != 2 for found in rows):
        return f"Wanted 2 samples for each of 5 tokens, 10 rows with their own h; got {len(noise)} rows."
    if not torch.equal(noise, torch.cat([noise for noise, _ in calls[once:]])):
        return "The noise does not come from the generator: equal seeds gave other samples."
    if (noise[0] == noise).all(1).sum() > 2:
        return "All tokens share one noise: draw it anew for every token and sample."
    pairs, drawn = torch.stack(rows, 1), head(noise, cond)
    if torch.equal(noise[pairs[0]], noise[pairs[1]]):
        return "Both samples were made from the same noise: they are equal, and the second term is always 0."
    known, mixed = scores(drawn[pairs], x), scores(drawn.view(2, 5, 6), x)[RIGHT]
    return judge(found, known | {"Samples and tokens are out of step: a sample was scored at another token.": mixed})


def cka(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Judge answer(x (R, C), y (R, D)) -> (): linear CKA, between 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    x = 1 + torch.randn(40, 5, generator=generator)
    y = x @ torch.randn(5, 7, generator=generator) + torch.randn(40, 7, generator=generator)
    a, b = x - x.mean(0), y - y.mean(0)

    def norm(left: Tensor, right: Tensor) -> Tensor:
        return (left.T @ right).norm()

    right, found = norm(a, b) ** 2 / (norm(a, a) * norm(b, b)), answer(x, y)
    return judge(torch.tensor(found) if isinstance(found, float) else found, {
        RIGHT: right,
        "The columns are not centred: take each one's mean away first.":
            norm(x, y) ** 2 / (norm(x, x) * norm(y, y)),
        "The numerator is not squared.": norm(a, b) / (norm(a, a) * norm(b, b)),
        "The numerator is not squared, and the denominator is its root.":
            norm(a, b) / (norm(a, a) * norm(b, b)).sqrt(),
        "The denominator is squared as well.": norm(a, b) ** 2 / (norm(a, a) * norm(b, b)) ** 2,
        "The denominator has the norms of X and Y; wanted those of X^T X and Y^T Y.":
            norm(a, b) ** 2 / (a.norm() * b.norm()) ** 2,
        "The rows are centred; wanted the columns.":
            norm(x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)) ** 2
            / (norm(*[x - x.mean(1, keepdim=True)] * 2) * norm(*[y - y.mean(1, keepdim=True)] * 2)),
    }, "one number")  # fmt: skip


def hidden_loss(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """Judge answer(student (B, N, C), teacher (B, N, C), masked (B, N)) -> (): mean square on masked positions."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 8, 5, generator=generator)
    masked = torch.rand(3, 8, generator=generator) < torch.tensor([[0.9], [0.5], [0.2]])
    student, teacher = student.requires_grad_(), teacher.requires_grad_()
    found, squared = answer(student, teacher, masked), (student - teacher).square()
    apart = (student - teacher)[masked]
    said = judge(found, {
        RIGHT: squared[masked].mean(),
        "This is the mean over all positions; wanted the masked ones alone.": squared.mean(),
        "This is the mean over the positions that are known; `masked` is true where a token is unknown.":
            squared[~masked].mean(),
        "This is summed over the width: the weight would then mean another thing at every width.":
            squared[masked].sum(1).mean(),
        "This is a sum over everything; wanted a mean.": squared[masked].sum(),
        "Known positions count as zeros in the mean: divide by the number of masked ones.":
            (squared.mean(2) * masked).mean(),
        "Each clip has its own mean here; wanted one mean over all masked positions.":
            ((squared.mean(2) * masked).sum(1) / masked.sum(1)).mean(),
        "The square is missing.": apart.abs().mean(),
        "This is the distance, not its square.": apart.norm(dim=1).mean(),
        "This is the root of the mean square.": squared[masked].mean().sqrt(),
    }, "one number")  # fmt: skip
    if said != RIGHT:
        return said
    reached = torch.autograd.grad(found, (student, teacher), allow_unused=True) if found.requires_grad else (None, None)
    if reached[0] is None:
        return "The value is right, but the student gets no gradient: detach the teacher's hidden states, not its own."
    if reached[1] is not None:
        return "The value is right, but the teacher gets a gradient too: detach its hidden states."
    return RIGHT


def guide_hidden(answer: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """Judge answer(h_text (R, C), h_no_text (R, C), w) -> (R, C): the h of guidance w, where 1 is none."""
    a, b = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    w = 3.0
    return judge(answer(a, b, w), {
        RIGHT: w * a + (1 - w) * b,
        "The two are swapped: guidance pushes towards the text.": w * b + (1 - w) * a,
        "This is h_text + w (h_text - h_no_text), the convention where 0 is no guidance; wanted 1.": a + w * (a - b),
        "h_no_text itself is missing: add the push w (h_text - h_no_text) to it.": w * (a - b),
        "The weights must sum to 1, so that w = 1 gives h_text: h_no_text has 1 - w.": w * a + (1 + w) * b,
        "h_no_text is missing: its weight is 1 - w.": w * a,
        "w is not used.": a,
    }, "one h for each token")  # fmt: skip
