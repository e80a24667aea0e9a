"""The VAE: log-mel <-> latent, and patchify: latent <-> tokens.

A decoder trained with squared error answers what the latent leaves open with a mean: texture turns smooth. So this
decoder has two parts. The first gives the mean, by squared error. The second draws what is left: it receives noise
beside the latent and learns with the energy score (`dear.objectives.energy`) of small patches of log-mel, the same
proper score that trains the student's head. Its gradient stops at the latent, which keeps to what must be decided.
"""

from dataclasses import dataclass

import torch
from torch import nn

from dear.blocks import CENTRE, SPREAD, ConvBlock
from dear.objectives.energy import energy_score

DECODING = ("mean", "texture", "loudest")  # the parts of a VAE that play no role in its latents: they may train on


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of the VAE; `steps_per_token` latent steps make one token."""

    mels: int = 64
    patch: int = 4
    channels: int = 24
    noise: int = 32
    width: int = 160
    texture_width: int = 96
    blocks: int = 2
    steps_per_token: int = 2


class VAE(nn.Module):
    """Convolutional variational autoencoder of log-mels with a decoder that draws what the latent does not say."""

    def __init__(self, config: VAEConfig = VAEConfig()):  # noqa: B008
        super().__init__()
        self.config, w = config, config.width
        self.stem = nn.Conv1d(config.mels, w, config.patch, stride=config.patch)
        self.encoder = nn.Sequential(*(ConvBlock(w) for _ in range(config.blocks)))
        self.to_latent = nn.Conv1d(w, 2 * config.channels, 1)
        self.mean = _decoder(config.channels, w, config)
        self.texture = _decoder(config.channels + config.noise, config.texture_width, config)
        self.register_buffer("latent_mean", torch.zeros(config.channels))
        self.register_buffer("latent_std", torch.ones(config.channels))
        self.register_buffer("loudest", torch.tensor(torch.inf))

    def posterior(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance (B, channels, T / patch) of log-mels (B, T, mels)."""
        c = self.config
        if log_mel.ndim != 3 or log_mel.shape[2] != c.mels or log_mel.shape[1] % c.patch:
            shape = tuple(log_mel.shape)
            raise ValueError(f"log_mel must be (B, T, {c.mels}) with T a multiple of {c.patch}, got {shape}")
        x = self.stem((log_mel.transpose(1, 2) - CENTRE) / SPREAD)
        mean, log_variance = self.to_latent(self.encoder(x)).chunk(2, 1)
        return mean, log_variance.clamp(-12, 4)

    def scaled_posterior(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (B, channels, T / patch), each channel scaled to unit variance by `fit_scale`."""
        mean, log_variance = self.posterior(log_mel)
        scale = self.latent_std[:, None]
        return (mean - self.latent_mean[:, None]) / scale, torch.exp(0.5 * log_variance) / scale

    def draw(self, latent: torch.Tensor, generator: torch.Generator | None, draws: int = 1):
        """Mean (B, T, mels) and drawn log-mels (draws, B, T, mels) given a raw latent (B, channels, T / patch)."""
        b, _, t = latent.shape
        mean = self._fold(self.mean(latent)) * SPREAD + CENTRE
        noise = torch.randn(draws * b, self.config.noise, t, generator=generator, device=latent.device,
                            dtype=latent.dtype)
        texture = self._fold(self.texture(torch.cat([latent.detach().repeat(draws, 1, 1), noise], 1)))
        return mean, mean.detach() + texture.unflatten(0, (draws, b))

    def _fold(self, x: torch.Tensor) -> torch.Tensor:
        c = self.config
        return x.view(len(x), c.mels, c.patch, -1).permute(0, 3, 2, 1).flatten(1, 2)

    def encode(self, log_mel: torch.Tensor, generator: torch.Generator | None = None, *,
               sample: bool = True) -> torch.Tensor:
        """Tokens (B, N, D) of log-mels (B, T, mels), drawn from the posterior, or its mean if not `sample`.

        N = T / (patch steps_per_token), D = channels steps_per_token; each channel is scaled to unit variance.
        """
        mean, std = self.scaled_posterior(log_mel)
        if sample:
            mean = mean + std * torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return patchify(mean, self.config.steps_per_token)

    def decode(self, tokens: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Log-mel (B, T, mels) drawn given tokens (B, N, D), D = channels steps_per_token; see `encode`.

        No bin is louder than the loudest that `fit_scale` saw: where drawn tokens left what the decoder was trained
        on, it gave levels up to 5.5 (SoundWorld's clips stay below 1.5), and a whole clip had to be turned down.
        """
        width = self.config.channels * self.config.steps_per_token
        if tokens.ndim != 3 or tokens.shape[2] != width:
            raise ValueError(f"tokens must be (B, N, {width}), got {tuple(tokens.shape)}")
        latent = unpatchify(tokens, self.config.steps_per_token)
        log_mel = self.draw(latent * self.latent_std[:, None] + self.latent_mean[:, None], generator)[1][0]
        return log_mel.clamp(max=self.loudest)

    @torch.no_grad()
    def channel_effects(self, tokens: torch.Tensor) -> torch.Tensor:
        """How much each latent channel is heard, (channels,): see `decode` for tokens (B, N, D), B at least 2.

        Mean squared change of the decoded mean, in units of the log-mel's spread, where the channel alone is taken
        from another clip. Channels have unit variance whatever they do: in the shipped VAE these are 0.002 to 0.26.
        """
        latent = unpatchify(tokens, self.config.steps_per_token) * self.latent_std[:, None] + self.latent_mean[:, None]
        decoded, effects = self.mean(latent), []
        for channel in range(self.config.channels):
            other = latent.clone()
            other[:, channel] = latent[:, channel].roll(1, dims=0)
            effects.append((self.mean(other) - decoded).square().mean())
        return torch.stack(effects)

    @torch.no_grad()
    def fit_scale(self, log_mel: torch.Tensor) -> None:
        """Set the centre and scale of each latent channel, and the highest level, from examples."""
        mean, log_variance = self.posterior(log_mel)
        self.latent_mean.copy_(mean.mean((0, 2)))
        self.latent_std.copy_((mean.var((0, 2)) + log_variance.exp().mean((0, 2))).sqrt())
        self.loudest.copy_(log_mel.max())


def _decoder(inputs: int, width: int, config: VAEConfig) -> nn.Sequential:
    blocks = (ConvBlock(width) for _ in range(config.blocks))
    return nn.Sequential(nn.Conv1d(inputs, width, 1), *blocks, nn.GroupNorm(1, width), nn.SiLU(),
                         nn.Conv1d(width, config.mels * config.patch, 1))


def vae_loss(vae: VAE, log_mel: torch.Tensor, generator: torch.Generator,
             kl_weight: float = 1.5e-3) -> tuple[torch.Tensor, dict[str, float]]:
    """Squared error of the mean, energy score of two drawn log-mels, and `kl_weight` x KL to the standard normal.

    The KL is summed over channels, its mean taken over clips and steps.

    log_mel: (B, T, mels), at least 17 x 17.  generator: on its device.
    Returns the loss (scalar) and its parts "error", "score" and "kl".
    """
    mean, log_variance = vae.posterior(log_mel)
    latent = mean + torch.exp(0.5 * log_variance) * torch.randn(mean.shape, generator=generator, device=mean.device)
    decoded, drawn = vae.draw(latent, generator, draws=2)
    error, score = (decoded - log_mel).square().mean(), patch_score(drawn, log_mel, generator)
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
    figures = {"error": error, "score": score, "kl": kl}
    return error + score + kl_weight * kl, {name: float(value.detach()) for name, value in figures.items()}


def texture_loss(vae: VAE, log_mel: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
    """The energy score of `vae_loss` alone, for training `vae.texture` further while the latent stays as it is."""
    with torch.no_grad():
        mean, log_variance = vae.posterior(log_mel)
        latent = mean + torch.exp(0.5 * log_variance) * torch.randn(mean.shape, generator=generator, device=mean.device)
    score = patch_score(vae.draw(latent, generator, draws=2)[1], log_mel, generator)
    return score, {"score": float(score.detach())}


def patch_score(drawn: torch.Tensor, log_mel: torch.Tensor, generator: torch.Generator,
                patches: tuple[tuple[int, int], ...] = ((8, 2), (4, 8))) -> torch.Tensor:
    """Energy score of patches of drawn log-mels (m, B, T, mels) at the true one (B, T, mels), summed over patch sizes.

    Patches of (frames, bins) are laid on a grid whose corner moves at random; each is one sample of the score, divided
    by the root of its size so that all sizes count alike. The energy score hardly notices wrong correlations (texture
    came out 1.4 times too grainy with it alone), so the differences between neighbouring frames, and between
    neighbouring bins, are scored as well, with weight 1 each.
    """
    level = torch.cat([log_mel[None], drawn])
    score = 0
    for every in (level, level.diff(dim=2), level.diff(dim=3)):
        for frames, bins in patches:
            top, left = (int(torch.randint(n, (), generator=generator, device=drawn.device)) for n in (frames, bins))
            cut = every[:, :, top : every.shape[2] - frames + top, left : every.shape[3] - bins + left]
            rows = cut.unfold(2, frames, frames).unfold(3, bins, bins).flatten(4).flatten(1, 3)
            score = score + energy_score(rows[1:], rows[0]).mean() / (frames * bins) ** 0.5
    return score


def patchify(latent: torch.Tensor, patch: int) -> torch.Tensor:
    """Tokens (B, N, D) of a latent: 1-D (B, C, T) in pieces of `patch` steps, or 2-D (B, C, H, W) in squares.

    1-D: N = T / patch, D = C patch. 2-D: N = (H / patch)(W / patch) row by row, D = C patch^2 (AudioLDM's
    8 x 256 x 16 with 4 x 4 patches gives 256 tokens of 128).
    """
    sides = latent.shape[2:]
    if len(sides) not in (1, 2) or any(n % patch for n in sides):
        shape = tuple(latent.shape)
        raise ValueError(f"latent must be (B, C, T) or (B, C, H, W) with sides divisible by {patch}, got {shape}")
    if len(sides) == 1:
        return latent.unflatten(2, (-1, patch)).permute(0, 2, 1, 3).flatten(2)
    return latent.unflatten(3, (-1, patch)).unflatten(2, (-1, patch)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpatchify(tokens: torch.Tensor, patch: int, height: int | None = None) -> torch.Tensor:
    """Inverse of `patchify`: tokens (B, N, D) to (B, C, T), or to (B, C, height, W) if `height` is given."""
    b, n, d = tokens.shape
    if height is None:
        if d % patch:
            raise ValueError(f"tokens of {d} numbers do not hold whole pieces of {patch} steps")
        return tokens.unflatten(2, (-1, patch)).permute(0, 2, 1, 3).flatten(2)
    if d % patch**2 or height % patch or n % (height // patch):
        raise ValueError(f"{n} tokens of {d} do not fill a latent of height {height} with patches of {patch}")
    grid = tokens.reshape(b, height // patch, -1, d // patch**2, patch, patch)
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
