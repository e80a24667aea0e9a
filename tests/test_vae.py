"""The VAE: the layout of tokens by numpy, its scale, the energy score of its patches by hand, and that it learns."""

import numpy as np
import pytest
import torch

from dear.blocks import SPREAD
from dear.vae import VAE, VAEConfig, patch_score, patchify, texture_loss, unpatchify, vae_loss

SMALL = VAEConfig(mels=20, channels=4, noise=4, width=24, texture_width=16, blocks=1)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return VAE(SMALL)


def mels(batch=3, frames=32, seed=0):
    return -5.3 + 1.7 * torch.randn(batch, frames, 20, generator=gen(seed))


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_audioldms_latent_becomes_256_tokens_of_128():
    latent = torch.randn(2, 8, 256, 16, generator=gen())
    tokens = patchify(latent, 4)
    assert tokens.shape == (2, 256, 128)
    expected = np.zeros((2, 256, 128), np.float32)
    for row in range(64):
        for column in range(4):
            square = latent.numpy()[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            expected[:, 4 * row + column] = square.reshape(2, -1)  # channel, then row, then column
    np.testing.assert_array_equal(tokens.numpy(), expected)
    assert torch.equal(unpatchify(tokens, 4, height=256), latent)


def test_the_classrooms_latent_becomes_32_tokens_of_64():
    latent = torch.randn(2, 32, 64, generator=gen())
    tokens = patchify(latent, 2)
    assert tokens.shape == (2, 32, 64)
    expected = np.stack([latent.numpy()[:, :, 2 * n : 2 * n + 2].reshape(2, -1) for n in range(32)], 1)
    np.testing.assert_array_equal(tokens.numpy(), expected)
    assert torch.equal(unpatchify(tokens, 2), latent)


@pytest.mark.parametrize(("shape", "patch"), [((1, 3, 8), 4), ((2, 5, 6), 1), ((1, 2, 4, 12), 2), ((2, 1, 6, 3), 3)])
def test_unpatchify_undoes_patchify(shape, patch):
    latent = torch.randn(shape, generator=gen())
    back = unpatchify(patchify(latent, patch), patch, shape[2] if len(shape) == 4 else None)
    assert torch.equal(back, latent)
    strided = patchify(latent, patch).transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(unpatchify(strided, patch, shape[2] if len(shape) == 4 else None), latent)


def test_what_cannot_be_cut_into_tokens():
    for shape in ((1, 2, 7), (1, 2, 8, 6), (2, 8), (1, 1, 4, 4, 4)):
        with pytest.raises(ValueError, match="sides divisible by 4"):
            patchify(torch.zeros(shape), 4)
    with pytest.raises(ValueError, match="tokens of 7 numbers do not hold whole pieces of 2 steps"):
        unpatchify(torch.zeros(1, 4, 7), 2)
    for shape, height in (((1, 4, 6), 4), ((1, 4, 8), 5), ((1, 5, 8), 4)):
        with pytest.raises(ValueError, match="do not fill a latent of height"):
            unpatchify(torch.zeros(shape), 2, height)


# --- the network ------------------------------------------------------------------------------------------------------


def test_the_shipped_size_has_under_a_million_parameters_and_the_shapes_of_the_course():
    vae = VAE()
    assert sum(p.numel() for p in vae.parameters()) < 1_000_000
    tokens = vae.encode(torch.zeros(1, 256, 64), gen())
    assert tokens.shape == (1, 32, 2 * vae.config.channels) and vae.decode(tokens, gen()).shape == (1, 256, 64)


def test_encode_draws_from_the_posterior_or_gives_its_mean(vae):
    x = mels(1)
    mean, log_variance = vae.posterior(x)
    assert mean.shape == log_variance.shape == (1, 4, 8)
    assert torch.equal(vae.encode(x, sample=False), patchify(mean, 2))
    assert torch.equal(vae.encode(x, gen(3)), vae.encode(x, gen(3)))
    with torch.no_grad():
        draws = torch.cat([unpatchify(vae.encode(x, gen(seed)), 2) for seed in range(1000)])
    # 1000 draws: the mean is known to 3.2 % of the spread, the spread to 2.2 %; five times that, for 32 of each.
    spread = torch.exp(0.5 * log_variance[0])
    assert ((draws.mean(0) - mean[0]).abs() < 0.16 * spread).all()
    torch.testing.assert_close(draws.std(0), spread, rtol=0.11, atol=0)


def test_decode_undoes_the_scale_of_encode(vae):
    vae.latent_mean.copy_(torch.arange(4.0))
    vae.latent_std.copy_(torch.arange(4.0) + 0.5)
    x = mels()
    with torch.no_grad():
        mean, _ = vae.posterior(x)
        torch.testing.assert_close(vae.decode(vae.encode(x, sample=False), gen(1)), vae.draw(mean, gen(1))[1][0])
        # Another length than that of the config: it is convolutional.
        assert vae.decode(vae.encode(mels(2, 40), gen()), gen()).shape == (2, 40, 20)


def test_the_decoder_draws(vae):
    with torch.no_grad():
        tokens = vae.encode(mels(), gen())
        first, again, other = (vae.decode(tokens, gen(seed)) for seed in (1, 1, 2))
        assert torch.equal(first, again) and (first - other).abs().mean() > 1e-3
        assert not torch.equal(vae.decode(tokens), vae.decode(tokens))  # without a generator every draw differs


def test_frames_of_the_decoder_are_in_order(vae):
    # An impulse in the latent moves the frames around it and no others: 4 frames a step, reach of the convolutions 2.
    with torch.no_grad():
        latent = torch.zeros(1, 4, 32)
        base, latent[0, :, 16] = vae.draw(latent, gen())[1][0], 3.0
        changed = (vae.draw(latent, gen())[1][0] - base).abs().sum((0, 2))
    assert changed.argmax() // 4 in range(14, 19)


def test_fit_scale_gives_tokens_of_zero_mean_and_unit_variance(vae):
    # Channels of very different posteriors, so that both parts of the variance count.
    with torch.no_grad():
        vae.to_latent.bias[:4] += torch.tensor([0.0, 5.0, -3.0, 1.0])
        vae.to_latent.weight[:4] *= torch.tensor([1.0, 10.0, 3.0, 0.2])[:, None, None]
        vae.to_latent.bias[4:] += torch.tensor([0.0, -4.0, 1.0, -2.0])
    x = mels(64)
    vae.fit_scale(x)
    with torch.no_grad():
        drawn = unpatchify(torch.cat([vae.encode(x, gen(seed)) for seed in range(8)]), 2)
    # 64 x 8 x 8 = 4096 values a channel.
    torch.testing.assert_close(drawn.mean((0, 2)), torch.zeros(4), atol=0.06, rtol=0)
    torch.testing.assert_close(drawn.std((0, 2)), torch.ones(4), atol=0.06, rtol=0)


def test_the_effect_of_a_channel_is_what_changes_when_it_comes_from_another_clip(vae):
    tokens = vae.encode(mels(2), gen())
    with torch.no_grad():
        vae.mean[0].weight[:, 1] = 0  # a channel that the decoder does not hear
        vae.mean[0].weight[:, 0] *= 10
    effects = vae.channel_effects(tokens)
    assert effects.shape == (vae.config.channels,) and effects[1] == 0 and effects.argmax() == 0
    # Of two clips, exchanging channel 0 by hand; the decoded mean is read off a decoder whose texture is silent.
    torch.nn.init.zeros_(vae.texture[-1].weight), torch.nn.init.zeros_(vae.texture[-1].bias)
    latent = unpatchify(tokens, vae.config.steps_per_token)
    swapped = latent.clone()
    swapped[:, 0] = latent[[1, 0], 0]
    before, after = (vae.decode(patchify(x, vae.config.steps_per_token), gen()) for x in (latent, swapped))
    assert effects[0].item() == pytest.approx(((after - before) / SPREAD).square().mean().item(), rel=1e-4)


def test_nothing_decoded_is_louder_than_the_examples(vae):
    quiet = mels(8) - 20  # so that an untrained decoder goes beyond it
    vae.fit_scale(quiet)
    with torch.no_grad():
        tokens = vae.encode(mels(2), gen())
        assert vae.decode(tokens, gen()).max() == quiet.max()
        vae.loudest.fill_(torch.inf)
        assert vae.decode(tokens, gen()).max() > quiet.max()


def test_bad_shapes(vae):
    for shape in ((3, 32, 15), (3, 30, 20), (32, 20)):
        with pytest.raises(ValueError, match=r"log_mel must be \(B, T, 20\) with T a multiple of 4, got"):
            vae.encode(torch.zeros(shape))
    for shape in ((3, 4, 9), (4, 8)):
        with pytest.raises(ValueError, match=r"tokens must be \(B, N, 8\), got"):
            vae.decode(torch.zeros(shape))


# --- the loss ---------------------------------------------------------------------------------------------------------


class Drawn(VAE):
    """A VAE whose posterior and decoded log-mels are given."""

    def __init__(self, posterior, decoded, drawn):
        super().__init__(SMALL)
        self.told, self.decoded, self.drawn = posterior, decoded, drawn

    def posterior(self, log_mel):
        return self.told

    def draw(self, latent, generator, draws=1):
        return self.decoded, self.drawn


def score_by_hand(draws, x, top, left, frames, bins):
    y, a, b = (v.double().numpy() for v in (x, *draws))
    scores = []
    for clip in range(len(x)):
        for row in range((x.shape[1] - frames) // frames):
            for column in range((x.shape[2] - bins) // bins):
                piece = (clip, slice(top + row * frames, top + (row + 1) * frames),
                         slice(left + column * bins, left + (column + 1) * bins))
                far = [np.linalg.norm(u[piece] - v[piece]) for u, v in ((a, y), (b, y), (a, b))]
                scores.append(far[0] + far[1] - far[2])
    return np.mean(scores) / np.sqrt(frames * bins)


def test_the_score_equals_a_computation_by_hand():
    x, draws, frames, bins = mels(2, seed=1), mels(4, seed=2).unflatten(0, (2, 2)), 3, 5
    corners, told = gen(7), 0
    for seen in (lambda v: v, lambda v: v.diff(dim=-2), lambda v: v.diff(dim=-1)):  # levels, then both differences
        top, left = (int(torch.randint(n, (), generator=corners)) for n in (frames, bins))
        told += score_by_hand(seen(draws), seen(x), top, left, frames, bins)
    assert patch_score(draws, x, gen(7), patches=((frames, bins),)).item() == pytest.approx(told, rel=1e-5)


def test_patch_sizes_add_up():
    # Patches of one number have one corner only, and the generator draws it without a choice.
    x, draws = mels(2, seed=1), mels(4, seed=2).unflatten(0, (2, 2))
    one = patch_score(draws, x, gen(), patches=((1, 1),)).item()
    assert patch_score(draws, x, gen(), patches=((1, 1), (1, 1))).item() == pytest.approx(2 * one)


def test_the_loss_is_error_plus_score_plus_weighted_kl():
    x, draws, decoded = mels(2, seed=1), mels(4, seed=2).unflatten(0, (2, 2)), mels(2, seed=5)
    mean, log_variance = torch.randn(2, 4, 8, generator=gen(3)), torch.randn(2, 4, 8, generator=gen(4))
    loss, figures = vae_loss(Drawn((mean, log_variance), decoded, draws), x, gen(7), kl_weight=0.1)
    m, v = mean.double().numpy(), log_variance.double().exp().numpy()
    kl = (0.5 * (m**2 + v - 1 - np.log(v))).sum(1).mean()
    error = ((decoded - x).double().numpy() ** 2).mean()
    assert (figures["kl"], figures["error"]) == pytest.approx((kl, error), rel=1e-5)
    assert loss.item() == pytest.approx(error + figures["score"] + 0.1 * kl, rel=1e-5)
    standard = Drawn((torch.zeros(2, 4, 8), torch.zeros(2, 4, 8)), decoded, draws)
    assert vae_loss(standard, x, gen())[1]["kl"] == 0


def test_the_texture_does_not_reach_the_latent(vae):
    texture_loss(vae, mels(), gen())[0].backward()
    trained = {name for name, p in vae.named_parameters() if p.grad is not None}
    assert trained == {name for name, _ in vae.named_parameters() if name.startswith("texture.")}


def test_training_lowers_the_loss(vae):
    x, generator = mels(8), gen()
    x = x[:, :1].expand(8, 32, 20) + 0.3 * torch.randn(8, 32, 20, generator=generator)  # steady spectra with texture
    optimizer = torch.optim.Adam(vae.parameters(), 3e-3)
    losses = []
    for _ in range(80):
        loss, _ = vae_loss(vae, x, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:3])
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in vae.parameters())
    # It draws texture: two draws of a clip differ, though by less than the 1.7 by which clips differ.
    with torch.no_grad():
        tokens = vae.encode(x, generator, sample=False)
        apart = (vae.decode(tokens, generator) - vae.decode(tokens, generator)).std().item() / 2**0.5
    assert 0.1 < apart < 1.0
