"""The text encoder: what it refuses, what it warns of, and that padding and order act as they should."""

import warnings

import pytest
import torch

from dear.data.captions import vocabulary
from dear.text import TextConfig, TextEncoder, vocabulary_of

WORDS = tuple(vocabulary())


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return TextEncoder(TextConfig(WORDS, length=6, width=32, heads=4)).eval()


def test_words_become_indices_and_a_mask(encoder):
    ids, mask = encoder.tokenize(["A LOW bell!", "rain"])
    assert ids.tolist() == [[WORDS.index("a"), WORDS.index("low"), WORDS.index("bell")], [WORDS.index("rain"), 0, 0]]
    assert mask.tolist() == [[True, True, True], [True, False, False]] and mask.dtype == torch.bool


def test_vectors_have_the_shape_of_the_interface(encoder):
    vectors, mask = encoder.encode(["a low bell", "rain"])
    assert vectors.shape == (2, 3, 32) and mask.shape == (2, 3) and vectors.dtype == torch.float32
    double, _ = encoder.double().encode(["a low bell"])
    assert double.dtype == torch.float64


def test_padding_does_not_change_vectors(encoder):
    alone, _ = encoder.encode(["rain"])
    together, mask = encoder.encode(["rain", "a loud deep bell"])
    torch.testing.assert_close(together[:1, :1], alone)
    # Whatever stands in the padding is not looked at.
    ids, mask = encoder.tokenize(["a bell", "a loud deep bell"])
    first = encoder(ids, mask)
    second = encoder(torch.where(mask, ids, 7), mask)
    assert torch.equal(first[mask], second[mask])


def test_the_order_of_the_words_matters(encoder):
    one, _ = encoder.encode(["bell then bird"])
    other, _ = encoder.encode(["bird then bell"])
    # The same three vectors in another order would be a bag of words.
    assert (one - other.flip(1)).abs().max() > 0.01
    words_alone, _ = encoder.encode(["bell"])
    assert (one[:, :1] - words_alone).abs().max() > 0.01  # and a word hears its neighbours


def test_gradients_reach_the_words_of_a_caption_only(encoder):
    vectors, mask = encoder.encode(["a bell"])
    vectors.square().sum().backward()
    touched = encoder.embedding.weight.grad.abs().sum(1) > 0
    assert {WORDS[i] for i in touched.nonzero().flatten().tolist()} == {"a", "bell"}


def test_an_unknown_word_is_named_with_its_neighbours_and_left_out(encoder):
    with pytest.warns(UserWarning, match=r"'a low bells'.* 'bells' \(did you mean bell\?\)"):
        got, _ = encoder.encode(["a low bells"])
    torch.testing.assert_close(got, encoder.encode(["a low"])[0])
    with pytest.warns(UserWarning, match="'xyzzy'$"):  # nothing is near
        encoder.encode(["xyzzy bell"])
    with pytest.warns(UserWarning) as told:  # a caption that is repeated, and a word within it, are told once
        encoder.encode(["zug bell zug"] * 3)
    assert told[0].filename == __file__  # who asked is told, not the library
    assert len(told) == 1 and str(told[0].message).count("'zug'") == 1


def test_known_words_warn_of_nothing(encoder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode(["a low bell"])


@pytest.mark.parametrize(("prompt", "message"), [
    ("", r"'' has no words; describe a sound"),
    (" 12 !", r"has no words"),
    ("xyzzy belll", r"no word that this model knows: 'xyzzy', 'belll' \(did you mean bell\?\).*it knows a, after,"),
    ("a low bell then a low bird", r"has 7 words, this model takes 6: 'a low bell then a low bird'"),
])
def test_prompts_that_cannot_be_followed(encoder, prompt, message):
    with pytest.raises(ValueError, match=message):
        encoder.encode(["a bell", prompt])


@pytest.mark.parametrize("captions", ["a bell", [], [3], ["a bell", None]])
def test_anything_but_a_list_of_sentences_is_refused(encoder, captions):
    for call in (encoder.encode, encoder.tokenize):
        with pytest.raises(ValueError, match="captions must be a non-empty list of sentences"):
            call(captions)


def test_the_vocabulary_of_captions():
    assert vocabulary_of(["A bell, a high-pitched bird", "rain"]) == ("a", "bell", "bird", "high-pitched", "rain")
