"""Decoding: every token once, on schedule, under the guidance that was asked for."""

from itertools import product
from types import SimpleNamespace

import pytest
import torch

from dear.backbone import BackboneConfig, MaskedTransformer
from dear.decoding import decode
from dear.head import AdaLNHead, HeadConfig
from dear.masking import decoding_schedule
from dear.objectives import Diffusion, Energy

N, D, C = 8, 3, 12


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def world():
    """A small model with weights large enough that everything depends on everything, and two texts."""
    torch.manual_seed(0)
    config = BackboneConfig(tokens=N, token_dim=D, text_dim=5, text_length=4, width=C, heads=3)
    models = {"backbone": MaskedTransformer(config).double()}
    for name, times in (("energy", 0), ("diffusion", 1)):
        models[name] = AdaLNHead(HeadConfig(D, None, C, width=8, depth=1, times=times)).double()
    for model in models.values():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    text = torch.randn(2, 4, 5, generator=gen(), dtype=torch.float64)
    return SimpleNamespace(**models, text=text, text_mask=torch.arange(4) < torch.tensor([[3], [4]]))


def draw(world, seed=0, rows=slice(None), head=None, objective=None, **options):
    return decode(
        world.backbone, head or world.energy, objective or Energy(), world.text[rows], world.text_mask[rows],
        generator=gen(seed), **{"num_inference_steps": 4, **options},
    )


def test_every_token_is_placed_once_in_the_order_and_number_asked_for(world):
    order = torch.stack([torch.randperm(N, generator=gen(s)) for s in (1, 2)])
    for steps, kind in product((1, 3, N), ("cosine", "linear")):
        seen = []
        tokens = draw(world, order=order, num_inference_steps=steps, decoding_schedule=kind,
                      callback=lambda *a, seen=seen: seen.append(a))
        assert [iteration for iteration, _ in seen] == list(range(steps)) and tokens.shape == (2, N, D)
        placed = 0
        for (_, masked), share in zip(seen, decoding_schedule(kind, steps, N), strict=True):
            placed += share
            for row in range(2):
                assert set(order[row, :placed].tolist()) == set((~masked[row]).nonzero()[:, 0].tolist())
        assert placed == N


def test_a_placed_token_is_never_touched_again_and_the_backbone_sees_it(world):
    history = []

    class Watching:
        config = world.backbone.config

        def __call__(self, tokens, masked, *rest):
            history.append((tokens.clone(), masked.clone()))
            return world.backbone(tokens, masked, *rest)

    watched = SimpleNamespace(**{**vars(world), "backbone": Watching()})
    final = draw(watched, guidance_scale=1.0, num_inference_steps=5)
    assert history[0][1].all() and len(history) == 5
    for tokens, masked in history:
        torch.testing.assert_close(tokens[~masked], final[~masked], rtol=0, atol=0)
        assert (tokens[masked] == 0).all()
    assert (final.abs().sum(dim=-1) > 0).all()


def test_scale_one_is_the_unguided_model_with_half_the_rows(world):
    batches = []
    hook = world.backbone.register_forward_hook(lambda module, args, out: batches.append(len(out)))
    plain = draw(world, guidance_scale=1.0)
    nearly = draw(world, guidance_scale=1.0 + 1e-12)
    hook.remove()
    assert batches == [2] * 4 + [4] * 4
    torch.testing.assert_close(nearly, plain)
    assert (draw(world, guidance_scale=3.0) - plain).abs().max() > 1e-3
    # Scale 0 leaves the branch without text alone: another text changes nothing.
    other = SimpleNamespace(**{**vars(world), "text": world.text + 1})
    torch.testing.assert_close(draw(other, guidance_scale=0.0), draw(world, guidance_scale=0.0))
    assert (draw(other, guidance_scale=1.0) - plain).abs().max() > 1e-3


def test_one_iteration_by_hand(world):
    w, order = 2.5, torch.arange(N).expand(2, N)
    masked, tokens = torch.ones(2, N, dtype=torch.bool), torch.zeros(2, N, D, dtype=torch.float64)
    noise = torch.randn(2, N, D, generator=gen(3), dtype=torch.float64)
    with torch.no_grad():
        h_cond = world.backbone(tokens, masked, world.text, world.text_mask)
        h_uncond = world.backbone(tokens, masked, world.text, world.text_mask, torch.ones(2, dtype=torch.bool))
        h = w * h_cond + (1 - w) * h_uncond
        hidden = world.energy(0.7 * noise.view(-1, D), h.view(-1, C)).view(2, N, D)
        out_cond, out_uncond = (world.energy(0.7 * noise.view(-1, D), g.view(-1, C)) for g in (h_cond, h_uncond))
    options = {"seed": 3, "order": order, "num_inference_steps": 1, "guidance_scale": w, "temperature": 0.7}
    torch.testing.assert_close(draw(world, **options), hidden)
    prediction = draw(world, guidance="prediction", **options)
    torch.testing.assert_close(prediction, (w * out_cond + (1 - w) * out_uncond).view(2, N, D))
    assert (prediction - hidden).abs().max() > 1e-5  # the head is not linear


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_hidden_guidance_of_a_linear_head_is_prediction_guidance(world, schedule):
    matrix = torch.randn(C, D, generator=gen(), dtype=torch.float64)

    def head(noise, cond):
        return 0.1 * noise + cond @ matrix

    drawn = [draw(world, head=head, guidance=g, guidance_schedule=schedule) for g in ("hidden", "prediction")]
    torch.testing.assert_close(*drawn)


def test_linear_schedule_ramps_from_one_to_the_scale_with_the_share_placed(world):
    # A head that shows the weight: h_cond is 1 and h_uncond 0 everywhere, so a token is w.
    class Branches:
        config = world.backbone.config

        def __call__(self, tokens, masked, text, text_mask, drop, pooled):
            return torch.where(drop[:, None, None], 0.0, 1.0).expand(-1, N, D).double()

    shown = SimpleNamespace(**{**vars(world), "backbone": Branches()})
    order = torch.arange(N).expand(2, N)
    options = {"head": lambda noise, cond: cond, "order": order, "guidance_scale": 5.0}
    drawn = draw(shown, guidance_schedule="linear", **options)
    # 8 tokens in 4 iterations: 1, 2, 2, 3, so w = 1 + 4 * (1, 3, 5, 8) / 8.
    expected = torch.tensor([1.5, 2.5, 2.5, 3.5, 3.5, 5.0, 5.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(drawn[0, :, 0], expected)
    assert (draw(shown, **options) == 5).all()


@pytest.mark.parametrize("guidance", ["hidden", "prediction"])
def test_teacher_decodes_with_the_diffusion_sampler_unchanged(world, guidance):
    options = {"head": world.diffusion, "objective": Diffusion(), "sampling_steps": 5, "guidance": guidance}
    drawn = draw(world, **options)
    assert drawn.shape == (2, N, D) and drawn.isfinite().all()
    assert torch.equal(drawn, draw(world, **options))
    nearly, plain = (draw(world, guidance_scale=w, **options) for w in (1 + 1e-12, 1.0))
    torch.testing.assert_close(nearly, plain, rtol=1e-5, atol=1e-5)


def test_a_perfect_model_reproduces_known_tokens(world):
    known = torch.randn(2, N, D, generator=gen(5), dtype=torch.float64)

    class Perfect:
        config = world.backbone.config

        def __call__(self, tokens, masked, text, text_mask, drop, pooled):
            return known.repeat(len(tokens) // 2, 1, 1)

    perfect = SimpleNamespace(**{**vars(world), "backbone": Perfect()})
    for w in (1.0, 4.0):
        torch.testing.assert_close(draw(perfect, head=lambda noise, cond: cond, guidance_scale=w), known)


def test_same_seed_same_tokens_and_another_seed_others(world):
    assert torch.equal(draw(world), draw(world))
    assert (draw(world) - draw(world, seed=1)).abs().max() > 1e-3
    assert (draw(world)[0] - draw(world)[1]).abs().max() > 1e-3


def test_without_noise_and_with_a_given_order_a_clip_does_not_depend_on_its_batch(world):
    order = torch.stack([torch.randperm(N, generator=gen(s)) for s in (1, 2)])
    together = draw(world, order=order, temperature=0.0)
    for row in range(2):
        alone = draw(world, rows=slice(row, row + 1), order=order[row : row + 1], temperature=0.0)
        torch.testing.assert_close(alone[0], together[row])


def test_a_linear_temperature_warms_up_with_the_share_placed(world):
    order = torch.stack([torch.randperm(N, generator=gen(s)) for s in (1, 2)])
    options = {"head": lambda noise, cond: noise, "order": order, "num_inference_steps": 3, "guidance_scale": 1.0}
    noise = draw(world, **options)
    cool = draw(world, temperature=0.5, temperature_schedule="linear", **options)
    placed = 0
    for share in decoding_schedule("cosine", 3, N):
        for row in range(2):
            here = order[row, placed : placed + share]
            torch.testing.assert_close(cool[row, here], (0.5 + 0.5 * placed / N) * noise[row, here])
        placed += share
    assert torch.equal(draw(world, temperature=1.0, temperature_schedule="linear", **options), noise)


def test_temperature_cools_the_reverse_steps_of_a_diffusion_and_not_its_first_noise(world):
    warm, cold = Diffusion(train_steps=20), Diffusion(train_steps=20, temperature=0.25)
    options = {"head": world.diffusion, "sampling_steps": 4, "guidance": "prediction"}
    expected = draw(world, objective=cold, **options)
    torch.testing.assert_close(draw(world, objective=warm, temperature=0.25, **options), expected)
    assert warm.temperature == 1.0
    one = options | {"num_inference_steps": 1}  # a ramp begins at its temperature
    ramp = draw(world, objective=warm, temperature=0.25, temperature_schedule="linear", **one)
    torch.testing.assert_close(ramp, draw(world, objective=cold, **one))
    half = Diffusion(train_steps=20, temperature=0.5)
    torch.testing.assert_close(draw(world, objective=half, temperature=0.5, **options), expected)
    assert (draw(world, objective=warm, **options) - expected).abs().max() > 1e-3


def test_every_token_has_noise_of_its_own(world):
    # A head that returns its noise: two tokens that share it would be equal.
    tokens = draw(world, head=lambda noise, cond: noise, num_inference_steps=5)
    assert tokens.flatten().unique().numel() == tokens.numel()


def test_noise_has_the_objectives_dimension_and_no_graph_is_kept(world):
    shapes = []
    head = AdaLNHead(HeadConfig(D, 5, C, width=8, depth=1)).double()
    head.register_forward_pre_hook(lambda module, args: shapes.append(args[0].shape[-1]))
    tokens = draw(world, head=head, objective=Energy(noise_dim=5))
    assert set(shapes) == {5} and not tokens.requires_grad


def test_bad_arguments(world):
    twice = torch.zeros(2, N, dtype=torch.long)
    for message, options in [
        ("steps must lie in", {"num_inference_steps": N + 1}),
        ("guidance_scale", {"guidance_scale": -1.0}),
        ("guidance_scale", {"guidance_scale": float("nan")}),
        ("guidance must be", {"guidance": "both"}),
        ("guidance_schedule", {"guidance_schedule": "cosine"}),
        ("temperature", {"temperature": -0.1}),
        ("temperature", {"temperature": float("nan")}),
        ("temperature_schedule", {"temperature_schedule": "cosine"}),
        ("order must be", {"order": twice}),
        ("order must be", {"order": twice[:1]}),
        ("one pass", {"sampling_steps": 100}),
    ]:
        with pytest.raises(ValueError, match=message):
            draw(world, **options)
