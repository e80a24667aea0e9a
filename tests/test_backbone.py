"""The masked transformer against torch's own blocks, and what its hidden states may and may not depend on."""

from itertools import product

import pytest
import torch

from dear.backbone import BackboneConfig, Block, MaskedTransformer
from dear.head import AdaLNHead, HeadConfig

SMALL = {"tokens": 6, "token_dim": 4, "text_dim": 5, "text_length": 7, "width": 12, "heads": 3}


def build(**changes):
    torch.manual_seed(0)
    model = MaskedTransformer(BackboneConfig(**{**SMALL, **changes})).double()
    for parameter in model.parameters():  # larger than at the start, so that every dependence is visible
        torch.nn.init.normal_(parameter, std=0.4)
    return model


@pytest.fixture
def inputs():
    """Three clips with 2, 6 and 0 unknown tokens, and texts of 3, 1 and 4 words."""
    g = torch.Generator().manual_seed(1)
    tokens = torch.randn(3, 6, 4, generator=g, dtype=torch.float64)
    masked = torch.tensor([[0, 1, 0, 0, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    text = torch.randn(3, 5, 5, generator=g, dtype=torch.float64)
    text_mask = torch.arange(5) < torch.tensor([[3], [1], [4]])
    return tokens, masked, text, text_mask


def test_block_equals_torchs_encoder_layer():
    ours = Block(12, 3).double()
    theirs = torch.nn.TransformerEncoderLayer(
        12, 3, 48, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, dtype=torch.float64
    )
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    names = {
        "norm1": "norm1", "norm2": "norm2", "qkv": "self_attn.in_proj_", "proj": "self_attn.out_proj",
        "mlp.0": "linear1", "mlp.2": "linear2",
    }
    state = theirs.state_dict()
    copied = {}
    for name, source in names.items():
        for kind in ("weight", "bias"):
            copied[f"{name}.{kind}"] = state[source + kind if source.endswith("_") else f"{source}.{kind}"]
    ours.load_state_dict(copied)
    x, keys = torch.randn(2, 7, 12, dtype=torch.float64), torch.arange(7) < torch.tensor([[7], [4]])
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours(x, keys[:, None, None]), theirs(x, src_key_padding_mask=~keys))


def test_unknown_tokens_are_never_read_and_known_ones_are(inputs):
    tokens, masked, text, text_mask = inputs
    model = build()
    h = model(*inputs)
    assert h.shape == (3, 6, 12) and h.isfinite().all()
    assert torch.equal(model(tokens.masked_fill(masked[..., None], float("nan")), *inputs[1:]), h)
    for position in (0, 2, 3, 5):
        changed = tokens.clone()
        changed[0, position] += 1
        difference = (model(changed, *inputs[1:]) - h).abs().amax(dim=-1)
        assert (difference[0] > 1e-6).all() and (difference[1:] == 0).all()


def test_gradient_of_the_tokens_is_zero_where_unknown(inputs):
    tokens, masked, *rest = inputs
    tokens = tokens.requires_grad_()
    build()(tokens, masked, *rest).square().sum().backward()
    assert (tokens.grad[masked] == 0).all() and (tokens.grad[~masked] != 0).any(dim=-1).all()


def test_padding_of_the_text_is_never_read_and_words_are(inputs):
    tokens, masked, text, text_mask = inputs
    model = build()
    h = model(*inputs)
    noisy = text.masked_fill(~text_mask[..., None], float("nan"))
    torch.testing.assert_close(model(tokens, masked, noisy, text_mask), h, rtol=0, atol=0)
    longer, more = torch.cat([text, text[:, :2]], dim=1), torch.nn.functional.pad(text_mask, (0, 2))
    torch.testing.assert_close(model(tokens, masked, longer, more), h)
    for word in range(3):
        changed = text.clone()
        changed[0, word] += 1
        assert ((model(tokens, masked, changed, text_mask) - h)[0].abs().amax(dim=-1) > 1e-6).all()
    swapped = text[:, [1, 0, 2, 3, 4]]  # word order counts
    assert (model(tokens, masked, swapped, text_mask) - h)[0].abs().max() > 1e-6


def test_a_mixed_batch_equals_its_rows_one_by_one(inputs):
    model = build(pooled_dim=3)
    pooled = torch.randn(3, 3, dtype=torch.float64)
    drop = torch.tensor([False, False, True])
    h, layers = model(*inputs, drop, pooled, return_layers=True)
    for row in range(3):
        one = [part[row : row + 1] for part in (*inputs, drop, pooled)]
        alone, alone_layers = model(*one, return_layers=True)
        torch.testing.assert_close(alone, h[row : row + 1])
        for together, single in zip(layers, alone_layers, strict=True):
            torch.testing.assert_close(single, together[row : row + 1])


def test_the_encoder_does_not_see_mask_embeddings_and_positions_are_kept(inputs):
    # With no decoder layers and h = norm(encoder output + position), the unknown places hold mask embedding + position.
    model = build(decoder_layers=0, window=0)
    h = model(*inputs)
    expected = model.decoder_norm(model.mask_embedding + model.decoder_positions)
    torch.testing.assert_close(h[inputs[1]], expected[[1, 4, 0, 1, 2, 3, 4, 5]])
    # An encoder run by hand on the known tokens of clip 0 alone, put back at 0, 2, 3, 5.
    tokens, masked, text, text_mask = (part[:1] for part in inputs)
    seen = torch.tensor([0, 2, 3, 5])
    x = torch.cat([model.text_in(text[:, :3]) + model.text_positions[:3],
                   model.token_in(tokens[:, seen]) + model.encoder_positions[seen]], dim=1)
    for block in model.encoder:
        x = block(x)
    x = model.encoder_norm(x)[:, 3:] + model.decoder_positions[seen]
    torch.testing.assert_close(h[:1, seen], model.decoder_norm(x))


def test_the_window_lays_known_neighbours_side_by_side(inputs):
    tokens, masked, text, text_mask = inputs
    with_window = build(decoder_layers=0, window=2)
    without = build(decoder_layers=0, window=0)
    without.load_state_dict({k: v for k, v in with_window.state_dict().items() if not k.startswith("neighbours")})
    without.decoder_norm = with_window.decoder_norm = torch.nn.Identity()
    weight, bias = with_window.neighbours.weight, with_window.neighbours.bias  # (C, D + 1, 5)
    expected = bias.expand(3, 6, -1).clone()
    for clip, place, offset in product(range(3), range(6), range(-2, 3)):
        other = place + offset
        if 0 <= other < 6 and not masked[clip, other]:  # what is known, and a 1 that says so
            known = torch.cat([tokens[clip, other], tokens.new_ones(1)])
            expected[clip, place] += weight[:, :, offset + 2] @ known
    torch.testing.assert_close(with_window(*inputs) - without(*inputs), expected)


def test_dropped_text_is_ignored_and_the_null_text_learns(inputs):
    tokens, masked, text, text_mask = inputs
    model = build()
    drop = torch.tensor([True, False, True])
    h = model(*inputs, drop)
    other = model(tokens, masked, text + 1, text_mask.roll(1, 0), drop)
    torch.testing.assert_close(other[drop], h[drop])
    torch.testing.assert_close(h[~drop], model(*inputs)[~drop])
    assert (h - model(*inputs))[drop].abs().amax(dim=-1).min() > 1e-6
    h.square().sum().backward()
    assert model.null_text.grad.abs().max() > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_pooled_vector_counts_and_is_dropped_with_the_text(inputs):
    model = build(pooled_dim=3)
    pooled = torch.randn(3, 3, dtype=torch.float64)
    h = model(*inputs, None, pooled)
    assert ((model(*inputs, None, pooled + 1) - h).abs().amax(dim=(1, 2)) > 1e-6).all()
    drop = torch.ones(3, dtype=torch.bool)
    torch.testing.assert_close(model(*inputs, drop, pooled + 1), model(*inputs, drop, pooled))


def test_layers_are_the_decoders_and_end_in_h(inputs):
    model = build(decoder_layers=3)
    h, layers = model(*inputs, return_layers=True)
    assert len(layers) == 3 and torch.equal(layers[-1], h) and torch.equal(h, model(*inputs))
    assert all(layer.shape == h.shape for layer in layers)
    length, caught = 4, []  # the longest text has four words
    model.decoder[0].register_forward_hook(lambda module, args, out: caught.append(out[:, length:]))
    assert torch.equal(model(*inputs, return_layers=True)[1][0], caught[0])


def test_parameter_counts_at_paper_size():
    with torch.device("meta"):
        backbone = MaskedTransformer(BackboneConfig.paper())
        heads = [AdaLNHead(HeadConfig(128, None, 768, 1024, 3, times)) for times in (1, 0)]
    teacher, student = (sum(p.numel() for m in (backbone, head) for p in m.parameters()) / 1e6 for head in heads)
    assert teacher == pytest.approx(193, rel=0.01) and student == pytest.approx(191, rel=0.01)


def test_bad_input(inputs):
    tokens, masked, text, text_mask = inputs
    model = build()
    with pytest.raises(ValueError, match=r"tokens must be \(B, 6, 4\)"):
        model(tokens[:, :5], masked, text, text_mask)
    with pytest.raises(ValueError, match="text must be"):
        model(tokens, masked, text[..., :4], text_mask)
    with pytest.raises(ValueError, match="1 to 7"):
        model(tokens, masked, text.repeat(1, 2, 1), text_mask.repeat(1, 2))
    with pytest.raises(ValueError, match="both masks bool"):
        model(tokens, masked, text, text_mask.float())
    with pytest.raises(ValueError, match="without a word"):
        model(tokens, masked, text, text_mask & False)
    with pytest.raises(ValueError, match="pooled must be None"):
        model(tokens, masked, text, text_mask, None, torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"pooled must be \(3, 2\)"):
        build(pooled_dim=2)(tokens, masked, text, text_mask)
    with pytest.raises(ValueError, match="window must be 0"):
        build(window=-1)
    with pytest.raises(ValueError, match="heads must divide"):
        build(heads=5)


def test_a_fresh_model_starts_small_and_random():
    torch.manual_seed(0)
    model = MaskedTransformer(BackboneConfig())
    for name in ("text_positions", "encoder_positions", "decoder_positions", "null_text", "mask_embedding"):
        assert getattr(model, name).std().item() == pytest.approx(0.02, rel=0.25), name
    weight = model.encoder[0].mlp[0].weight
    assert weight.std().item() == pytest.approx((2 / sum(weight.shape)) ** 0.5, rel=0.05)  # Xavier
