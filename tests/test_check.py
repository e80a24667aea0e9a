"""Checks of exercise answers: right answers pass in any form, each typical mistake is named."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from dear import check
from dear.audio import log_mel, mel_filters
from dear.distillation import hidden_state_loss
from dear.head import Block
from dear.objectives.energy import Energy, energy_score
from dear.objectives.flow import follow, jump, velocity_error
from dear.objectives.meanflow import mean_velocity
from dear.vae import patchify


def score(x, y, *, factor=2.0, sign=-1.0, divide=None, power=1):
    m = len(x)
    pull = factor * ((x - y).norm(dim=2) ** power).mean(0)
    push = sum((x[k] - x[j]).norm(dim=1) ** power for k in range(m) for j in range(m)) / (divide or m * (m - 1))
    return pull + sign * push


WRONG = {
    "factor 2": dict(factor=1.0),
    "second term is missing": dict(sign=0.0),
    "wrong sign": dict(sign=1.0),
    "squared": dict(power=2),
    "no mistake known": dict(factor=3.0),
}


def loss(net, y, generator, **mistake):
    noise = torch.randn(2 * len(y), y.shape[1], generator=generator)
    return score(net(noise).view(2, *y.shape), y, **mistake)


def test_right_answers():
    assert check.energy_score(energy_score) == check.RIGHT
    assert check.energy_score(score) == check.RIGHT
    assert check.energy_loss(loss) == check.RIGHT

    def called_twice(net, y, generator):
        a, b = (net(torch.randn(y.shape, generator=generator)) for _ in range(2))
        return (a - y).norm(dim=1) + (b - y).norm(dim=1) - (a - b).norm(dim=1)

    assert check.energy_loss(called_twice) == check.RIGHT

    def stacked(net, y, generator):  # one call with an axis of samples before the targets
        return score(net(torch.randn(2, *y.shape, generator=generator)), y)

    assert check.energy_loss(stacked) == check.RIGHT


def side_by_side(net, y, generator, shared=False, **mistake):
    noise = torch.randn(len(y), 1 if shared else 2, y.shape[1], generator=generator).expand(-1, 2, -1)
    return score(net(noise.reshape(-1, y.shape[1])).view(len(y), 2, -1).transpose(0, 1), y, **mistake)


def test_samples_may_lie_side_by_side():
    assert check.energy_loss(side_by_side) == check.RIGHT
    assert "same noise" in check.energy_loss(lambda *given: side_by_side(*given, shared=True))
    for said, mistake in WRONG.items():
        assert said in check.energy_loss(lambda *given, m=mistake: side_by_side(*given, **m))


@pytest.mark.parametrize(("said", "mistake"), WRONG.items())
def test_mistakes_are_told_apart(said, mistake):
    assert said in check.energy_score(lambda x, y: score(x, y, **mistake))
    assert said in check.energy_loss(lambda net, y, g: loss(net, y, g, **mistake))


def test_the_v_statistic_is_named():
    assert "V-statistic" in check.energy_score(lambda x, y: score(x, y, divide=len(x) ** 2))
    assert "V-statistic" in check.energy_loss(lambda net, y, g: loss(net, y, g, divide=4))


def test_shared_noise_is_named():
    def shared(net, y, generator):
        noise = torch.randn(y.shape, generator=generator)
        return score(torch.stack([net(noise), net(noise)]), y)

    assert "same noise" in check.energy_loss(shared)


def test_other_shapes_and_types():
    assert "shape (5,)" in check.energy_score(lambda x, y: energy_score(x, y).mean())
    assert "got float" in check.energy_score(lambda x, y: 0.0)
    assert "2 samples" in check.energy_loss(lambda net, y, g: net(torch.randn(y.shape, generator=g)).norm(dim=1))
    assert "2 samples" in check.energy_loss(lambda net, y, g: y.norm(dim=1))


def straight(net, y, n, t, *, at=None, target=None, over=None):
    t = t[:, None]
    x = (1 - t) * y + t * n if at is None else at(y, n, t)
    error = net(x, t[:, 0]) - (n - y if target is None else target(x, y, n))
    return error.square().mean(1) if over is None else over(error)


@pytest.mark.parametrize(("said", "mistake"), {
    check.RIGHT: {},
    "from noise to data": dict(target=lambda x, y, n: y - n),
    "clock runs the wrong way": dict(at=lambda y, n, t: t * y + (1 - t) * n),
    "whole line is reversed": dict(at=lambda y, n, t: t * y + (1 - t) * n, target=lambda x, y, n: y - n),
    "at the noise, not on the line": dict(at=lambda y, n, t: n),
    "at the data, not on the line": dict(at=lambda y, n, t: y),
    "target is the noise": dict(target=lambda x, y, n: n),
    "target is the observation": dict(target=lambda x, y, n: y),
    "measured from x_t": dict(target=lambda x, y, n: x - y),
    "sum over coordinates": dict(over=lambda e: (e * e).sum(1)),
    "This is the distance": dict(over=lambda e: e.norm(dim=1)),
    "one number for each target": dict(over=lambda e: e.square().mean()),
    "no mistake known": dict(over=lambda e: e.abs().mean(1)),
}.items())  # fmt: skip
def test_the_flow_loss(said, mistake):
    assert said in check.flow_loss(lambda net, y, n, t: straight(net, y, n, t, **mistake))


def test_the_library_passes_as_the_flow_loss():
    def library(net, y, n, t):
        return velocity_error(lambda x, cond, t: net(x, t), y, n, y[:, :0], t)

    assert check.flow_loss(library) == check.RIGHT


def halves(net, x, t, d, *, away=1.0, later=1.0, size=1.0, share=0.5):
    first = net(x, t, size * d)
    return share * (first + net(x - away * d[:, None] * first, t - later * d, size * d))


@pytest.mark.parametrize(("said", "mistake"), {
    check.RIGHT: {}, "point of the first": dict(away=0.0), "time of the first": dict(later=0.0),
    "uphill": dict(away=-1.0), "too far": dict(away=2.0), "yet to learn": dict(size=2.0), "added": dict(share=1.0),
    "no mistake known": dict(share=2.0),
}.items())  # fmt: skip
def test_the_shortcut_target(said, mistake):
    assert said in check.shortcut_target(lambda net, x, t, d: halves(net, x, t, d, **mistake))


def derived(net, x, t, r, v, *, factor=None, move=None, at=(1.0, 0.0), fixed=True):
    """The target by reverse mode, another way to the same derivative."""
    inputs = (v if move is None else move(net, x, t, r, v), at[0] * torch.ones_like(t), at[1] * torch.ones_like(r))
    _, slope = torch.autograd.functional.jvp(net, (x, t, r), inputs, create_graph=not fixed)
    return v - ((t - r)[:, None] if factor is None else factor(t, r)) * slope


@pytest.mark.parametrize(("said", "mistake"), {
    check.RIGHT: {},
    "factor t - r is missing": dict(factor=lambda t, r: 1.0),
    "wrong sign": dict(factor=lambda t, r: (r - t)[:, None]),
    "x was held still": dict(move=lambda net, x, t, r, v: 0 * v),
    "against the path": dict(move=lambda net, x, t, r, v: -v),
    "net's own velocity": dict(move=lambda net, x, t, r, v: net(x, t, r).detach()),
    "t was held still": dict(at=(0.0, 0.0)),
    "r moved with t": dict(at=(1.0, 1.0)),
    "v alone": dict(factor=lambda t, r: 0.0),
    "carries a gradient": dict(fixed=False),
    "no mistake known": dict(factor=lambda t, r: 3.0),
}.items())  # fmt: skip
def test_the_meanflow_target(said, mistake):
    assert said in check.meanflow_target(lambda net, x, t, r, v: derived(net, x, t, r, v, **mistake))


def test_the_library_passes_as_the_meanflow_target():
    def library(net, x, t, r, v):
        return mean_velocity(lambda x, cond, t, r: net(x, t, r), x, x[:, :0], t, r, v)

    assert check.meanflow_target(library) == check.RIGHT
    assert "2 numbers" in check.meanflow_target(lambda net, x, t, r, v: v[:, 0])


def seen(net, velocity, x, t, s, *, step=1.0, to=None, by=None, at=None):
    x = x - step * (t - (s if to is None else 0 * s))[:, None] * (by or velocity)(x, t)
    at = s if at is None else t
    return x - at[:, None] * net(x, at)


@pytest.mark.parametrize(("said", "answer"), {
    check.RIGHT: seen,
    "from where x was": lambda net, velocity, x, t, s: x - t[:, None] * net(x, t),
    "uphill": lambda *given: seen(*given, step=-1.0),
    "went on to t = 0": lambda *given: seen(*given, to=0),
    "asked at time t": lambda *given: seen(*given, at=1),
    "net is asked at time t": lambda net, velocity, x, t, s: (
        (below := x - (t - s)[:, None] * velocity(x, t)) - s[:, None] * net(below, t)),
    "made with the net's": lambda net, *given: seen(net, *given, by=net),
    "point after the step": lambda net, velocity, x, t, s: x - (t - s)[:, None] * velocity(x, t),
    "net's velocity, not the end": lambda net, velocity, x, t, s: net(x - (t - s)[:, None] * velocity(x, t), s),
    "no mistake known": lambda *given: seen(*given, step=2.0),
}.items())  # fmt: skip
def test_the_consistency_target(said, answer):
    assert said in check.consistency_target(answer)


def jumped(net, x, t, s, *, length=None, asked=None):
    times = (t, s) if asked is None else asked(t, s)
    return x - (t - s if length is None else length(t, s))[:, None] * net(x, *times)


def mixed(net, x, t, s, *, net_as_end=False, swapped=False):
    """The same jump as an average of x and the end."""
    share = (s / t)[:, None]
    share = 1 - share if swapped else share
    u = net(x, t, s)
    return share * x + (1 - share) * (u if net_as_end else x - t[:, None] * u)


@pytest.mark.parametrize(("said", "answer"), [
    (check.RIGHT, jumped),
    (check.RIGHT, mixed),
    (check.RIGHT, lambda net, x, t, s: jump(lambda x, cond, t, s: net(x, t, s), x, x[:, :0], t, s)),
    ("uphill", lambda *given: jumped(*given, length=lambda t, s: s - t)),
    ("went on to t = 0", lambda *given: jumped(*given, length=lambda t, s: t)),
    ("length t - s is missing", lambda *given: jumped(*given, length=lambda t, s: 1 + 0 * t)),
    ("asked for the jump to 0", lambda *given: jumped(*given, asked=lambda t, s: (t, 0 * s))),
    ("from s to t", lambda *given: jumped(*given, asked=lambda t, s: (s, t))),
    ("taken for the end", lambda *given: mixed(*given, net_as_end=True)),
    ("weights of x and of the end are swapped", lambda *given: mixed(*given, swapped=True)),
    ("no mistake known", lambda *given: jumped(*given, length=lambda t, s: t + s)),
])  # fmt: skip
def test_the_jump(said, answer):
    assert said in check.jump(answer)


def paired(velocity, n, steps, *, sign=-1, late=0, scale=1, still=False, up=False, other=False, swapped=False):
    x = n
    for k in range(steps):
        t = k / steps if up else 1 - (k + late) / steps
        x = x + sign * scale / steps * velocity(n if still else x, torch.full((len(n),), t))
    return torch.cat([n, x] if swapped else [x, n.flip(0) if other else n], 1)


@pytest.mark.parametrize(("said", "answer"), [
    (check.RIGHT, paired),
    ("wrong way round", lambda *given: paired(*given, swapped=True)),
    ("lines cross again", lambda *given: paired(*given, other=True)),
    ("one step of the teacher", lambda velocity, n, steps: paired(velocity, n, 1)),
    ("uphill", lambda *given: paired(*given, sign=1)),
    ("clock runs the wrong way", lambda *given: paired(*given, up=True)),
    ("one step too late", lambda *given: paired(*given, late=1)),
    ("length 1", lambda velocity, n, steps: paired(velocity, n, steps, scale=steps)),
    ("asks at the noise", lambda *given: paired(*given, still=True)),
    ("Wanted [x(n), n], shape (6, 4)", lambda velocity, n, steps: paired(velocity, n, steps)[:, :2]),
    ("no mistake known", lambda *given: paired(*given, scale=0.5)),
])  # fmt: skip
def test_the_pairs(said, answer):
    assert said in check.pairs(answer)


def test_the_library_passes_as_the_pairs():
    def library(velocity, n, steps):
        return torch.cat([follow(velocity, n, steps), n], 1)

    assert check.pairs(library) == check.RIGHT


@pytest.mark.parametrize(("said", "answer"), [
    (check.RIGHT, lambda e, c: torch.hypot(e, torch.tensor(c)) - c),
    ("c is not subtracted", lambda e, c: (e**2 + c**2).sqrt()),
    ("root is missing", lambda e, c: e * e),
    ("c is not squared", lambda e, c: (e**2 + c).sqrt() - c),
    ("absolute error", lambda e, c: e.abs()),
    ("Huber's distance", lambda e, c: torch.nn.functional.huber_loss(e, 0 * e, reduction="none", delta=c)),
    ("one number for each coordinate", lambda e, c: ((e**2 + c**2).sqrt() - c).mean(1)),
    ("no mistake known", lambda e, c: 2 * e),
])  # fmt: skip
def test_the_pseudo_huber_distance(said, answer):
    assert said in check.pseudo_huber(answer)


def my_log_mel(wave, *, pad=432, hop=160, window=True, power=1, mels=True, floor="clamp", log=torch.log):
    padded = torch.nn.functional.pad(wave[None], (pad, pad), mode="reflect")[0] if pad else wave
    frames = padded.unfold(0, 1024, hop) * (torch.hann_window(1024) if window else 1)
    mel = torch.fft.rfft(frames).abs() ** power
    mel = mel @ mel_filters().T if mels else mel
    mel = {"clamp": mel.clamp(min=1e-5), "add": mel + 1e-5, "none": mel}[floor]
    return log(mel)


def as_it_is(mel):
    return mel


@pytest.mark.parametrize(("said", "mistake"), [
    ("logarithm is missing.", dict(log=as_it_is, floor="none")),
    ("logarithm is missing.", dict(log=as_it_is)),
    ("power |X|^2", dict(power=2)),
    ("base 10", dict(log=torch.log10)),
    ("decibels", dict(log=lambda mel: 20 * mel.log10())),
    ("floor was added", dict(floor="add")),
    ("floor is missing", dict(floor="none")),
    ("window is missing", dict(window=False)),
    ("Wrong hop", dict(hop=256)),
    ("Frames are missing", dict(pad=0)),
    ("One frame too many", dict(pad=512)),
    ("mel filters are missing", dict(mels=False)),
    ("no mistake known", dict(log=lambda mel: mel.log() + 1)),
])  # fmt: skip
def test_log_mel(said, mistake):
    assert check.log_mel(log_mel) == check.log_mel(my_log_mel) == check.RIGHT
    assert said in check.log_mel(lambda wave: my_log_mel(wave, **mistake))


def test_log_mel_with_swapped_axes():
    assert "axes are swapped" in check.log_mel(lambda wave: log_mel(wave).T)
    assert "got ndarray" in check.log_mel(lambda wave: log_mel(wave).numpy())


@pytest.mark.parametrize(("said", "answer"), [
    ("Right.", lambda m, v: 0.5 * (m**2 + v.exp() - 1 - v).sum(1)),
    ("1/2 is missing", lambda m, v: (m**2 + v.exp() - 1 - v).sum(1)),
    ("sign is wrong", lambda m, v: 0.5 * (1 + v - m**2 - v.exp()).sum(1)),
    ("mean over channels", lambda m, v: 0.5 * (m**2 + v.exp() - 1 - v).mean(1)),
    ("log-standard-deviation", lambda m, v: 0.5 * (m**2 + (2 * v).exp() - 1 - 2 * v).sum(1)),
    ("standard deviation stands", lambda m, v: 0.5 * (m**2 + (v / 2).exp() - 1 - v).sum(1)),
    ("log-variance itself", lambda m, v: 0.5 * (m**2 + v - 1 - v).sum(1)),
    ("one number for each clip and step", lambda m, v: 0.5 * (m**2 + v.exp() - 1 - v).sum()),
])  # fmt: skip
def test_kl(said, answer):
    assert said in check.kl(answer)


@pytest.mark.parametrize(("said", "answer"), [
    ("Right.", patchify),
    ("axes are swapped", lambda z, p: patchify(z, p).transpose(1, 2)),
    ("plain reshape", lambda z, p: z.reshape(len(z), z.shape[2] // p, -1)),
    ("another order", lambda z, p: z.transpose(1, 2).reshape(len(z), z.shape[2] // p, -1)),
    ("far apart", lambda z, p: z.unflatten(2, (p, -1)).permute(0, 3, 1, 2).flatten(2)),
    ("tokens (B, N, D)", lambda z, p: z),
])  # fmt: skip
def test_patchify(said, answer):
    assert said in check.patchify(answer)


def attend(q, k, v, mask, *, scale=8**-0.5, axis=-1):
    scores = (scale * q @ k.mT).masked_fill(~mask[:, None, :], -torch.inf)
    return scores.softmax(axis).nan_to_num() @ v


@pytest.mark.parametrize(("said", "answer"), [
    ("Right.", attend),
    ("Right.", lambda *x: torch.nn.functional.scaled_dot_product_attention(*x[:3], attn_mask=x[3][:, None, :])),
    ("sqrt(C) is missing", lambda *x: attend(*x, scale=1)),
    ("divided by C", lambda *x: attend(*x, scale=1 / 8)),
    ("mask is not used", lambda q, k, v, mask: attend(q, k, v, mask | True)),
    ("wrong way round", lambda q, k, v, mask: attend(q, k, v, ~mask)),
    ("over the queries", lambda *x: attend(*x, axis=1)),
    ("softmax is missing", lambda q, k, v, mask: (8**-0.5 * q @ k.mT * mask[:, None, :]) @ v),
    ("one vector for each word", lambda *x: attend(*x).mean(1)),
])  # fmt: skip
def test_attention(said, answer):
    assert said in check.attention(answer)


def block(x, shift, scale, gate, mlp, *, plus=1.0, skip=1.0, normed=True, swapped=False):
    n = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-6).sqrt() if normed else x
    shift, scale = (scale, shift) if swapped else (shift, scale)
    return skip * x + gate * mlp(shift + (plus + scale) * n)


@pytest.mark.parametrize(("said", "answer"), [
    ("Right.", block),
    ("x itself is missing", lambda *given: block(*given, skip=0.0)),
    ("gate is missing", lambda x, shift, scale, gate, mlp: block(x, shift, scale, 1.0, mlp)),
    ("1 + gate", lambda x, shift, scale, gate, mlp: block(x, shift, scale, 1 + gate, mlp)),
    ("before the MLP", lambda x, shift, scale, gate, mlp: block(x, shift, scale, 1.0, lambda z: mlp(gate * z))),
    ("scale stands alone", lambda *given: block(*given, plus=0.0)),
    ("swapped", lambda *given: block(*given, swapped=True)),
    ("shift is scaled too", lambda x, shift, scale, gate, mlp: block(x, (1 + scale) * shift, scale, gate, mlp)),
    ("norm is missing", lambda *given: block(*given, normed=False)),
    ("x itself goes on", lambda x, *given: block(torch.nn.functional.layer_norm(x, (8,)), *given)),
    ("the block's output", lambda *given: block(*given)[:, :3]),
    ("no mistake known", lambda *given: block(*given, skip=2.0)),
])  # fmt: skip
def test_the_adaln_block(said, answer):
    assert said in check.adaln_block(answer)


def test_the_library_passes_as_the_adaln_block():
    def library(x, shift, scale, gate, mlp):
        parts = SimpleNamespace(norm=Block(8).norm, mlp=mlp, modulation=lambda steer: steer)
        return Block.forward(parts, x, torch.cat([shift, scale, gate], dim=1))

    assert check.adaln_block(library) == check.RIGHT


def drawn_loss(head, x, h, generator, *, width=4, samples=2, shared=False, **mistake):
    noise = torch.randn(samples, 1 if shared else len(x), width, generator=generator).expand(-1, len(x), -1)
    return score(head(noise.flatten(0, 1), h.repeat(samples, 1)).view(samples, *x.shape), x, **mistake)


def one_noise(head, x, h, generator):
    noise = torch.randn(len(x), 4, generator=generator)
    return score(torch.stack([head(noise, h), head(noise, h)]), x)


def out_of_step(head, x, h, generator):
    drawn = head(torch.randn(2 * len(x), 4, generator=generator), h.repeat_interleave(2, dim=0))
    return score(drawn.view(2, *x.shape), x)


def interleaved(head, x, h, generator):
    drawn = head(torch.randn(2 * len(x), 4, generator=generator), h.repeat_interleave(2, dim=0))
    return score(drawn.view(len(x), 2, -1).transpose(0, 1), x)


@pytest.mark.parametrize(("said", "answer"), [
    ("Right.", drawn_loss),
    ("Right.", lambda head, x, h, g: Energy(noise_dim=4).loss(head, x, h, g)),
    ("Right.", interleaved),
    ("factor 2", lambda *given: drawn_loss(*given, factor=1.0)),
    ("second term is missing", lambda *given: drawn_loss(*given, sign=0.0)),
    ("wrong sign", lambda *given: drawn_loss(*given, sign=1.0)),
    ("V-statistic", lambda *given: drawn_loss(*given, divide=4)),
    ("squared", lambda *given: drawn_loss(*given, power=2)),
    ("same noise", one_noise),
    ("share one noise", lambda *given: drawn_loss(*given, shared=True)),
    ("swapped", lambda head, x, h, g: drawn_loss(lambda noise, h: head(h, noise), x, h, g)),
    ("noise of 4 numbers, got 6", lambda *given: drawn_loss(*given, width=6)),
    ("2 samples", lambda *given: drawn_loss(*given, samples=3)),
    ("out of step", out_of_step),
    ("from the generator", lambda head, x, h, g: drawn_loss(head, x, h, None)),
    ("never called", lambda head, x, h, g: x.norm(dim=1)),
    ("one number for each target", lambda *given: drawn_loss(*given).mean()),
    ("no mistake known", lambda *given: drawn_loss(*given, factor=3.0)),
])  # fmt: skip
def test_the_head_loss(said, answer):
    assert said in check.head_loss(answer)


def cka(x, y, centre=0, power=2, root=1.0, gram=True):
    x, y = (z - z.mean(centre, keepdim=True) if centre is not None else z for z in (x, y))
    below = torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y) if gram else (x.norm() * y.norm())**2
    return torch.linalg.matrix_norm(y.T @ x) ** power / below**root


@pytest.mark.parametrize(("said", "answer"), [
    (check.RIGHT, cka),
    (check.RIGHT, lambda x, y: float(cka(x, y))),
    ("not centred", partial(cka, centre=None)),
    ("numerator is not squared.", partial(cka, power=1)),
    ("its root", partial(cka, power=1, root=0.5)),
    ("denominator is squared", partial(cka, root=2)),
    ("norms of X and Y", partial(cka, gram=False)),
    ("rows are centred", partial(cka, centre=1)),
    ("one number", lambda x, y: x @ y[:5]),
    ("no mistake known", lambda x, y: 1 - cka(x, y)),
])  # fmt: skip
def test_cka(said, answer):
    assert said in check.cka(answer)


@pytest.mark.parametrize(("said", "answer"), [
    (check.RIGHT, lambda s, t, m: (s - t.detach())[m].square().mean()),
    (check.RIGHT, lambda s, t, m: hidden_state_loss([s], [t], m)),
    ("teacher gets a gradient too", lambda s, t, m: (s - t)[m].square().mean()),
    ("student gets no gradient", lambda s, t, m: (s.detach() - t)[m].square().mean()),
    ("student gets no gradient", lambda s, t, m: (s - t)[m].square().mean().detach()),
    ("mean over all positions", lambda s, t, m: (s - t).square().mean()),
    ("that are known", lambda s, t, m: (s - t)[~m].square().mean()),
    ("summed over the width", lambda s, t, m: (s - t)[m].square().sum(-1).mean()),
    ("sum over everything", lambda s, t, m: (s - t)[m].square().sum()),
    ("count as zeros", lambda s, t, m: ((s - t) * m[..., None]).square().mean()),
    ("its own mean", lambda s, t, m: sum((s[i] - t[i])[m[i]].square().mean() for i in range(len(m))) / len(m)),
    ("square is missing", lambda s, t, m: (s - t)[m].abs().mean()),
    ("not its square", lambda s, t, m: (s - t)[m].norm(dim=-1).mean()),
    ("root", lambda s, t, m: (s - t)[m].square().mean().sqrt()),
    ("one number", lambda s, t, m: (s - t)[m].square().mean(1)),
    ("no mistake known", lambda s, t, m: 3 * (s - t)[m].square().mean()),
])  # fmt: skip
def test_the_hidden_loss(said, answer):
    assert said in check.hidden_loss(answer)


@pytest.mark.parametrize(("said", "answer"), [
    (check.RIGHT, lambda a, b, w: b + w * (a - b)),
    (check.RIGHT, lambda a, b, w: torch.lerp(b, a, w)),
    ("swapped", lambda a, b, w: a + w * (b - a)),
    ("where 0 is no guidance", lambda a, b, w: (1 + w) * a - w * b),
    ("h_no_text itself is missing", lambda a, b, w: w * (a - b)),
    ("must sum to 1", lambda a, b, w: w * a + (1 + w) * b),
    ("its weight is 1 - w", lambda a, b, w: w * a),
    ("w is not used", lambda a, b, w: a),
    ("one h for each token", lambda a, b, w: (w * a + (1 - w) * b).mean(0)),
    ("no mistake known", lambda a, b, w: (a + b) / 2),
])  # fmt: skip
def test_guidance_on_h(said, answer):
    assert said in check.guide_hidden(answer)
