"""Pretrained text encoders, VAE and vocoder: tiny random models of the classes and in the folders that the hub has."""

import inspect
import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from dear import vae_pretrained
from dear.backbone import BackboneConfig, MaskedTransformer
from dear.data.latents import prepare
from dear.head import AdaLNHead, HeadConfig
from dear.pipeline import Settings, TextToAudio, fingerprint
from dear.pretrained import USUAL
from dear.text import TextConfig, TextEncoder
from dear.text_pretrained import Clap, FlanT5, FlanT5AndClap
from dear.vae import patchify
from dear.vae_pretrained import PretrainedVAE
from dear.vocoder import griffin_lim
from dear.vocoder_pretrained import HifiGan
from tests.test_text_pretrained import CAPTIONS, save_tokenizer

FRAMES, SCALE = 32, 0.7  # 32 frames are 8 tokens; a scaling factor that is neither 1 nor diffusers' own
SIZES = {"in_channels": 1, "out_channels": 1, "latent_channels": 8, "down_block_types": ["DownEncoderBlock2D"] * 3,
         "up_block_types": ["UpDecoderBlock2D"] * 3}
RATES = {"model_in_dim": 64, "upsample_rates": [5, 4, 2, 2, 2], "upsample_kernel_sizes": [16, 16, 8, 4, 4],
         "normalize_before": False}


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def mels(batch=2, frames=FRAMES):
    return 2 * torch.randn(batch, frames, 64, generator=gen()) - 5


@pytest.fixture(scope="module")
def audioldm(tmp_path_factory):
    """A folder with vae and vocoder, as an AudioLDM pipeline has them."""
    from diffusers import AutoencoderKL
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    folder = tmp_path_factory.mktemp("audioldm")
    torch.manual_seed(0)
    AutoencoderKL(**SIZES, block_out_channels=[4, 8, 8], norm_num_groups=4, scaling_factor=SCALE
                  ).save_pretrained(folder / "vae")
    SpeechT5HifiGan(SpeechT5HifiGanConfig(**RATES, upsample_initial_channel=32, initializer_range=0.12)
                    ).save_pretrained(folder / "vocoder")
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Folders t5 and clap; both hold a whole model, of which only the text encoder is read, as on the hub."""
    from transformers import ClapConfig, ClapModel, T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("texts")
    torch.manual_seed(0)
    T5ForConditionalGeneration(T5Config(vocab_size=10, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4,
                                        feed_forward_proj="gated-gelu", tie_word_embeddings=False)
                               ).save_pretrained(folder / "t5")
    text = {"vocab_size": 10, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16, "pad_token_id": 0, "max_position_embeddings": 90}
    sound = {"hidden_size": 32, "patch_embeds_hidden_size": 16, "depths": [1, 1], "num_attention_heads": [2, 2],
             "num_hidden_layers": 2}
    ClapModel(ClapConfig(text_config=text, audio_config=sound, projection_dim=512)).save_pretrained(folder / "clap")
    for name in ("t5", "clap"):
        save_tokenizer(folder / name)
    return folder


@pytest.fixture(scope="module")
def pipe(audioldm, texts):
    """Text to audio of nothing but pretrained parts around a tiny backbone and head."""
    torch.manual_seed(0)
    size = BackboneConfig(tokens=8, token_dim=128, text_dim=16, text_length=78, width=24, encoder_layers=1,
                          decoder_layers=1, heads=2, pooled_dim=512, window=0)
    backbone = MaskedTransformer(size).eval()
    head = AdaLNHead(HeadConfig(token_dim=128, cond_dim=24, width=16, depth=1)).eval()
    with torch.no_grad():  # layers that start at zero are moved, so that text and h reach the sound
        for p in (*backbone.parameters(), *head.parameters()):
            p.add_(0.1 * torch.randn(p.shape))
    text = FlanT5AndClap(FlanT5(texts / "t5"), Clap(texts / "clap"))
    return TextToAudio(text, backbone, head, PretrainedVAE(audioldm), Settings(num_inference_steps=4),
                       HifiGan(audioldm))


def copied(folder, to, leave=()):
    return shutil.copytree(folder, to, ignore=shutil.ignore_patterns(*leave))


def test_the_vae_is_autoencoder_kl_with_its_scaling_factor(audioldm):
    from diffusers import AutoencoderKL

    vae, x = PretrainedVAE(audioldm), mels()
    direct = AutoencoderKL.from_pretrained(audioldm / "vae").eval()
    with torch.no_grad():
        posterior = direct.encode(x[:, None]).latent_dist
        mean, std = vae.scaled_posterior(x)
        assert mean.shape == std.shape == (2, 8, FRAMES // 4, 16)
        torch.testing.assert_close(mean, SCALE * posterior.mean)
        torch.testing.assert_close(std, SCALE * posterior.std)
        tokens = vae.encode(x, sample=False)
        assert tokens.shape == (2, 8, 128)
        torch.testing.assert_close(tokens, patchify(SCALE * posterior.mean, 4))
        wanted = direct.decode(posterior.mean).sample[:, 0]
    assert wanted.shape == x.shape and wanted.std() > 1e-3
    torch.testing.assert_close(vae.decode(tokens), wanted)
    torch.testing.assert_close(vae.decode(tokens, gen(3)), wanted)
    config = vae.config  # what `dear.data.latents` patchifies with
    assert (config.mels, config.channels, config.step, config.steps_per_token) == (64, 8, 4, 4)


def test_tokens_are_drawn_from_the_posterior(audioldm):
    vae, x = PretrainedVAE(audioldm), mels(1)
    mean, std = (patchify(part, 4) for part in vae.scaled_posterior(x))
    drawn = torch.stack([vae.encode(x, gen(seed)) for seed in range(200)])
    assert torch.equal(drawn[3], vae.encode(x, gen(3)))
    error = (drawn.mean(0) - mean) / (std / 200**0.5)
    assert 0.9 < error.std() < 1.1 and 0.97 < (drawn.std(0) / std).mean() < 1.03


def test_parts_are_frozen_and_evaluating(pipe):
    for part in (pipe.text.t5, pipe.text.clap, pipe.vae, pipe.vocoder):
        assert not part.model.training
        assert not any(p.requires_grad or p.dtype != torch.float32 for p in part.parameters())


def test_other_precisions_are_asked_for_and_results_stay_float32(audioldm, texts, pipe):
    half = torch.bfloat16
    text = FlanT5AndClap(FlanT5(texts / "t5", dtype=half), Clap(texts / "clap", dtype=half))
    vae, vocoder = PretrainedVAE(audioldm, dtype=half), HifiGan(audioldm, dtype=half)
    for part in (text, vae, vocoder):
        assert all(p.dtype == half for p in part.parameters())
    pairs = ((text.encode(CAPTIONS)[0], pipe.text.encode(CAPTIONS)[0]), (text.pooled(CAPTIONS),
             pipe.text.pooled(CAPTIONS)), (vae.encode(mels(), sample=False), pipe.vae.encode(mels(), sample=False)),
             (vae.decode(torch.ones(1, 8, 128)), pipe.vae.decode(torch.ones(1, 8, 128))),
             (vocoder(mels()), pipe.vocoder(mels())))
    for low, full in pairs:
        assert low.dtype == torch.float32
        assert 0 < (low - full).abs().mean() < 0.05 * full.abs().mean()  # bfloat16 keeps 8 bits: 0.4 % a step


def test_latents_of_a_data_set_are_prepared_with_it(audioldm, tmp_path):
    class Clips:
        captions = ["a", "b", "c"]

        def __len__(self):
            return 3

        def log_mels(self, indices):
            return mels(3)[list(indices)]

    latents = prepare(PretrainedVAE(audioldm), Clips(), tmp_path / "latents.safetensors", progress=False)
    assert latents.mean.shape == latents.std.shape == (3, 8, 128)
    wanted = PretrainedVAE(audioldm).encode(mels(3), sample=False)
    torch.testing.assert_close(latents.mean, wanted.half(), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 24, 64), (1, 0, 64), (1, 32, 80), (32, 64)])
def test_lengths_that_do_not_fit_are_refused(audioldm, shape):
    with pytest.raises(ValueError, match=r"log_mel must be \(B, T, 64\) with T a multiple of 16, got \("):
        PretrainedVAE(audioldm).encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 6, 128), (1, 0, 128), (1, 8, 64), (8, 128)])
def test_tokens_that_do_not_fit_are_refused(audioldm, shape):
    with pytest.raises(ValueError, match=r"tokens must be \(B, N, 128\) with N a multiple of 4, got \("):
        PretrainedVAE(audioldm).decode(torch.zeros(shape))


def test_a_vae_of_pictures_and_a_patch_that_does_not_fit_are_refused(audioldm, tmp_path):
    from diffusers import AutoencoderKL

    AutoencoderKL(block_out_channels=[4], norm_num_groups=4).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no VAE of log-mels: wanted 1 channel in and out .* got 3 and 3"):
        PretrainedVAE(tmp_path, subfolder="")
    with pytest.raises(ValueError, match="patch 3 x 4 bins a latent step must divide 64 bins"):
        PretrainedVAE(audioldm, patch=3)


def test_attention_weights_under_their_old_names_are_read(audioldm, tmp_path):
    """AudioLDM's weights were stored before diffusers renamed them."""
    copied(audioldm, tmp_path / "old")
    weights = load_file(audioldm / "vae" / "diffusion_pytorch_model.safetensors")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, before in old.items():
        for name in [name for name in weights if f".{new}." in name]:
            weights[name.replace(new, before)] = weights.pop(name)
    assert sum("proj_attn" in name for name in weights) == 4  # weight and bias, in encoder and decoder
    save_file(weights, tmp_path / "old" / "vae" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    mine, wanted = PretrainedVAE(tmp_path / "old").state_dict(), PretrainedVAE(audioldm).state_dict()
    assert all(torch.equal(mine[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("normalise", [False, True])
def test_the_vocoder_is_the_class_called_directly(audioldm, tmp_path, normalise):
    from transformers import SpeechT5HifiGan

    direct = SpeechT5HifiGan.from_pretrained(audioldm / "vocoder").eval()
    plain = direct(mels()).detach()
    assert plain.shape == (2, 160 * FRAMES + 32) and plain.std() > 1e-3
    direct.config.normalize_before = normalise
    direct.mean.fill_(-5)
    direct.scale.fill_(2)
    direct.save_pretrained(tmp_path / "vocoder")
    config = json.loads((tmp_path / "vocoder" / "config.json").read_text())
    (tmp_path / "vocoder" / "config.json").write_text(json.dumps(config | {"model_type": "hifigan"}))  # as AudioLDM's
    made = HifiGan(tmp_path)(mels(), gen())
    assert made.shape == griffin_lim(mels(), gen(), 1).shape and made.abs().max() <= 1 and not made.requires_grad
    torch.testing.assert_close(made, direct(mels())[:, : 160 * FRAMES])
    assert torch.allclose(made, plain[:, : 160 * FRAMES]) != normalise


@pytest.mark.parametrize(("given", "message"), [
    (torch.zeros(2, 8, 80), r"wants log_mel \(B, T, 64\)"), (torch.zeros(2, 0, 64), r"wants log_mel \(B, T, 64\)"),
    (torch.zeros(8, 64), r"wants log_mel \(B, T, 64\)"), (torch.full((1, 8, 64), torch.nan), "wants a finite log_mel"),
])
def test_what_the_vocoder_refuses(audioldm, given, message):
    with pytest.raises(ValueError, match=message):
        HifiGan(audioldm)(given, gen())


def test_a_vocoder_of_other_log_mels_is_refused(tmp_path):
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    SpeechT5HifiGan(SpeechT5HifiGanConfig(upsample_initial_channel=16)).save_pretrained(tmp_path)  # SpeechT5's own
    with pytest.raises(ValueError, match=r"wanted .* \(64, 160, 16000\), got \(80, 256, 16000\)"):
        HifiGan(tmp_path, subfolder="")


def test_both_texts_are_what_each_gives_and_read_from_whole_models(texts):
    from transformers import ClapModel, T5ForConditionalGeneration

    text = FlanT5AndClap(FlanT5(texts / "t5"), Clap(texts / "clap"))
    vectors, mask = text.encode(CAPTIONS)
    ids = text.t5.tokenizer(CAPTIONS, padding=True, return_tensors="pt")
    with torch.no_grad():
        whole = T5ForConditionalGeneration.from_pretrained(texts / "t5").eval()
        torch.testing.assert_close(vectors, whole.encoder(**ids).last_hidden_state)
        whole = ClapModel.from_pretrained(texts / "clap").eval()
        torch.testing.assert_close(text.pooled(CAPTIONS), whole.get_text_features(**ids).pooler_output)
    assert mask.sum(1).tolist() == [4, 8] and text.width == 16


def test_a_prompt_becomes_a_waveform(pipe):
    out = pipe(CAPTIONS, generator=gen())
    assert out.log_mels.shape == (2, FRAMES, 64) and out.audios.shape == (2, 160 * FRAMES)
    assert out.audios.isfinite().all() and out.audios.abs().max() <= 1 and out.audios.std() > 0
    generator = gen()
    tokens = pipe.tokens(CAPTIONS, generator)
    log_mels = pipe.vae.decode(tokens, generator)
    assert torch.equal(out.log_mels, log_mels) and torch.equal(out.audios, pipe.vocoder(log_mels))


def test_both_texts_reach_the_tokens(pipe, monkeypatch):
    own = pipe.tokens(CAPTIONS, gen())
    vectors, pooled = pipe.text.t5.encode, pipe.text.clap.pooled
    monkeypatch.setattr(pipe.text.clap, "pooled", lambda captions: pooled(captions[::-1]))
    assert (pipe.tokens(CAPTIONS, gen()) - own).abs().max() > 1e-4
    monkeypatch.setattr(pipe.text.clap, "pooled", pooled)
    monkeypatch.setattr(pipe.text.t5, "encode", lambda captions: tuple(part.flip(0) for part in vectors(captions)))
    assert (pipe.tokens(CAPTIONS, gen()) - own).abs().max() > 1e-4


def test_clap_alone_is_a_text_of_one_vector(pipe):
    size = BackboneConfig(tokens=8, token_dim=128, text_dim=512, text_length=1, width=24, encoder_layers=1,
                          decoder_layers=1, heads=2)
    alone = TextToAudio(pipe.text.clap, MaskedTransformer(size), pipe.head, pipe.vae, pipe.settings)
    assert alone.tokens(CAPTIONS, gen()).shape == (2, 8, 128)


def test_a_backbone_that_wants_a_pooled_vector_gets_one(pipe):
    small = TextEncoder(TextConfig(("bell",), width=16))
    for text in (small, pipe.text.t5):
        with pytest.raises(ValueError, match=f"pooled vector of 512 a caption, .* {type(text).__name__} does not give"):
            TextToAudio(text, pipe.backbone, pipe.head, pipe.vae, pipe.settings)


def test_a_saved_model_names_its_parts_and_comes_back_equal(pipe, tmp_path, audioldm, texts):
    pipe.save_pretrained(tmp_path / "model")
    files = sorted(str(p.relative_to(tmp_path / "model")) for p in (tmp_path / "model").rglob("*") if p.is_file())
    own = [f"{part}/{name}" for part in ("backbone", "head") for name in ("config.json", "model.safetensors")]
    assert files == sorted([*own, "model.json"])
    told = json.loads((tmp_path / "model" / "model.json").read_text())["parts"]
    common = {"revision": None, "dtype": "float32"}
    assert told == {
        "text": {"class": "FlanT5AndClap",
                 "t5": {"class": "FlanT5", "name": str(texts / "t5"), "length": 77, **common},
                 "clap": {"class": "Clap", "name": str(texts / "clap"), "length": 77, **common}},
        "vae": {"class": "PretrainedVAE", "name": str(audioldm), "subfolder": "vae", "patch": 4, **common},
        "vocoder": {"class": "HifiGan", "name": str(audioldm), "subfolder": "vocoder", **common},
        "backbone": "backbone", "head": "head",
    }
    again = TextToAudio.from_pretrained(tmp_path / "model")
    one, two = (model(CAPTIONS, generator=gen(), num_waveforms_per_prompt=2) for model in (pipe, again))
    assert torch.equal(one.audios, two.audios) and torch.equal(one.log_mels, two.log_mels)
    assert not any(p.requires_grad for part in (again.text, again.vae, again.vocoder) for p in part.parameters())


def test_the_fingerprint_knows_the_names(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    mark, told = fingerprint(tmp_path), json.loads((tmp_path / "model.json").read_text())
    pipe.save_pretrained(tmp_path / "again")
    assert fingerprint(tmp_path / "again") == mark
    told["parts"]["vae"]["revision"] = "v2"
    (tmp_path / "model.json").write_text(json.dumps(told))
    assert fingerprint(tmp_path) != mark


def test_precision_and_revision_are_saved(pipe, audioldm, tmp_path):
    vae = PretrainedVAE(str(audioldm), revision="v2", dtype=torch.bfloat16)
    TextToAudio(pipe.text, pipe.backbone, pipe.head, vae, pipe.settings).save_pretrained(tmp_path)
    again = TextToAudio.from_pretrained(tmp_path)
    assert again.vae.reference == vae.reference and vae.reference["revision"] == "v2"
    assert again.vae.model.dtype == torch.bfloat16
    assert again.vocoder is griffin_lim


@pytest.mark.parametrize("change", [{"class": "Unpickler"}, {"dtype": "int8"}, {"trust": True}, {"class": "HifiGan"}])
def test_a_reference_to_something_else_is_no_model(pipe, tmp_path, change):
    pipe.save_pretrained(tmp_path)
    told = json.loads((tmp_path / "model.json").read_text())
    told["parts"]["vae"] |= change
    (tmp_path / "model.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="not a model of this version"):
        TextToAudio.from_pretrained(tmp_path)


def test_a_saved_model_whose_part_is_gone_says_what_to_download(pipe, audioldm, tmp_path):
    vae = PretrainedVAE(copied(audioldm, tmp_path / "part"))
    TextToAudio(pipe.text, pipe.backbone, pipe.head, vae, pipe.settings).save_pretrained(tmp_path / "model")
    shutil.rmtree(tmp_path / "part")
    with pytest.raises(FileNotFoundError, match="part/vae gave no AutoencoderKL; wanted a folder with config.json and"):
        TextToAudio.from_pretrained(tmp_path / "model")


def test_to_moves_the_vocoder_too(pipe, audioldm):
    other = TextToAudio(pipe.text, pipe.backbone, pipe.head, pipe.vae, pipe.settings, HifiGan(audioldm))
    other.text, other.backbone, other.head, other.vae = (torch.nn.Identity() for _ in range(4))
    other.to("meta")
    assert all(p.is_meta for p in other.vocoder.parameters())


HUB_ERRORS = {
    PretrainedVAE: "cvssp/audioldm-s-full-v2/vae gave no AutoencoderKL; wanted a folder with config.json and "
    "diffusion_pytorch_model.safetensors, or the name of one on the hub; without network, download it elsewhere, from "
    "https://huggingface.co/cvssp/audioldm-s-full-v2/tree/main/vae, into the folder cvssp/audioldm-s-full-v2/vae, or "
    "into another that you then name instead (",
    HifiGan: "cvssp/audioldm-s-full-v2/vocoder gave no SpeechT5HifiGan; wanted a folder with config.json and "
    "model.safetensors, or the name of one on the hub; without network, download it elsewhere, from "
    "https://huggingface.co/cvssp/audioldm-s-full-v2/tree/main/vocoder, into the folder ",
    FlanT5: "google/flan-t5-large gave no T5EncoderModel with AutoTokenizer; wanted a folder with config.json, "
    "model.safetensors and tokenizer or preprocessor files, or the name of one on the hub; without network, download "
    "it elsewhere, from https://huggingface.co/google/flan-t5-large, into the folder google/flan-t5-large, or",
    Clap: "download it elsewhere, from https://huggingface.co/laion/clap-htsat-fused, into the folder laion/",
}


@pytest.mark.parametrize("kind", HUB_ERRORS)
def test_without_network_the_error_says_what_from_where_and_where_to(kind, tmp_path, monkeypatch):
    """The hub is not reached (HF_HUB_OFFLINE=1 in conftest.py), and its cache is empty."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError) as told:
        kind()
    assert HUB_ERRORS[kind] in str(told.value) and "\n" not in str(told.value)
    with pytest.raises(FileNotFoundError, match="/tree/v2"):
        kind(revision="v2")


def test_a_folder_put_where_the_error_says_stands_for_the_hub_name(audioldm, tmp_path, monkeypatch):
    copied(audioldm, tmp_path / "cvssp" / "audioldm-s-full-v2")
    monkeypatch.chdir(tmp_path)
    vae, wanted = PretrainedVAE(), PretrainedVAE(audioldm)
    assert torch.equal(vae.encode(mels(), sample=False), wanted.encode(mels(), sample=False))
    assert vae.reference["name"] == "cvssp/audioldm-s-full-v2"


def test_an_error_about_a_folder_names_the_usual_page(audioldm, tmp_path):
    names = {PretrainedVAE: "AutoencoderKL", HifiGan: "SpeechT5HifiGan", FlanT5: "T5EncoderModel",
             Clap: "ClapTextModelWithProjection"}
    for kind, name in names.items():
        assert inspect.signature(kind).parameters["name"].default == USUAL[name]
    page = "from https://huggingface.co/cvssp/audioldm-s-full-v2/tree/main/vae, into the folder "
    for missing in ("config.json", "*.safetensors"):
        folder = copied(audioldm, tmp_path / missing.strip("*."), [missing])
        with pytest.raises(FileNotFoundError) as told:
            PretrainedVAE(folder)
        assert f"{page}{folder}/vae, or" in str(told.value)
        with pytest.raises(FileNotFoundError, match="model.safetensors"):
            HifiGan(folder)
    for name in ("/nowhere/audioldm", "../nowhere", "nowhere"):
        with pytest.raises(FileNotFoundError) as told:
            PretrainedVAE(name)
        assert f"{page}{name}/vae, or" in str(told.value)


def test_damaged_incomplete_and_pickled_weights_are_not_read(audioldm, tmp_path):
    files = {PretrainedVAE: "vae/diffusion_pytorch_model.safetensors", HifiGan: "vocoder/model.safetensors"}
    for kind, file in files.items():
        path = copied(audioldm, tmp_path / kind.__name__) / file
        weights = load_file(path)
        gone = "decoder.conv_out.bias" if kind is PretrainedVAE else "conv_post.bias"
        save_file({k: v for k, v in weights.items() if k != gone}, path, {"format": "pt"})
        with pytest.raises(FileNotFoundError, match=rf"\(weights lack {gone} \.\.\.\)"):
            kind(tmp_path / kind.__name__)
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(FileNotFoundError, match="download it elsewhere"):
            kind(tmp_path / kind.__name__)
        torch.save(weights, path.with_name(path.name.replace("model.safetensors", "model.bin")))
        torch.save(weights, path.with_name("pytorch_model.bin"))
        path.unlink()
        with pytest.raises(FileNotFoundError, match="download it elsewhere"):
            kind(tmp_path / kind.__name__)


def test_the_cache_of_the_hub_is_read_without_network_at_the_revision(audioldm, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "models--someone--audioldm", "0123456789" * 4
    copied(audioldm, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "v2").write_text(commit)
    vae = PretrainedVAE("someone/audioldm", revision="v2")
    assert torch.equal(vae.encode(mels(), sample=False), PretrainedVAE(audioldm).encode(mels(), sample=False))
    assert vae.reference["name"] == "someone/audioldm"
    assert HifiGan("someone/audioldm", revision=commit)(mels()).shape == (2, 160 * FRAMES)
    with pytest.raises(FileNotFoundError, match="/someone/audioldm/tree/main/vae"):
        PretrainedVAE("someone/audioldm")  # main is not in the cache


def test_only_what_is_needed_is_downloaded(audioldm, texts, monkeypatch):
    asked = []

    def download(name, revision, allow_patterns):
        asked.append((name, revision, allow_patterns))
        return audioldm if "audioldm" in name else texts / "t5"

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    PretrainedVAE("someone/audioldm")
    FlanT5("someone/t5", revision="v1")
    assert asked == [
        ("someone/audioldm", None, ["vae/*.json", "vae/diffusion_pytorch_model.safetensors",
                                    "vae/diffusion_pytorch_model-*.safetensors"]),
        ("someone/t5", "v1", ["*.json", "model.safetensors", "model-*.safetensors"]),
    ]


@pytest.mark.parametrize(("library", "kind"), [("diffusers", PretrainedVAE), ("transformers", HifiGan)])
def test_without_the_library_the_message_names_the_extra(audioldm, monkeypatch, library, kind):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"needs {library}: pip install 'dear\[pretrained\]'"):
        kind(audioldm)


def millions(model) -> float:
    return round(sum(p.numel() for p in model.parameters()) / 1e6, 1)


def test_full_size_vae_and_vocoder(monkeypatch):
    """The configurations of cvssp/audioldm-s-full-v2, without weights."""
    from diffusers import AutoencoderKL
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    with torch.device("meta"):
        model = AutoencoderKL(**SIZES, block_out_channels=[128, 256, 512], layers_per_block=2, sample_size=512,
                              scaling_factor=0.9392935633659363).eval()
        vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig(**RATES, upsample_initial_channel=1024)).eval()
        log_mel = torch.empty(1, 1024, 64)
    assert (millions(model), millions(vocoder)) == (55.4, 55.3)
    monkeypatch.setattr(vae_pretrained, "load_pretrained", lambda *args, **options: (None, model))
    vae, paper = PretrainedVAE(), BackboneConfig.paper()
    assert vae.scaled_posterior(log_mel)[0].shape == (1, 8, 256, 16)
    tokens = vae.encode(log_mel)
    assert tokens.shape == (1, paper.tokens, paper.token_dim) == (1, 256, 128)
    assert vae.decode(tokens).shape == (1, 1024, 64)
    assert vocoder(log_mel).shape == (1, 160 * 1024 + 32)


def test_full_size_texts():
    """google/flan-t5-large and the text half of laion/clap-htsat-fused, without weights."""
    from transformers import ClapTextConfig, ClapTextModelWithProjection, T5Config, T5EncoderModel

    with torch.device("meta"):
        t5 = T5EncoderModel(T5Config(vocab_size=32128, d_model=1024, d_kv=64, d_ff=2816, num_layers=24, num_heads=16,
                                     feed_forward_proj="gated-gelu"))
        clap = ClapTextModelWithProjection(ClapTextConfig())
        sequence = t5(input_ids=torch.zeros(2, 77, dtype=torch.long)).last_hidden_state
        pooled = clap.text_projection(torch.empty(2, clap.config.hidden_size))  # a whole pass looks at numbers
    assert (millions(t5), millions(clap)) == (341.2, 125.3)
    paper = BackboneConfig.paper()
    assert sequence.shape == (2, paper.text_length - 1, paper.text_dim) == (2, 77, 1024)
    assert pooled.shape == (2, paper.pooled_dim) == (2, 512)
