"""FastDecoder against decode: equal seeds, equal tokens, whatever the settings, and no waiting for the host."""

import copy
from itertools import product

import pytest
import torch
from torch.overrides import TorchFunctionMode

from dear import packed, passes
from dear.backbone import BackboneConfig, MaskedTransformer
from dear.decoding import decode
from dear.fast import FastDecoder, optimise
from dear.head import AdaLNHead, HeadConfig
from dear.objectives import ConsistencyTraining, Diffusion, Energy, Flow, MeanFlow
from dear.pipeline import TextToAudio

N, D, C, E, L = 8, 3, 12, 5, 4
CAPTIONS = ["a low bell then a high bird", "a bell", "rain"]
EXACT = {"rtol": 1e-9, "atol": 1e-9}  # of float64, in which the small nets are
CLOSE = {"rtol": 1e-3, "atol": 1e-4}  # of float32 and the shipped models: tokens have unit variance, errors were 2e-5


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def random_net(net, seed=0):
    """The net in float64, with weights large enough that everything depends on everything."""
    for parameter in net.double().parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=gen(seed), dtype=torch.float64)
    return net


def small(**config):
    return random_net(MaskedTransformer(BackboneConfig(
        **{"tokens": N, "token_dim": D, "text_dim": E, "text_length": L + 2, "width": C, "heads": 3, **config})))


def head_of(times, main="noise", noise_dim=None):
    return random_net(AdaLNHead(HeadConfig(D, noise_dim, C, width=8, depth=2, times=times, main=main)), seed=1)


@pytest.fixture(scope="module")
def backbone():
    return small()


def texts(batch=3, seed=0, dtype=torch.float64):
    """Texts of 4, 3, 2 words, so that all but the first are padded."""
    text = torch.randn(batch, L, E, generator=gen(seed), dtype=dtype)
    return text, torch.arange(L) < L - torch.arange(batch)[:, None]


def both(backbone, head, objective, batch=3, pooled=None, order=None, seed=0, tolerance=EXACT, **settings):
    """Tokens of FastDecoder, checked against those of decode."""
    settings = {"num_inference_steps": 4, **settings}
    text, mask = texts(batch)
    plain = decode(backbone, head, objective, text, mask, generator=gen(seed), pooled=pooled, order=order, **settings)
    decoder = FastDecoder(backbone, head, objective, batch=batch, **settings)
    drawn = decoder(text, mask, generator=gen(seed), pooled=pooled, order=order)
    torch.testing.assert_close(drawn, plain, **tolerance)
    return drawn


@pytest.mark.parametrize(("scale", "guidance"), [(1.0, "hidden"), (2.5, "hidden"), (2.5, "prediction")])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("teacher", [False, True])
def test_tokens_are_those_of_decode(backbone, scale, guidance, batch, teacher):
    head, objective = (head_of(1), Diffusion()) if teacher else (head_of(0, noise_dim=2), Energy(noise_dim=2))
    settings = {"guidance_scale": scale, "guidance": guidance, "sampling_steps": 5 if teacher else 1}
    for steps, schedule in product((1, 4, N), ("cosine", "linear")):
        both(backbone, head, objective, batch, num_inference_steps=steps, decoding_schedule=schedule, **settings)


@pytest.mark.parametrize("objective", [Energy(), Diffusion(prediction="epsilon", temperature=0.7, clip=None)])
def test_schedules_of_guidance_and_temperature(backbone, objective):
    head = head_of(objective.times)
    for rising, warming in product(("constant", "linear"), repeat=2):
        both(backbone, head, objective, guidance_schedule=rising, temperature_schedule=warming, temperature=0.4,
             guidance="prediction", sampling_steps=3 if objective.times else 1)


@pytest.mark.parametrize("config", [
    {"pool": "only"}, {"pool": "also"}, {"pooled_dim": 2}, {"pooled_dim": 2, "pool": "also", "text_length": L + 2},
    {"window": 0}, {"encoder_layers": 1, "decoder_layers": 1},
])  # fmt: skip
def test_every_kind_of_backbone(config):
    pooled = torch.randn(3, 2, generator=gen(), dtype=torch.float64) if "pooled_dim" in config else None
    both(small(**config), head_of(0), Energy(), pooled=pooled)


@pytest.mark.parametrize(("objective", "times", "steps"), [
    (Flow(), 1, 3), (MeanFlow(), 2, 2), (ConsistencyTraining(), 1, 3),
])  # fmt: skip
def test_other_objectives_draw_as_they_say(backbone, objective, times, steps):
    for guidance in ("hidden", "prediction"):
        both(backbone, head_of(times), objective, sampling_steps=steps, guidance=guidance)


def test_heads_that_are_wired_otherwise(backbone):
    both(backbone, head_of(0, main="hidden"), Energy())
    both(backbone, head_of(1, main="hidden"), Diffusion(), sampling_steps=3)
    both(backbone, lambda noise, cond: noise + cond[:, :D], Energy())


def test_many_rows_are_modulated_in_several_products(backbone, monkeypatch):
    whole = both(backbone, head_of(1), Diffusion(), sampling_steps=7, guidance="prediction")
    monkeypatch.setattr("dear.packed.MODULATED", 1)
    torch.testing.assert_close(both(backbone, head_of(1), Diffusion(), sampling_steps=7, guidance="prediction"), whole)


def test_an_order_that_is_given_is_kept(backbone):
    order = torch.stack([torch.randperm(N, generator=gen(s)) for s in range(3)])
    both(backbone, head_of(0), Energy(), order=order)


def test_one_decoder_serves_many_texts_and_equal_seeds_give_equal_tokens(backbone):
    head, settings = head_of(0), {"num_inference_steps": 3}
    decoder = FastDecoder(backbone, head, Energy(), batch=3, **settings)
    (first, mask), (second, _) = texts(), texts(seed=9)
    full = torch.ones_like(mask)
    drawn = []
    for text, words, seed in ((first, mask, 0), (second, full, 1), (first, mask, 0)):
        drawn.append(decoder(text, words, generator=gen(seed)))
        plain = decode(backbone, head, Energy(), text, words, generator=gen(seed), **settings)
        torch.testing.assert_close(drawn[-1], plain, **EXACT)
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
    assert not drawn[0].requires_grad and not drawn[0].is_inference()


@pytest.mark.parametrize(("name", "settings"), [
    ("soundworld", {}), ("soundworld", {"num_inference_steps": 4, "temperature": 0.6}),
    ("soundworld-teacher", {"num_inference_steps": 4, "sampling_steps": 6}),
    ("soundworld-teacher", {"num_inference_steps": 4, "sampling_steps": 6, "guidance": "hidden"}),
])  # fmt: skip
def test_shipped_models_draw_the_same(name, settings):
    pipe = TextToAudio.from_pretrained(name)
    quick = optimise(pipe)
    for prompts in (CAPTIONS[:1], CAPTIONS[:2]):
        torch.testing.assert_close(quick.tokens(prompts, gen(), **settings), pipe.tokens(prompts, gen(), **settings),
                                   **CLOSE)


@pytest.mark.parametrize(("objective", "steps"), [(Energy(), 1), (Diffusion(), 10)])
def test_bfloat16_is_as_near_to_the_truth_as_decode_in_bfloat16(backbone, objective, steps):
    # Two roundings of one number differ by as much as each does from the number: both are measured against float64.
    # One call of the head: equal within 10 per cent over these 8 seeds. Many: decode also rounds the times, 1000
    # radians of which matter to the head, and is 0.3 away; a FastDecoder embeds them before it rounds, 0.015.
    head, (text, mask) = head_of(objective.times), texts()
    order = torch.stack([torch.randperm(N, generator=gen(s)) for s in range(3)])
    options = {"num_inference_steps": 4, "guidance": "prediction", "sampling_steps": steps}
    half = [net.bfloat16() for net in (small(), head_of(objective.times))]
    quick = FastDecoder(backbone, head, objective, batch=3, dtype=torch.bfloat16, **options)
    near, far = [], []
    for seed in range(8):
        plain = decode(*half, objective, text.bfloat16(), mask, generator=gen(seed), order=order, **options).double()
        rounded = quick(text.bfloat16(), mask, generator=gen(seed), order=order)
        assert rounded.dtype == torch.bfloat16
        exact = truth(backbone, head, objective, text, mask, seed, order, options)
        near.append((rounded.double() - exact).abs().mean())
        far.append((plain - exact).abs().mean())
    assert sum(near) < 1.3 * sum(far) and sum(near) / 8 < 0.04


def truth(backbone, head, objective, text, mask, seed, order, options):
    """Tokens in float64 from the noise of bfloat16: a decoder whose inputs were drawn by one in bfloat16."""
    size = {"batch": 3, **options}
    coarse = FastDecoder(backbone, head, objective, dtype=torch.bfloat16, **size)
    exact = FastDecoder(backbone, head, objective, **size)
    drawn = coarse.prepare(text.bfloat16(), mask, generator=gen(seed), order=order)
    inputs = exact.prepare(text, mask, generator=gen(seed), order=order)
    inputs = inputs._replace(noise=drawn.noise.double(), z=None if drawn.z is None else drawn.z.double())
    found = exact.run(inputs, exact.state())
    return torch.empty_like(found).scatter_(1, order[..., None].expand_as(found), found)


class NoWaiting(TorchFunctionMode):
    """Fails where the host would wait for a device to tell a number or a size, and where something random is drawn."""

    names = {"__bool__", "__int__", "__float__", "__index__", "item", "tolist", "cpu", "numpy", "equal", "allclose",
             "nonzero", "masked_select", "unique", "argwhere", "rand", "randn", "normal_", "uniform_", "randperm"}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        index = args[1] if func.__name__ in ("__getitem__", "__setitem__") else ()
        for part in index if isinstance(index, tuple) else (index,):
            assert not (isinstance(part, torch.Tensor) and part.dtype == torch.bool), "an index of unknown length"
        assert func.__name__ not in self.names, func.__name__
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("objective", "guidance"), [
    (Energy(), "hidden"), (Energy(), "prediction"), (Diffusion(), "hidden"), (Diffusion(), "prediction"),
])  # fmt: skip
def test_the_host_reads_nothing_and_draws_nothing_while_iterating(backbone, objective, guidance):
    settings = {"batch": 3, "guidance": guidance, "guidance_schedule": "linear", "num_inference_steps": 4,
                "sampling_steps": 3 if objective.times else 1}
    decoder = FastDecoder(backbone, head_of(objective.times), objective, **settings)
    inputs, state, random = decoder.prepare(*texts(), generator=gen()), decoder.state(), torch.get_rng_state()
    expected = decoder.run(inputs, state).clone()
    for room in state:
        room.fill_(float("nan"))  # what an earlier call left is not read
    torch.testing.assert_close(decoder.run(inputs, state), expected, **EXACT)
    assert torch.equal(torch.get_rng_state(), random)
    with NoWaiting():
        decoder.run(inputs, state)
    for reading in (lambda: bool(inputs.mask.all()), lambda: int(inputs.order.max()), lambda: inputs.order.tolist(),
                    lambda: inputs.prefix[inputs.mask[:, 0, 0, :L]], lambda: torch.rand(1)):
        with pytest.raises(AssertionError), NoWaiting():
            reading()


def test_a_pipe_keeps_the_decoders_it_used_last(monkeypatch):
    monkeypatch.setattr("dear.graphs.KEPT", 2)
    pipe = TextToAudio.from_pretrained("soundworld")
    quick, steps = optimise(pipe), {"num_inference_steps": 2}
    assert quick.backbone is pipe.backbone and quick.settings == pipe.settings
    first = quick.tokens(CAPTIONS[:1], gen(), **steps)
    (made,) = quick.decoders.values()
    assert torch.equal(quick.tokens(CAPTIONS[:1], gen(), **steps), first) and list(quick.decoders.values()) == [made]
    quick.tokens(CAPTIONS[:2], gen(), **steps)
    quick.tokens(CAPTIONS[:1], gen(), **steps)
    quick.tokens(CAPTIONS[:1], gen(), guidance_scale=1.0, **steps)
    assert len(quick.decoders) == 2 and made in quick.decoders.values()
    seen = []
    watched = quick.tokens(CAPTIONS[:1], gen(), callback=lambda *now: seen.append(now), **steps)
    assert len(seen) == 2 and torch.equal(watched, pipe.tokens(CAPTIONS[:1], gen(), **steps))
    whole = quick("a bell", generator=gen(), num_inference_steps=2)
    torch.testing.assert_close(whole.log_mels, pipe("a bell", generator=gen(), num_inference_steps=2).log_mels, **CLOSE)


def test_a_pipe_notices_that_its_weights_have_changed():
    pipe = TextToAudio.from_pretrained("soundworld")
    quick, steps = optimise(pipe), {"num_inference_steps": 2}
    before = quick.tokens(CAPTIONS, gen(), **steps)
    optimizer = torch.optim.SGD([*pipe.backbone.parameters(), *pipe.head.parameters()], 0.01)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.randn(parameter.shape, generator=gen(1))
    optimizer.step()
    after = quick.tokens(CAPTIONS, gen(), **steps)
    torch.testing.assert_close(after, pipe.tokens(CAPTIONS, gen(), **steps), **CLOSE)
    assert (after - before).abs().mean() > 0.01


def test_a_pipe_in_bfloat16_draws_nearly_the_same():
    """From the noise of the same seed: two seeds are ten times as far apart."""
    pipe = TextToAudio.from_pretrained("soundworld")
    quick, steps = optimise(pipe, dtype=torch.bfloat16), {"num_inference_steps": 4}
    drawn, plain = (p.tokens(CAPTIONS, gen(), **steps) for p in (quick, pipe))
    other = pipe.tokens(CAPTIONS, gen(1), **steps)
    assert drawn.dtype == torch.float32
    assert (drawn - plain).abs().mean() < 0.1 * (other - plain).abs().mean()


def test_small_operations_may_be_fused(backbone, monkeypatch):
    """What is compiled is whole graphs; by a backend that only runs them, as others take minutes."""
    asked, real = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: asked.append(options) or real(
        function, backend="eager", fullgraph=True, **options))
    passes.fused.cache_clear()
    text, mask = texts()
    for head, objective in ((head_of(0), Energy()), (head_of(1), Diffusion())):
        options = {"num_inference_steps": 3, "sampling_steps": 2} if head.config.times else {"num_inference_steps": 3}
        quick = FastDecoder(backbone, head, objective, batch=3, compiled=True, **options)
        plain = decode(backbone, head, objective, text, mask, generator=gen(), **options)
        torch.testing.assert_close(quick(text, mask, generator=gen()), plain, **EXACT)
    assert asked == [{"dynamic": True}] * 5
    passes.fused.cache_clear()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are CUDA's")
@pytest.mark.parametrize("teacher", [False, True])
def test_graphs_draw_the_same_bit_for_bit(backbone, teacher):
    head, objective = (head_of(1), Diffusion()) if teacher else (head_of(0), Energy())
    options = {"sampling_steps": 3 if teacher else 1, "num_inference_steps": 4}
    nets = [copy.deepcopy(net).to("cuda", torch.float32) for net in (backbone, head)]
    decoders = [FastDecoder(*nets, objective, batch=3, graph=graph, **options) for graph in (True, False)]
    long, mask = (part.cuda() for part in texts(dtype=torch.float32))
    for text, words in ((long, mask), (long, torch.ones_like(mask)), (long, mask), (long[:, :3], mask[:, :3])):
        drawn = [d(text, words, generator=torch.Generator("cuda").manual_seed(0)) for d in decoders]
        assert torch.equal(*drawn)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel is CUDA's")
@pytest.mark.parametrize("guided", [True, False])
def test_one_kernel_attends_for_clips_of_several_lengths(guided):
    """As branch by branch, which the test of bfloat16 above holds against the truth; only roundings differ."""
    nets = [net.to("cuda", torch.bfloat16) for net in (small(width=48), random_net(AdaLNHead(HeadConfig(D, None, 48))))]
    options = {"batch": 3, "num_inference_steps": 4, "guidance_scale": 2.5 if guided else 1.0, "graph": False}
    quick = FastDecoder(*nets, Energy(), **options)
    text, mask = texts(dtype=torch.bfloat16)
    inputs = quick.prepare(text.cuda(), torch.ones_like(mask).cuda(), generator=torch.Generator("cuda").manual_seed(0))
    assert quick.at_once and inputs.mask is None
    drawn = quick.run(inputs, quick.state()).clone()
    quick.at_once = False
    branchwise = quick.run(inputs, quick.state())
    assert (drawn - branchwise).abs().mean() < 0.02 * branchwise.abs().mean()


def test_where_clips_end():
    ends = packed.ends_of(2, [6, 4], torch.device("cpu"))
    assert ends.tolist() == [0, 3, 6, 8, 10] and ends.dtype == torch.int32
    assert packed.ends_of(1, [5], torch.device("cpu")).tolist() == [0, 5]


@pytest.mark.parametrize(("device", "card", "dtype", "whether"), [
    ("cuda", (8, 0), torch.float16, True), ("cuda", (9, 0), torch.bfloat16, True),
    ("cuda", (7, 5), torch.float16, False), ("cuda", (9, 0), torch.float32, False),
    ("cpu", None, torch.bfloat16, False),
])  # fmt: skip
def test_which_cards_attend_in_one_kernel(monkeypatch, device, card, dtype, whether):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: card)
    assert packed.attends_at_once(torch.device(device), dtype) == whether


def test_what_a_decoder_was_not_built_for(backbone):
    text, mask = texts()
    decoder = FastDecoder(backbone, head_of(0), Energy(), batch=3, num_inference_steps=2)
    with pytest.raises(ValueError, match="built for 3 texts at once, got 2"):
        decoder(text[:2], mask[:2], generator=gen())
    with pytest.raises(ValueError, match="a text without a word"):
        decoder(text, torch.zeros_like(mask), generator=gen())
    with pytest.raises(ValueError, match="order must be"):
        decoder(text, mask, generator=gen(), order=torch.zeros(3, N, dtype=torch.long))
    for message, options in [
        ("graphs are for CUDA", {"graph": True}), ("steps must lie in", {"num_inference_steps": N + 1}),
        ("guidance must be", {"guidance": "both"}), ("temperature_schedule", {"temperature_schedule": "up"}),
    ]:
        with pytest.raises(ValueError, match=message):
            FastDecoder(backbone, head_of(0), Energy(), batch=3, **{"num_inference_steps": 4, **options})
    with pytest.raises(ValueError, match="steps must lie in 1..1000, got 0"):
        FastDecoder(backbone, head_of(1), Diffusion(), batch=3, num_inference_steps=4, sampling_steps=0)
