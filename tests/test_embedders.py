"""Embedders: the shipped oracle on the world's clips, and tiny random CLAP and AST models of transformers' classes."""

import pytest
import torch

from dear.audio import log_mel, resample
from dear.data.soundworld import KINDS, SoundWorld
from dear.metrics.embedders import AstEmbedder, ClapEmbedder, OracleEmbedder, load_embedder, scene_probabilities
from tests.test_text_pretrained import save_tokenizer

WAVES = 0.1 * torch.randn(5, 16_000, generator=torch.Generator().manual_seed(0))


def save_clap(folder, fusion=True):
    from transformers import AutoTokenizer, ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor

    torch.manual_seed(0)
    text = {"vocab_size": 10, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16, "pad_token_id": 0, "max_position_embeddings": 90}
    sound = {"hidden_size": 32, "patch_embeds_hidden_size": 16, "depths": [1, 1], "num_attention_heads": [2, 2],
             "num_hidden_layers": 2, "enable_fusion": fusion}
    ClapModel(ClapConfig(text_config=text, audio_config=sound, projection_dim=8)).save_pretrained(folder)
    save_tokenizer(folder)
    extractor = ClapFeatureExtractor(truncation="fusion" if fusion else "rand_trunc", max_length_s=2)
    ClapProcessor(extractor, AutoTokenizer.from_pretrained(folder)).save_pretrained(folder)
    return folder


def save_ast(folder):
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    torch.manual_seed(0)
    ASTForAudioClassification(
        ASTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=6,
                  max_length=260)).save_pretrained(folder)
    ASTFeatureExtractor(max_length=260).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    return save_clap(tmp_path_factory.mktemp("clap"))


@pytest.fixture(scope="module")
def ast(tmp_path_factory):
    return save_ast(tmp_path_factory.mktemp("ast"))


def test_the_oracle_is_sure_of_the_scene_of_the_worlds_clips():
    world, embedder = SoundWorld("test", 24), OracleEmbedder()
    clips = [world[i] for i in range(24)]
    waves = torch.stack([torch.from_numpy(c.waveform) for c in clips])
    features, classes = embedder.hear(waves)
    assert features.shape == (24, 64) and classes.shape == (24, 11 + 2 * 121)
    torch.testing.assert_close(classes.sum(1), torch.ones(24, dtype=torch.float64))
    torch.testing.assert_close(features, embedder.model.features(log_mel(waves)))
    for one, two in zip(embedder.hear_mels(log_mel(waves)), (features, classes), strict=True):
        torch.testing.assert_close(one, two)
    wanted = []
    for relation, first, *_, second, _, _ in (c.labels for c in clips):
        wanted.append(first if relation == 0 else 11 + 121 * (relation - 1) + 11 * first + second)
    assert len(KINDS) == 11 and (classes.argmax(1) == torch.tensor(wanted)).float().mean() > 0.9


def test_scene_probabilities_of_known_heads():
    sure = 50.0
    logits = [torch.zeros(1, n) for n in (3, 11, 3, 2, 11, 3, 2)]
    logits[0][0, 1] = logits[1][0, 4] = logits[4][0, 7] = sure  # kind 4 then kind 7
    assert scene_probabilities(logits)[0, 11 + 11 * 4 + 7] == pytest.approx(1)
    logits[0].zero_()  # nothing is known of the relation
    found = scene_probabilities(logits)[0]
    assert found[4] == found[11 + 11 * 4 + 7] == found[132 + 11 * 4 + 7] == pytest.approx(1 / 3)


@pytest.mark.parametrize("fusion", [True, False])
def test_clap_hears_each_clip_by_itself_and_in_the_texts_space(tmp_path, fusion):
    embedder = ClapEmbedder(save_clap(tmp_path, fusion))
    features, classes = embedder.hear(WAVES)
    assert embedder.sampling_rate == 48_000 and features.shape == (5, 8) and classes is None
    torch.testing.assert_close(features.norm(dim=1), torch.ones(5))
    # transformers would call one clip of a batch "longer", by chance, and treat it differently.
    torch.testing.assert_close(torch.cat([embedder.hear(w[None])[0] for w in WAVES]), features)
    text = embedder.text(["a low bell", "some rain"])
    assert text.shape == (2, 8)
    torch.testing.assert_close(text.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(embedder.text(["a low bell"]), text[:1])


def test_clap_is_transformers_own_where_that_is_not_random(tmp_path):
    from transformers import ClapModel, ClapProcessor

    folder = save_clap(tmp_path, fusion=False)
    processor, model = ClapProcessor.from_pretrained(folder), ClapModel.from_pretrained(folder).eval()
    waves = list(resample(WAVES, 16_000, 48_000).numpy())
    made = processor(audio=waves, text=["a bell"] * 5, sampling_rate=48_000, return_tensors="pt", padding=True)
    with torch.no_grad():
        found = model(**made)
    embedder = ClapEmbedder(folder)
    torch.testing.assert_close(embedder.hear(WAVES)[0], found.audio_embeds)
    torch.testing.assert_close(embedder.text(["a bell"]), found.text_embeds[:1])


def test_ast_gives_its_pooled_vector_and_the_softmax_of_its_logits(ast):
    from transformers import ASTFeatureExtractor, ASTForAudioClassification

    embedder = AstEmbedder(ast)
    features, classes = embedder.hear(WAVES)
    assert embedder.sampling_rate == 16_000 and features.shape == (5, 16) and classes.shape == (5, 6)
    made = ASTFeatureExtractor.from_pretrained(ast)(list(WAVES.numpy()), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        logits = ASTForAudioClassification.from_pretrained(ast).eval()(**made).logits
    torch.testing.assert_close(classes.float(), logits.softmax(1))
    torch.testing.assert_close(embedder.hear(WAVES[2:3])[1], classes[2:3])


def test_long_clips_are_refused_rather_than_cut(clap, ast):
    for embedder, limit in ((ClapEmbedder(clap), "2 s"), (AstEmbedder(ast), "2.6 s")):
        with pytest.raises(ValueError, match=f"may last {limit}, got 3 s"):
            embedder.hear(torch.zeros(1, 48_000))


@pytest.mark.parametrize(("waves", "told"), [
    (torch.zeros(16_000), "floating point"), (torch.zeros(2, 16_000, dtype=torch.int16), "floating point"),
    (torch.zeros(0, 16_000), "floating point"), (torch.full((1, 16_000), float("nan")), "NaN"),
])
def test_bad_waves(waves, told):
    with pytest.raises(ValueError, match=told):
        OracleEmbedder().hear(waves)


def test_embedders_by_name(clap, ast):
    assert isinstance(load_embedder("oracle"), OracleEmbedder)
    for kind, folder, wanted in (("clap", clap, ClapEmbedder), ("ast", ast, AstEmbedder)):
        found = load_embedder(f"{kind}:{folder}")
        assert isinstance(found, wanted) and found.name == f"{kind}:{folder}"
        with pytest.raises(FileNotFoundError, match="without network, download it elsewhere"):
            load_embedder(f"{kind}:nobody/nothing")
    for spec in ("oracles", "clap", "ast:", "vggish:name", "oracle:name"):
        with pytest.raises(ValueError, match="oracle, clap:NAME or ast:NAME"):
            load_embedder(spec)


@pytest.mark.parametrize("missing", ["processor_config.json", "model.safetensors", "config.json"])
def test_an_incomplete_folder_says_what_was_wanted(clap, tmp_path, missing):
    for file in clap.iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(FileNotFoundError, match="ClapModel with ClapProcessor; wanted a folder"):
        ClapEmbedder(tmp_path)


def test_weights_that_are_not_in_the_file_are_refused(ast, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in ast.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(ast / "model.safetensors")
    weights.pop("classifier.dense.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(FileNotFoundError, match="classifier.dense.weight"):
        AstEmbedder(tmp_path)
