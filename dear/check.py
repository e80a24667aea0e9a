"""Answers to exercises: right, or which typical mistake. Every function returns one sentence to print."""

from collections.abc import Callable

import torch
from torch import Tensor

from dear.audio import HOP, LOG_FLOOR, N_FFT, PAD, mel_filters

RIGHT = "Right."


def energy_score(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Judge answer(samples (m, B, D), y (B, D)) -> (B,), an unbiased estimate of the energy score of each y."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 5, 3, generator=generator), 2 * torch.randn(5, 3, generator=generator)
    return _judge(answer(x, y), _scores(x, y))


def energy_loss(answer: Callable[[Callable[[Tensor], Tensor], Tensor, torch.Generator], Tensor]) -> str:
    """Judge answer(net, y (B, D), generator) -> (B,): the energy score of two samples net(noise (B, D)) for each y."""
    y, calls = 2 * torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), []

    def net(noise: Tensor) -> Tensor:
        calls.append(noise)
        return 0.5 * noise

    found = answer(net, y, torch.Generator().manual_seed(1))
    noise = torch.cat([n.reshape(-1, n.shape[-1]) for n in calls]) if calls else y[:0]
    if noise.shape != (2 * len(y), y.shape[1]):
        return f"Wanted 2 samples for each of {len(y)} targets, from noise (12, 3); the noise was {tuple(noise.shape)}."
    # A target's two samples may lie len(y) rows apart, or side by side.
    pairings = [noise.unflatten(0, (2, len(y))), noise.unflatten(0, (len(y), 2)).transpose(0, 1)]
    if any(torch.equal(*pair) for pair in pairings):
        return "Both samples were made from the same noise: they are equal, and the second term is always 0."
    said = [_judge(found, _scores(0.5 * pair, y)) for pair in pairings]
    return said[1] if said[0].startswith("Not right") else said[0]


def flow_loss(answer: Callable[..., Tensor]) -> str:
    """Judge answer(net, y (B, D), n (B, D), t (B,)) -> (B,): the flow's squared error, mean over D, of net(x, t)."""
    y, t, _ = _plane()
    n, to_noise = y.flip(0).cos(), t[:, None]

    def net(x: Tensor, t: Tensor) -> Tensor:
        return _net(x, t, 0 * t)

    here = (1 - to_noise) * y + to_noise * n
    found = net(here, t)

    def rows(error: Tensor) -> Tensor:
        return error.square().mean(1)

    return _judge(answer(net, y, n, t), {
        RIGHT: rows(found - (n - y)),
        "The velocity points from noise to data: with t = 1 at the noise it is n - y.": rows(found - (y - n)),
        "The clock runs the wrong way: at t = 1 the point is the noise, (1 - t) y + t n.":
            rows(net(to_noise * y + (1 - to_noise) * n, t) - (n - y)),
        "The whole line is reversed: here t = 1 is the noise.":
            rows(net(to_noise * y + (1 - to_noise) * n, t) - (y - n)),
        "The net is asked at the noise, not on the line: it has to see x_t.": rows(net(n, t) - (n - y)),
        "The net is asked at the data, not on the line: it has to see x_t.": rows(net(y, t) - (n - y)),
        "The target is the noise: that is a diffusion's, a flow wants n - y.": rows(found - n),
        "The target is the observation: a flow wants the velocity n - y.": rows(found - y),
        "The target is measured from x_t: the velocity n - y is the same along the whole line.":
            rows(found - (here - y)),
        "This is the sum over coordinates; wanted the mean.": (found - (n - y)).square().sum(1),
        "This is the distance; wanted the squared error, whose minimum is the mean velocity.":
            (found - (n - y)).norm(dim=1),
    })


def shortcut_target(answer: Callable[[Callable[..., Tensor], Tensor, Tensor, Tensor], Tensor]) -> str:
    """Judge answer(net, x (B, D), t (B,), d (B,)) -> (B, D): the velocity of one step of 2 d, from two of d by net."""
    x, t, d = _plane()
    first, wide = _net(x, t, d), d[:, None]
    there = x - wide * first
    return _judge(answer(_net, x, t, d), {
        RIGHT: (first + _net(there, t - d, d)) / 2,
        "The second step starts at the point of the first: move there before you ask again.":
            (first + _net(x, t - d, d)) / 2,
        "The second step is asked at the time of the first: it starts at t - d.": (first + _net(there, t, d)) / 2,
        "The second point lies uphill: a step goes from noise to data, x - d net.":
            (first + _net(x + wide * first, t - d, d)) / 2,
        "The second point is too far: the first of the two steps has size d, not 2 d.":
            (first + _net(x - 2 * wide * first, t - d, d)) / 2,
        "The net is asked for steps of 2 d, which it has yet to learn: both steps have size d.":
            (_net(x, t, 2 * d) + _net(x - wide * _net(x, t, 2 * d), t - d, 2 * d)) / 2,
        "These are two velocities added: the velocity of the whole step is their mean.": first + _net(there, t - d, d),
    })


def meanflow_target(answer: Callable[..., Tensor]) -> str:
    """Judge answer(net, x (B, D), t (B,), r (B,), v (B, D)) -> (B, D): the target of the mean velocity net(x, t, r)."""
    x, t, r = _plane()
    scale, v, over = torch.ones((), requires_grad=True), x.flip(1).cos(), (t - r)[:, None]
    ones, zeros = torch.ones_like(t), torch.zeros_like(r)

    def net(*arguments: Tensor) -> Tensor:
        return scale * _net(*arguments)

    def slope(*direction: Tensor) -> Tensor:
        return torch.func.jvp(_net, (x, t, r), direction)[1]

    right = v - over * slope(v, ones, zeros)
    found = answer(net, x, t, r, v)
    if isinstance(found, Tensor) and found.requires_grad:
        return "The target carries a gradient: hold it fixed (torch.no_grad or detach), or it moves towards the net."
    return _judge(found, {
        RIGHT: right,
        "The factor t - r is missing before the derivative.": v - slope(v, ones, zeros),
        "The derivative has the wrong sign: u + (t - r) du/dt = v.": v + over * slope(v, ones, zeros),
        "x was held still: along the path it moves with velocity v.": v - over * slope(0 * v, ones, zeros),
        "x moved against the path: its direction is v = n - x, upwards in t, as that of t is 1.":
            v - over * slope(-v, ones, zeros),
        "t was held still: its direction is 1.": v - over * slope(v, zeros, zeros),
        "r moved with t: its direction is 0.": v - over * slope(v, ones, ones),
        "The derivative's x moved with the net's own velocity: its direction is v.":
            v - over * slope(_net(x, t, r), ones, zeros),
        "This is v alone: flow matching, which is right only where r = t.": v,
    })


def consistency_target(answer: Callable[..., Tensor]) -> str:
    """Judge answer(net, velocity, x (B, D), t (B,), s (B,)) -> (B, D): the end that the net sees from further down.

    One Euler step of velocity(x, t) leads from x at t to s; the end that net(x, t) sees is x - t net(x, t).
    """
    x, t, s = _plane()

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return _net(x, t, 0 * t) + x / 3

    def net(x: Tensor, t: Tensor) -> Tensor:
        return _net(x, 0.7 * t, 0.2 + 0 * t)

    def ends(x: Tensor, t: Tensor) -> Tensor:
        return x - t[:, None] * net(x, t)

    step = (t - s)[:, None] * velocity(x, t)
    return _judge(answer(net, velocity, x, t, s), {
        RIGHT: ends(x - step, s),
        "This is the end seen from where x was: go one step of the teacher first.": ends(x, t),
        "The step goes uphill: from t down to s it is x - (t - s) velocity.": ends(x + step, s),
        "The teacher went on to t = 0: one step leads from t to s only.": ends(x - t[:, None] * velocity(x, t), s),
        "The end is asked at time t: after the step the time is s.": ends(x - step, t),
        "The net is asked at time t: after the step the time is s.": x - step - s[:, None] * net(x - step, t),
        "The step was made with the net's velocity: the path is the teacher's.":
            ends(x - (t - s)[:, None] * net(x, t), s),
        "This is the point after the step, not the end that the net sees from there.": x - step,
        "This is the net's velocity, not the end: x - s net(x, s).": net(x - step, s),
    })


def jump(answer: Callable[..., Tensor]) -> str:
    """Judge answer(net, x (B, D), t (B,), s (B,)) -> (B, D): where a net of mean velocities, net(x, t, s), is at s."""
    x, t, s = _plane()
    u, start, end = _net(x, t, s), t[:, None], s[:, None]
    return _judge(answer(_net, x, t, s), {
        RIGHT: x - (start - end) * u,
        "The jump goes uphill: from t down to s it is x - (t - s) net.": x + (start - end) * u,
        "The jump went on to t = 0: its length is t - s.": x - start * u,
        "The length t - s is missing: net is a velocity.": x - u,
        "The net was asked for the jump to 0: its last input is s.": x - (start - end) * _net(x, t, 0 * s),
        "The net was asked for the jump from s to t: t, where x is, comes first.": x - (start - end) * _net(x, s, t),
        "The net's velocity was taken for the end in (s/t) x + (1 - s/t) g: g is x - t net.":
            end / start * x + (1 - end / start) * u,
        "The weights of x and of the end are swapped: at s = t all of x is left.":
            (1 - end / start) * x + end / start * (x - start * u),
    })


def pairs(answer: Callable[..., Tensor]) -> str:
    """Judge answer(velocity, n (B, D), steps) -> (B, 2 D): [x(n), n], x(n) by equal Euler steps of velocity(x, t)."""
    n, steps = _plane()[0], 4

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return _net(x, t, 0 * t)

    def end(times: list[float], sign: float = 1.0, count: int = steps, still: bool = False) -> Tensor:
        x = n
        for t in times:
            x = x - sign / count * velocity(n if still else x, torch.full((len(n),), t))
        return x

    def beside(x: Tensor) -> Tensor:
        return torch.cat([x, n], dim=1)

    down = [k / steps for k in range(steps, 0, -1)]
    right, found = end(down), answer(velocity, n, steps)
    if isinstance(found, Tensor) and found.shape == (len(n), 2 * n.shape[1]) and torch.allclose(
            found[:, :2], right, rtol=1e-4, atol=1e-5) and not torch.allclose(found[:, 2:], n):
        return "The noise of the pair is not the noise that x was made of: then the lines cross again."
    return _judge(found, {
        RIGHT: beside(right),
        "The pair is the wrong way round: wanted [x(n), n].": torch.cat([n, right], dim=1),
        "This is one step of the teacher: it lands on the mean. Wanted `steps` of them.": beside(end([1.0], count=1)),
        "The steps go uphill: from t = 1 to 0 a step is x - velocity / steps.": beside(end(down, -1.0)),
        "The clock runs the wrong way: the first step starts at t = 1.": beside(end([1 - t for t in down])),
        "The velocity is asked one step too late: a step from t uses the velocity at t.":
            beside(end([t - 1 / steps for t in down])),
        "The steps have length 1: each is 1 / steps.": beside(end(down, count=1)),
        "Every step asks at the noise: ask where the last step has led.": beside(end(down, still=True)),
    }, "[x(n), n]")


def pseudo_huber(answer: Callable[[Tensor, float], Tensor]) -> str:
    """Judge answer(error (B, D), c) -> (B, D): sqrt(error^2 + c^2) - c."""
    error, c = 0.3 * _plane()[0], 0.2
    root = (error**2 + c**2).sqrt()
    huber = torch.where(error.abs() < c, error**2 / 2, c * (error.abs() - c / 2))
    return _judge(answer(error, c), {
        RIGHT: root - c,
        "c is not subtracted: the distance of equal points has to be 0.": root,
        "The root is missing: this is the squared error.": error**2,
        "c is not squared under the root.": (error**2 + c).sqrt() - c,
        "This is the absolute error, which has a kink at 0: that is what c is for.": error.abs(),
        "This is Huber's distance, with its two pieces: wanted the smooth sqrt(error^2 + c^2) - c.": huber,
    }, "one number for each coordinate")


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
    return _judge(found, {
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
    return _judge(answer(mean, log_variance), {
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
    return _judge(found, {
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

    return _judge(answer(q, k, v, mask), {
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
    return _judge(answer(x, shift, scale, gate, mlp), {
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
    scores, mixed = _scores(drawn[pairs], x), _scores(drawn.view(2, 5, 6), x)[RIGHT]
    return _judge(found, scores | {"Samples and tokens are out of step: a sample was scored at another token.": mixed})


def _plane() -> tuple[Tensor, Tensor, Tensor]:
    """Points (6, 2), times t in [0.6, 1] and smaller ones in [0.1, 0.3]."""
    generator = torch.Generator().manual_seed(0)
    t, r = torch.rand(2, 6, generator=generator)
    return torch.randn(6, 2, generator=generator), 0.6 + 0.4 * t, 0.1 + 0.2 * r


def _net(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """A smooth net of no meaning, curved in all that it is given."""
    t, r = t[:, None], r[:, None]
    return torch.sin(x * (1 + t)) + x.flip(1) * t**2 * torch.exp(-r) + r**2


def _scores(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """What samples x (m, B, D) score at y (B, D): rightly, and by each typical mistake."""
    m = len(x)
    apart, between = (x - y).norm(dim=2), (x[:, None] - x[None]).norm(dim=3)
    pull, push = 2 * apart.mean(0), between.sum((0, 1)) / (m * (m - 1))
    return {
        RIGHT: pull - push,
        "The factor 2 of the first term is missing: samples repel each other twice as much as the data attracts them.":
            pull / 2 - push,
        "The second term is missing: without repulsion all samples fall together.": pull,
        "The second term has the wrong sign: it has to reward samples that lie apart.": pull + push,
        "This is the V-statistic: it counts each sample's distance 0 to itself. Divide by m (m - 1), not by m m.":
            pull - between.mean((0, 1)),
        "These are squared distances: with exponent 2 nothing but the mean is compared.":
            2 * (apart**2).mean(0) - (between**2).sum((0, 1)) / (m * (m - 1)),
    }


def _judge(found: object, scores: dict[str, Tensor], wanted: str | None = None) -> str:
    """The sentence whose score was found, or how it differs from the right one; `wanted` says in words what that is."""
    right = scores[RIGHT]
    if not isinstance(found, Tensor):
        return f"Wanted a tensor of shape {tuple(right.shape)}, got {type(found).__name__}."
    if found.shape != right.shape:
        number = "one number" if right.ndim == 1 else f"{right.shape[1]} numbers"
        wanted = wanted or f"{number} for each target"
        return f"Wanted {wanted}, shape {tuple(right.shape)}; got shape {tuple(found.shape)}."
    for sentence, score in scores.items():
        if torch.allclose(found, score, rtol=1e-4, atol=1e-5):
            return sentence
    first = [" ".join(f"{v:.3f}" for v in values[0].flatten()[:2]) for values in (right, found)]
    return f"Not right, and no mistake known here: it begins with {first[1]}, wanted {first[0]}."
