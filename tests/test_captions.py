"""The grammar: a caption says the scene it was made from, and sentences parse as one would read them."""

import numpy as np
import pytest

from dear.data import captions
from dear.data.captions import KINDS, LOUDNESSES, PITCHES, RELATIONS, caption, describe, parse, vocabulary, words
from dear.data.soundworld import Event, SoundWorld
from dear.data.synthesis import Qualities


def test_500_captions_parse_back_to_their_scenes():
    world, stated = SoundWorld("test", 500), {"pitch": [], "loudness": []}
    for i in range(500):
        relation, events, _ = world.scene(i)
        got_relation, got = parse(world.caption(i))
        assert (got_relation, [e["kind"] for e in got]) == _scene(relation, events, got), world.caption(i)
        for event, found in zip(_match(relation, events, got), got, strict=True):
            for name, told in stated.items():
                assert found[name] in (None, getattr(event, name)), world.caption(i)
                told.append(found[name] is not None)
    # 0.85 and 0.7 of about 900 events: 4 standard deviations are 0.05 and 0.06.
    assert np.mean(stated["pitch"]) == pytest.approx(0.85, abs=0.05)
    assert np.mean(stated["loudness"]) == pytest.approx(0.7, abs=0.06)


def _match(relation, events, got):
    """The events in the order in which the sentence names them: free for "while" only."""
    swapped = relation == "while" and got[0]["kind"] != events[0].kind
    return events[::-1] if swapped else events


def _scene(relation, events, got):
    return relation, [e.kind for e in _match(relation, events, got)]


def test_every_word_of_the_vocabulary_appears_and_no_other():
    world = SoundWorld("train", 3000)
    assert {word for i in range(3000) for word in words(world.caption(i))} == set(vocabulary())
    assert vocabulary() == sorted(set(vocabulary()))


def event(kind, pitch=None, loudness=None):
    return {"kind": kind, "pitch": pitch, "loudness": loudness}


@pytest.mark.parametrize(("text", "relation", "events"), [
    ("a low bell then a high bird", "then", [event("bell", "low"), event("bird", "high")]),
    ("a high bird after a low bell", "then", [event("bell", "low"), event("bird", "high")]),
    ("a bird preceded by some quiet rain", "then", [event("rain", None, "quiet"), event("bird")]),
    ("a siren before a soft high-pitched note", "then", [event("siren"), event("tone", "high", "quiet")]),
    ("First a knock, then an engine!", "then", [event("knock"), event("engine")]),
    ("a loud rising chirp followed by a falling sweep", "then", [event("rise", None, "loud"), event("fall")]),
    ("a deep hum of wind while a bird", "while", [event("wind", "low"), event("bird")]),
    ("some static and a strong medium chime at the same time", "while",
     [event("hiss"), event("bell", "middle", "loud")]),
    ("drizzle over an alarm", "while", [event("rain"), event("siren")]),
    ("only a faint upward sweep", "single", [event("rise", None, "quiet")]),
    ("BELL", "single", [event("bell")]),
    ("a rising chirp, rising sweep together", "while", [event("rise"), event("rise")]),
    ("tapping and then tapping", "then", [event("knock"), event("knock")]),
])
def test_sentences_read_as_one_would(text, relation, events):
    assert parse(text) == (relation, events)


@pytest.mark.parametrize("text", ["", "a low cat", "a sweep", "a bell, a bird and rain"])
def test_none_or_three_kinds_are_refused(text):
    with pytest.raises(ValueError, match=r"one or two kinds of sound \(tone, .*\), found [03] in"):
        parse(text)


@pytest.mark.parametrize(("text", "said_why"), [
    ("after a bell, a bird", "'after' is understood between two sounds"),
    ("before a bell a bird", "'before' is understood between"),
    ("first a bird, and after it a bell", "says reversed and in order"),
    ("a bell then a bird at once, together", "says in order and at once"),
    ("a bell without a bird", "says without"),
    ("a bell that is quiet and low", "has 'low' behind the sound"),
    ("a bell then a bird, loud", "has 'loud' behind"),
])
def test_what_would_be_misread_is_refused(text, said_why):
    with pytest.raises(ValueError, match=said_why):
        parse(text)


def test_words_are_lower_case_and_keep_hyphens():
    assert words("A High-Pitched, LOUD bell -- 2 times!") == ["a", "high-pitched", "loud", "bell", "times"]
    assert words("Öl café") == ["öl", "café"] and words(" 12 ?") == []


class First:
    """A generator whose every choice is the one given."""

    def __init__(self, place: int, random: float = 0.0):
        self.place, self.chance = place, random

    def choice(self, options):
        return list(options)[self.place]

    def random(self):
        return self.chance


def test_phrases_take_the_right_article():
    quiet = Event("engine", "low", "quiet", Qualities(0, 0, 0, 0))
    assert describe(quiet, First(0), say_pitch=False, say_loudness=False) == "an engine"
    assert describe(quiet, First(0), say_pitch=True, say_loudness=True) == "a quiet low engine"
    assert describe(quiet, First(1), say_pitch=True, say_loudness=False) == "a deep motor"
    rain = Event("rain", "high", "loud", Qualities(0, 0, 0, 0))
    assert describe(rain, First(0), False, True) == "loud rain"  # no "a rain"
    assert describe(rain, First(0, 0.9), False, True) == "some loud rain"


def test_every_phrasing_says_its_relation():
    for relation, templates in RELATIONS.items():
        for place in range(len(templates)):
            text = caption(relation, ["a low bell", "a loud bird"][: 1 if relation == "single" else 2], First(place))
            got, events = parse(text)
            assert got == relation, text
            kinds = [e["kind"] for e in events]
            assert kinds == (["bell"] if relation == "single" else ["bell", "bird"]), text


def test_no_word_means_two_things():
    tables = [*KINDS.values(), *PITCHES.values(), *LOUDNESSES.values()]
    phrases = [phrase for table in tables for phrase in table]
    assert len(set(phrases)) == len(phrases)
    assert set(captions.vocabulary()) >= {word for phrase in phrases for word in words(phrase)}
