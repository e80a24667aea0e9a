"""Pretrained text encoders, on tiny randomly initialised models of the same transformers classes."""

import sys

import pytest
import torch

from dear.backbone import BackboneConfig, MaskedTransformer
from dear.text_pretrained import Clap, FlanT5

CAPTIONS = ["a low bell", "a loud low bell then some rain"]
WORDS = "a low loud bell then some rain".split()


def save_tokenizer(folder):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    from transformers import T5Config, T5EncoderModel

    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    T5EncoderModel(T5Config(vocab_size=10, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4)
                   ).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    from transformers import ClapTextConfig, ClapTextModelWithProjection

    folder = tmp_path_factory.mktemp("clap")
    torch.manual_seed(0)
    ClapTextModelWithProjection(
        ClapTextConfig(vocab_size=10, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32,
                       projection_dim=8, pad_token_id=0, max_position_embeddings=90)
    ).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def test_t5_gives_a_vector_a_token(t5):
    encoder = FlanT5(t5)
    vectors, mask = encoder.encode(CAPTIONS)
    assert vectors.shape == (2, 8, 16) and encoder.width == 16 and vectors.dtype == torch.float32
    assert mask.dtype == torch.bool and mask.sum(1).tolist() == [4, 8]  # the words and </s>
    assert not vectors.requires_grad and not any(p.requires_grad for p in encoder.parameters())
    assert not encoder.model.training


def test_padding_does_not_change_t5_vectors(t5):
    encoder = FlanT5(t5)
    alone, together = encoder.encode(CAPTIONS[:1])[0], encoder.encode(CAPTIONS)[0]
    torch.testing.assert_close(together[:1, :4], alone)


def test_what_is_loaded_is_what_was_saved(t5):
    from transformers import T5EncoderModel

    ids = torch.tensor([[3, 4, 6, 1]])  # a low bell </s>
    wanted = T5EncoderModel.from_pretrained(t5).eval()(input_ids=ids).last_hidden_state
    torch.testing.assert_close(FlanT5(t5).encode(CAPTIONS[:1])[0], wanted)


def test_long_captions_are_cut(t5):
    vectors, mask = FlanT5(t5, length=5).encode(["a low bell then some rain then a bell"])
    assert vectors.shape == (1, 5, 16) and mask.all()


def test_clap_gives_one_unit_vector_a_caption(clap):
    encoder = Clap(clap)
    pooled = encoder.pooled(CAPTIONS)
    assert pooled.shape == (2, 8) and encoder.width == 8
    torch.testing.assert_close(pooled.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(encoder.pooled(CAPTIONS[:1]), pooled[:1])  # padding is not looked at
    vectors, mask = encoder.encode(CAPTIONS)
    assert torch.equal(vectors, pooled[:, None]) and mask.shape == (2, 1) and mask.all()


def test_the_backbone_takes_both(t5, clap):
    text, pooler = FlanT5(t5), Clap(clap)
    config = BackboneConfig(
        tokens=4, token_dim=6, text_dim=text.width, text_length=12, width=20, pooled_dim=pooler.width
    )
    h = MaskedTransformer(config)(
        torch.zeros(2, 4, 6), torch.ones(2, 4, dtype=torch.bool), *text.encode(CAPTIONS), pooled=pooler.pooled(CAPTIONS)
    )
    assert h.shape == (2, 4, 20) and not torch.allclose(h[0], h[1])


@pytest.mark.parametrize("captions", ["a bell", [], [""], [None]])
def test_no_sentence_is_refused(t5, captions):
    with pytest.raises(ValueError, match="non-empty list of sentences"):
        FlanT5(t5).encode(captions)


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json"])
def test_an_incomplete_folder_says_what_was_wanted(t5, tmp_path, missing):
    for file in t5.iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(FileNotFoundError, match="T5EncoderModel.*model.safetensors and tokenizer"):
        FlanT5(tmp_path)


def test_weights_that_are_not_in_the_file_are_refused(t5, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in t5.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(t5 / "model.safetensors")
    weights.pop("encoder.final_layer_norm.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(FileNotFoundError, match="final_layer_norm"):
        FlanT5(tmp_path)


def test_pickled_weights_are_not_read(t5, tmp_path):
    from safetensors.torch import load_file

    for file in t5.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(load_file(t5 / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        FlanT5(tmp_path)


def test_without_transformers_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"dear\[pretrained\]"):
        FlanT5("google/flan-t5-large")
