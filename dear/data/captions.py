"""The grammar of SoundWorld: from a scene to a caption and back."""

import re

KINDS = {
    "tone": ("tone", "note"),
    "rise": ("rising chirp", "upward sweep", "rising sweep"),
    "fall": ("falling chirp", "downward sweep", "falling sweep"),
    "siren": ("siren", "alarm"),
    "hiss": ("hiss", "static"),
    "wind": ("wind", "breeze"),
    "rain": ("rain", "drizzle"),
    "knock": ("knock", "tapping"),
    "bell": ("bell", "chime"),
    "engine": ("engine", "motor"),
    "bird": ("bird", "birdsong"),
}
PITCHES = {"low": ("low", "deep"), "middle": ("middle", "medium"), "high": ("high", "high-pitched")}
LOUDNESSES = {"quiet": ("quiet", "soft", "faint"), "loud": ("loud", "strong")}
RELATIONS = {
    "single": ("{a}", "the sound of {a}", "{a} alone", "only {a}", "there is {a}", "one hears {a}"),
    "then": ("{a} then {b}", "{a}, then {b}", "{a} followed by {b}", "first {a}, then {b}", "{a} and then {b}",
             "{a} before {b}", "{b} after {a}", "{b} preceded by {a}"),
    "while": ("{a} while {b}", "{a} together with {b}", "{a} and {b} at the same time", "{a} over {b}",
              "{a} and {b} together", "{a} during {b}"),
}
_MASS = {"hiss", "static", "wind", "rain", "drizzle", "tapping", "birdsong"}
_WORDS_OF = {kind: [set(phrase.split()) for phrase in phrases] for kind, phrases in KINDS.items()}
_REVERSED, _ORDERED = {"after", "preceded"}, {"then", "followed", "before", "first"}
_AT_ONCE = {"while", "together", "over", "during"}
_NOT = {"no", "not", "without", "never", "nor", "neither"}


def words(text: str) -> list[str]:
    """Lower-case words of `text`; a hyphen joins two words into one."""
    return re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", text.lower())


def describe(event, rng, say_pitch: bool, say_loudness: bool) -> str:
    """Noun phrase for one event, for example "a loud deep bell"."""
    kind = str(rng.choice(KINDS[event.kind]))
    parts = []
    if say_loudness:
        parts.append(str(rng.choice(LOUDNESSES[event.loudness])))
    if say_pitch:
        parts.append(str(rng.choice(PITCHES[event.pitch])))
    phrase = " ".join([*parts, kind])
    if kind in _MASS:
        return phrase if rng.random() < 0.5 else f"some {phrase}"
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def caption(relation: str, phrases: list[str], rng) -> str:
    """Sentence for a scene, in one of the phrasings of its relation."""
    template = str(rng.choice(RELATIONS[relation]))
    return template.format(a=phrases[0], b=phrases[-1])


def vocabulary() -> list[str]:
    """Every word the grammar can produce, sorted."""
    found = {"a", "an", "some"}
    for table in (KINDS, PITCHES, LOUDNESSES):
        for phrases in table.values():
            found.update(word for phrase in phrases for word in words(phrase))
    for templates in RELATIONS.values():
        found.update(word for t in templates for word in words(t.format(a="", b="")))
    return sorted(found)


def parse(text: str) -> tuple[str, list[dict[str, str | None]]]:
    """Relation and events that a caption states; what it leaves unsaid is None.

    Events come in the order in which they sound ("B after A" gives A, B). Raises ValueError if no kind of sound,
    or more than two, is named, and where reading word by word would get it wrong: a word that says no, relations that
    contradict each other or stand before the first sound ("after a bell a bird"), a quality behind its sound.
    """
    tokens, events, current = words(text), [], {"kind": None, "pitch": None, "loudness": None}
    recent: list[str] = []
    for token in tokens:
        for name, table in (("pitch", PITCHES), ("loudness", LOUDNESSES)):
            for value, synonyms in table.items():
                if token in synonyms:
                    current[name] = value
        if not events and token in (_REVERSED | _ORDERED | _AT_ONCE) - {"first"}:
            raise ValueError(f"{token!r} is understood between two sounds, as in 'a bell {token} a bird', got {text!r}")
        recent = [*recent[-1:], token]
        for kind, phrases in _WORDS_OF.items():
            if {token} in phrases or (len(recent) == 2 and set(recent) in phrases):
                events.append({**current, "kind": kind})
                current, recent = {"kind": None, "pitch": None, "loudness": None}, []
                break
    if not 1 <= len(events) <= 2:
        known = ", ".join(KINDS)
        raise ValueError(f"wanted one or two kinds of sound ({known}), found {len(events)} in {text!r}")
    if why := _misread(tokens, [value for value in current.values() if value]):
        raise ValueError(f"{text!r} {why}, which the grammar does not have; say it as in 'a loud low bell then a bird'")
    if len(events) == 1:
        return "single", events
    if _REVERSED & set(tokens):
        return "then", events[::-1]
    return ("then" if _ORDERED & set(tokens) else "while"), events


def _misread(tokens: list[str], late: list[str]) -> str:
    """What reading word by word would get wrong, or nothing; `late` are the qualities behind the last sound."""
    relations = [name for name, there in (("reversed", _REVERSED), ("in order", _ORDERED), ("at once", _AT_ONCE))
                 if there & set(tokens)]
    if _NOT & set(tokens):
        return "says " + " and ".join(sorted(_NOT & set(tokens)))
    if late:
        return f"has {late[0]!r} behind the sound it belongs to"
    return "says " + " and ".join(relations) if len(relations) > 1 else ""
