"""Latents: what the VAE's posterior says of every clip, kept on disk until VAE or data change."""

import pytest
import torch

from dear.data import latents as module
from dear.data.latents import data_fingerprint, prepare
from dear.vae import VAE, VAEConfig, unpatchify


class Data:
    """100 clips, so that one batch of 64 is not all."""

    def __init__(self, seed: int = 0, size: int = 100):
        self.mels = -5.3 + 1.7 * torch.randn(size, 16, 8, generator=torch.Generator().manual_seed(seed))
        self.captions = [f"bell {seed} {i}" for i in range(size)]

    def __len__(self):
        return len(self.captions)

    def log_mels(self, indices):
        return self.mels[torch.as_tensor(indices)]


@pytest.fixture
def vae():
    torch.manual_seed(0)
    net = VAE(VAEConfig(mels=8, channels=3, noise=2, width=12, texture_width=8, blocks=1))
    net.fit_scale(Data().mels)
    return net


@pytest.fixture
def encodings(monkeypatch):
    calls = []
    posterior = VAE.posterior
    monkeypatch.setattr(VAE, "posterior", lambda self, x: calls.append(len(x)) or posterior(self, x))
    return calls


def test_draws_have_the_law_of_encode(vae, tmp_path):
    data = Data()
    latents = prepare(vae, data, tmp_path / "latents.safetensors", progress=False)
    assert len(latents) == 100 and latents.captions == data.captions and latents.mean.dtype == torch.float16
    torch.testing.assert_close(latents.mean.float(), vae.encode(data.mels, sample=False).detach(), rtol=1e-3, atol=1e-3)
    _, log_variance = vae.posterior(data.mels)
    spread = torch.exp(0.5 * log_variance.detach()) / vae.latent_std[:, None]
    torch.testing.assert_close(unpatchify(latents.std.float(), 2), spread, rtol=1e-3, atol=1e-3)
    indices = torch.tensor([70, 3])
    first, again = (latents.draw(indices, torch.Generator().manual_seed(1)) for _ in range(2))
    assert first.shape == (2, 2, 6) and first.dtype == torch.float32 and torch.equal(first, again)
    noise = torch.randn(2, 2, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(first, latents.mean[indices].float() + latents.std[indices].float() * noise)


def test_the_second_call_reads(vae, tmp_path, encodings):
    path = tmp_path / "deep" / "latents.safetensors"
    first = prepare(vae, Data(), path, progress=False)
    assert encodings == [64, 36]
    second = prepare(vae, Data(), path, progress=False)
    assert encodings == [64, 36] and torch.equal(first.mean, second.mean) and torch.equal(first.std, second.std)
    assert second.captions == first.captions


def test_another_vae_or_other_data_are_encoded_anew(vae, tmp_path, encodings):
    path = tmp_path / "latents.safetensors"
    old = prepare(vae, Data(), path, progress=False)
    assert not torch.equal(prepare(vae, Data(1), path, progress=False).mean, old.mean)
    prepare(vae, Data(), path, progress=False)
    same_captions = Data()
    same_captions.mels = Data(2).mels
    assert not torch.equal(prepare(vae, same_captions, path, progress=False).mean, old.mean)
    prepare(vae, Data(), path, progress=False)
    with torch.no_grad():
        vae.latent_std.mul_(2)
    assert not torch.equal(prepare(vae, Data(), path, progress=False).mean, old.mean)
    assert encodings == [64, 36] * 6


def test_damaged_latents_are_made_anew(vae, tmp_path):
    path = tmp_path / "latents.safetensors"
    first = prepare(vae, Data(), path, progress=False)
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(prepare(vae, Data(), path, progress=False).mean, first.mean)


def test_a_fingerprint_tells_data_and_encoders_apart(vae):
    marks = {data_fingerprint(Data()), data_fingerprint(Data(1)), data_fingerprint(Data(), vae)}
    with torch.no_grad():
        vae.stem.weight.add_(1)
    marks.add(data_fingerprint(Data(), vae))
    assert len(marks) == 4 and data_fingerprint(Data()) in marks


def test_an_interrupted_call_leaves_nothing(vae, tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "patchify", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(vae, Data(), tmp_path / "latents.safetensors", progress=False)
    assert list(tmp_path.iterdir()) == []
