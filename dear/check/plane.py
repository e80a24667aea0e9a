"""Answers to the exercises on the energy score and on one-step samplers (notebooks 01 to 03)."""

from collections.abc import Callable

import torch
from torch import Tensor

from dear.check.judge import RIGHT, judge, scores


def energy_score(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Judge answer(samples (m, B, D), y (B, D)) -> (B,), an unbiased estimate of the energy score of each y."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 5, 3, generator=generator), 2 * torch.randn(5, 3, generator=generator)
    return judge(answer(x, y), scores(x, y))


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
    said = [judge(found, scores(0.5 * pair, y)) for pair in pairings]
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

    return judge(answer(net, y, n, t), {
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
    return judge(answer(_net, x, t, d), {
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
    return judge(found, {
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
    return judge(answer(net, velocity, x, t, s), {
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
    return judge(answer(_net, x, t, s), {
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
    return judge(found, {
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
    return judge(answer(error, c), {
        RIGHT: root - c,
        "c is not subtracted: the distance of equal points has to be 0.": root,
        "The root is missing: this is the squared error.": error**2,
        "c is not squared under the root.": (error**2 + c).sqrt() - c,
        "This is the absolute error, which has a kink at 0: that is what c is for.": error.abs(),
        "This is Huber's distance, with its two pieces: wanted the smooth sqrt(error^2 + c^2) - c.": huber,
    }, "one number for each coordinate")


def _plane() -> tuple[Tensor, Tensor, Tensor]:
    """Points (6, 2), times t in [0.6, 1] and smaller ones in [0.1, 0.3]."""
    generator = torch.Generator().manual_seed(0)
    t, r = torch.rand(2, 6, generator=generator)
    return torch.randn(6, 2, generator=generator), 0.6 + 0.4 * t, 0.1 + 0.2 * r


def _net(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """A smooth net of no meaning, curved in all that it is given."""
    t, r = t[:, None], r[:, None]
    return torch.sin(x * (1 + t)) + x.flip(1) * t**2 * torch.exp(-r) + r**2
