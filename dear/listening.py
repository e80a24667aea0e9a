"""A listening test: a page that hides which system made a clip, and what its listeners' answers say."""

import csv
import hashlib
import json
import random
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import soundfile

from dear.components import beside, digest, write_json
from dear.data.folder import read_rows

COLUMNS = ("listener", "trial", "kind", "clip_a", "clip_b", "relevance", "quality", "preferred", "seconds")
SCALES = ("relevance", "quality")
LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that is mistaken for another
INDIFFERENT = 0.2  # simulated listeners hear no difference below this, in points of the scales


@dataclass(frozen=True)
class Key:
    """What the page hides: `clips` has (system, index of the caption) by blind name.

    `listeners` is None where any name may be typed, or n where listeners are called 1 to n.
    """

    systems: tuple[str, ...]
    captions: tuple[str, ...]
    clips: dict[str, tuple[str, int]]
    listeners: int | None = None

    @property
    def trials(self) -> dict[str, tuple[str, ...]]:
        """Blind names by trial: r1, r2 ... rate one clip, p1, p2 ... compare two clips of one caption.

        They are numbered in the order of the blind names, which says nothing of the systems.
        """
        names = sorted(self.clips)
        pairs = [(a, b) for a, b in combinations(names, 2) if self.clips[a][1] == self.clips[b][1]]
        ratings = {f"r{i}": (name,) for i, name in enumerate(names, 1)}
        return ratings | {f"p{i}": pair for i, pair in enumerate(pairs, 1)}


def blind(systems: Sequence[str], captions: Sequence[str], seed: int | str = 0, listeners: int | None = None) -> Key:
    """Give a random name to the clip that each system made for each caption; the same seed gives the same names."""
    _distinct(systems)
    if len(captions) < 2 or (listeners is not None and listeners < 1):
        raise ValueError("a listening test wants at least 2 captions and, if they are counted, 1 listener; "
                         f"got {len(captions)} caption(s), listeners {listeners}")
    rng, clips = random.Random(seed), {}
    for clip in ((system, i) for system in systems for i in range(len(captions))):
        while (name := "".join(rng.choices(LETTERS, k=8))) in clips:
            pass
        clips[name] = clip
    return Key(tuple(systems), tuple(captions), clips, listeners)


def _distinct(systems: Sequence[str]) -> None:
    if len(systems) < 2:
        raise ValueError(f"a listening test compares systems and wants at least 2 folders, got {', '.join(systems)}")
    if len(set(systems)) < len(systems):
        raise ValueError(f"systems are called after their folders, got {', '.join(systems)}: rename one of the twins")


def prepare(
    folders: Sequence[Path], page: Path, captions: int = 10, seed: int = 0, listeners: int | None = None
) -> Key:
    """Write PAGE/index.html and PAGE/audio and, beside the folder PAGE, PAGE.key.json; returns the key.

    Each folder is a system, is named after it, and holds wav files and a captions.csv. The test has `captions` of
    those that all systems share, drawn at random; of one that comes several times, n-th clips meet n-th clips.
    Raises FileNotFoundError or ValueError if folders do not fit together, FileExistsError rather than overwrite.
    """
    systems = [folder.resolve().name for folder in folders]
    _distinct(systems)
    key_file = page.with_name(f"{page.name}.key.json")
    for path in (page, key_file):
        if path.exists():
            raise FileExistsError(f"{path} exists, and answers may belong to it: choose another --out or remove it")
    found = dict(zip(systems, map(_clips, folders), strict=True))
    shared = [text for text in found[systems[0]] if all(text in clips for clips in found.values())]
    if not shared:
        some = "; ".join(f"{system} has {[text for text, _ in clips][:2]}" for system, clips in found.items())
        raise ValueError(f"clips are matched by caption, and no caption is in all captions.csv: {some}")
    drawn = sorted(random.Random(seed).sample(range(len(shared)), max(0, min(captions, len(shared)))))
    files = {(system, i): clips[shared[k]] for system, clips in found.items() for i, k in enumerate(drawn)}
    _same_rate(files.values())
    contents = {clip: file.read_bytes() for clip, file in files.items()}
    # The sounds are part of the seed: a name says nothing to those who know the seed but do not have the folders.
    secret = digest([str(seed), *(hashlib.sha256(content).hexdigest() for content in contents.values())])
    key = blind(systems, [shared[k][0] for k in drawn], secret, listeners)
    with beside(page) as draft, beside(key_file) as draft_key:  # the key is renamed first: no page is without one
        (draft / "audio").mkdir(parents=True)
        for name in sorted(key.clips):  # not by system, which the times of the files would tell
            (draft / "audio" / f"{name}.wav").write_bytes(contents[key.clips[name]])
        (draft / "index.html").write_text(_page(key), encoding="utf-8")
        write_json(draft_key, asdict(key))
    return key


def _clips(folder: Path) -> dict[tuple[str, int], Path]:
    """Wav files of a folder by (caption, how many rows with this caption came before)."""
    seen, clips = Counter(), {}
    for line, row in read_rows(folder, "captions.csv"):
        name, caption = row["filename"], row["caption"]
        file = next((p for p in (folder / name, folder / "audio" / name) if p.is_file()), None)
        if file is None or file.suffix.lower() != ".wav" or file in clips.values() or not caption:
            raise ValueError(f"{folder / 'captions.csv'} line {line}: wanted a wav file that is there, beside "
                             f"captions.csv or in audio/, that no row before has, and its caption; got {name!r}, "
                             f"{caption!r}: mend or remove the row")
        clips[caption, seen[caption]] = file
        seen[caption] += 1
    return clips


def _same_rate(files: Iterable[Path]) -> None:
    rates = {}
    for file in files:
        try:
            rates.setdefault(soundfile.info(file).samplerate, file)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{file} cannot be read as a wav file: write it again ({error})") from error
    if len(rates) > 1:
        told = ", ".join(f"{file} has {rate} Hz" for rate, file in rates.items())
        raise ValueError(f"a sampling rate can be heard, so all clips must have the same; {told}: resample a system")


def _page(key: Key) -> str:
    """The page: the template and, as json, all that it may know."""
    trials = [{"id": trial, "kind": _kind(clips), "caption": key.captions[key.clips[clips[0]][1]], "clips": clips}
              for trial, clips in key.trials.items()]
    plan = {"test": digest(sorted(key.clips)), "listeners": key.listeners, "columns": COLUMNS, "trials": trials}
    told = json.dumps(plan, ensure_ascii=False).replace("<", "\\u003c")  # a caption must not end the script element
    return Path(__file__).with_name("listening.html").read_text(encoding="utf-8").replace("{{plan}}", told)


def _kind(clips: Sequence[str]) -> str:
    return "rating" if len(clips) == 1 else "pair"


def read_key(path: Path) -> Key:
    """The key that `prepare` wrote; ValueError if the file holds something else."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        clips = {name: (system, int(caption)) for name, (system, caption) in told["clips"].items()}
        return Key(tuple(told["systems"]), tuple(told["captions"]), clips, told["listeners"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: wanted the .key.json that `dear listen prepare` wrote beside the page") from error


def read_answers(key: Key, paths: Iterable[Path]) -> list[dict]:
    """Rows of the page's csv files, numbers as numbers; of double answers the last counts, and a warning tells.

    Raises ValueError with file and line at the first row that does not fit the key.
    """
    answers, trials, twice = {}, key.trials, Counter()
    for path in paths:
        with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
            rows = csv.DictReader(file)
            try:
                if tuple(rows.fieldnames or ()) != COLUMNS:
                    raise ValueError(f"wanted the columns {','.join(COLUMNS)}, got {','.join(rows.fieldnames or ())}")
                for row in map(lambda row: _answer(key, trials, row), rows):
                    twice[row["listener"]] += (row["listener"], row["trial"]) in answers
                    answers[row["listener"], row["trial"]] = row
            except (ValueError, csv.Error) as error:
                raise ValueError(f"{path} line {rows.line_num}: {error}") from error
    for name in (name for name, count in twice.items() if count):
        warnings.warn(f"listener {name} has {twice[name]} double answer(s), of which the last counts: was a file given "
                      "twice, or did two listeners use one name?", stacklevel=2)
    return list(answers.values())


def _answer(key: Key, trials: Mapping[str, tuple[str, ...]], row: dict) -> dict:
    if None in row or None in row.values():  # where csv.DictReader puts cells too many and too few
        raise ValueError(f"wanted {len(COLUMNS)} cells, one a column")
    row = {name: cell.strip() for name, cell in row.items()}
    clips = [name for name in (row["clip_a"], row["clip_b"]) if name]
    if not row["listener"] or (key.listeners and row["listener"] not in map(str, range(1, key.listeners + 1))):
        wanted = f"a listener from 1 to {key.listeners}" if key.listeners else "the name of a listener"
        raise ValueError(f"wanted {wanted}, got {row['listener']!r}")
    if tuple(sorted(clips)) != trials.get(row["trial"]) or row["kind"] != _kind(clips):
        raise ValueError(f"the key has no {row['kind']} {row['trial']} with {' and '.join(clips) or 'no clip'}: "
                         "are key and answers of the same page?")
    rated = SCALES if row["kind"] == "rating" else ()
    for name, wanted in [(scale, "12345") for scale in rated] or [("preferred", ("a", "b", "none"))]:
        if row[name] not in tuple(wanted):
            raise ValueError(f"{name} must be one of {', '.join(wanted)}, got {row[name]!r}")
    if not re.fullmatch(r"\d+(\.\d+)?", row["seconds"]):
        raise ValueError(f"seconds must be a number, got {row['seconds']!r}")
    return row | {scale: int(row[scale]) for scale in rated} | {"seconds": float(row["seconds"])}


def results(key: Key, answers: Sequence[dict], draws: int = 2000, seed: int = 0) -> dict:
    """What the answers say: [figure, low, high] with 95 % intervals, and how far listeners agree.

    "systems": mean relevance and quality. "pairs": the share of answers that prefer the first system, where "no
    difference" is half an answer; 0.5 is equality. "agreement": alpha of the ratings and, within a pair, of the
    preferences (from pair to pair "the first" is another system). What cannot be computed is None.

    Answers of one listener are not independent, nor are those about one caption: hundreds of answers by five people
    say little of a sixth. So listeners and captions are both resampled, independently, and an answer counts as often
    as its listener times its caption was drawn (Owen 2007, The pigeonhole bootstrap). Noise of single answers comes
    in by both ways: where it is all there is, intervals are up to sqrt(3) too wide. With few listeners they are
    rather too narrow, as those of every bootstrap. With one listener captions alone are resampled, as "resampled"
    then says, and the intervals say nothing of other listeners.
    """
    caption = {name: i for name, (_, i) in key.clips.items()}
    maker = {name: system for name, (system, _) in key.clips.items()}
    who = {name: i for i, name in enumerate(sorted({row["listener"] for row in answers}))}
    what = {name: i for i, name in enumerate(sorted({caption[row["clip_a"]] for row in answers}))}
    if len(what) < 2:
        raise ValueError(f"intervals want answers about at least 2 captions, got {len(what)}")
    rng = np.random.default_rng(seed)
    people, texts = (rng.multinomial(n, np.full(n, 1 / n), draws) for n in (len(who), len(what)))  # (draws, n)

    def figure(rows: Sequence[dict], values: Sequence[float]) -> list[float] | None:
        if not rows:
            return None
        weights = people[:, [who[row["listener"]] for row in rows]]
        weights = weights * texts[:, [what[caption[row["clip_a"]]] for row in rows]]
        weights = weights[weights.any(1)]  # a draw can miss all of few answers
        means = weights @ np.asarray(values, float) / weights.sum(1)
        return [round(float(x), 3) for x in (np.mean(values), *np.quantile(means, (0.025, 0.975)))]

    def agreement(rows: Sequence[dict], values: Sequence[float], nominal: bool = False) -> float | None:
        units = defaultdict(list)
        for row, value in zip(rows, values, strict=True):
            units[row["trial"]].append(value)
        found = alpha(units.values(), nominal)
        return None if found is None else round(found, 3)

    ratings = [row for row in answers if row["kind"] == "rating"]
    systems, pairs = {}, []
    for system in key.systems:
        rows = [row for row in ratings if maker[row["clip_a"]] == system]
        systems[system] = {scale: figure(rows, [row[scale] for row in rows]) for scale in SCALES}
    for pair in combinations(key.systems, 2):
        rows = [row for row in answers if row["clip_b"] and {maker[row["clip_a"]], maker[row["clip_b"]]} == set(pair)]
        liked = [0.5 if row["preferred"] == "none" else float(maker[row[f"clip_{row['preferred']}"]] == pair[0])
                 for row in rows]
        pairs.append({"systems": list(pair), "first preferred": figure(rows, liked), "answers": len(rows),
                      "no difference": liked.count(0.5), "agreement": agreement(rows, liked, nominal=True)})
    return {"listeners": len(who), "answers": len(answers), "asked": len(who) * len(key.trials),
            "resampled": "listeners and captions" if len(who) > 1 else "captions alone",
            "systems": systems, "pairs": pairs,
            "agreement": {scale: agreement(ratings, [row[scale] for row in ratings]) for scale in SCALES}}


def alpha(units: Iterable[Sequence[float]], nominal: bool = False) -> float | None:
    """Krippendorff's alpha = 1 - D_o / D_e of the values that each unit got; None if all values are the same.

    D_o = 1/n sum_u 1/(m_u - 1) sum_{i != j in u} d(v_i, v_j), over units with m_u >= 2 values, n values in all, is the
    disagreement about a unit; D_e = 1/(n (n - 1)) sum_{i != j} d(v_i, v_j) that of values dealt out at random.
    d(v, w) is (v - w)^2, or for nominal values 1 if they differ (Krippendorff 2011, Computing Krippendorff's
    Alpha-Reliability). 1 is agreement, 0 chance: also where almost all values are the same, so that chance agrees.
    """
    units = [np.asarray(values, float) for values in units if len(values) > 1]

    def disagreement(values: np.ndarray) -> float:
        gaps = values[:, None] - values
        return float((gaps != 0).sum() if nominal else (gaps**2).sum())

    every = np.concatenate([*units, np.zeros(0)])
    expected = disagreement(every) / max(len(every) - 1, 1)
    return 1 - sum(disagreement(values) / (len(values) - 1) for values in units) / expected if expected else None


def simulate(key: Key, opinions: Mapping[str, float | tuple[float, float]], listeners: int = 8, noise: float = 0.5,
             seed: int = 0, taste: float = 0.25, clips: float = 0.5) -> list[dict]:
    """Answers of simulated listeners called 1, 2 ..., as `read_answers` gives them.

    opinions: of each system, in points of the scales from 1 to 5; two numbers are relevance and quality.
    noise, taste, clips: standard deviations of what is new in each answer, of a listener's liking for a system, and
    of the clips of a system, in points. Ratings are rounded into 1 ... 5; of a pair the clip with the higher mean of
    both scales is preferred, or none if they differ by less than 0.2.
    """
    if differ := set(key.systems) ^ set(opinions):
        raise ValueError(f"opinions must name the systems {', '.join(key.systems)}; not in both: {sorted(differ)}")
    rng, answers = np.random.default_rng(seed), []
    merit = {name: opinions[system] + clips * rng.standard_normal(2) for name, (system, _) in key.clips.items()}
    for listener in map(str, range(1, listeners + 1)):
        liking = {system: taste * rng.standard_normal(2) for system in key.systems}
        for trial, names in key.trials.items():
            names = rng.permutation(names).tolist()
            heard = [merit[name] + liking[key.clips[name][0]] + noise * rng.standard_normal(2) for name in names]
            said = dict(zip(SCALES, heard[0].round().clip(1, 5).astype(int).tolist(), strict=True))
            if len(names) == 2:
                gap = (heard[0] - heard[1]).mean()
                said = {"preferred": "none" if abs(gap) < INDIFFERENT else "a" if gap > 0 else "b"}
            given = dict(zip(COLUMNS, (listener, trial, _kind(names), *names), strict=False))
            answers.append(dict.fromkeys(COLUMNS, "") | given | said | {"seconds": 5.0})
    return answers


def tell(found: dict) -> None:
    """Print what `results` gave."""
    def said(figure):
        return "no answers" if figure is None else "{:.2f} ({:.2f} to {:.2f})".format(*figure)

    def agreed(value):
        return "undefined" if value is None else f"{value:.2f}"

    print(f"{found['listeners']} listener(s), {found['answers']} of {found['asked']} answers; "
          f"95 % intervals by resampling {found['resampled']}")
    if found["listeners"] == 1:
        print("one listener: the intervals say nothing of other listeners")
    print(f"{'':32}{'relevance, 1 to 5':>24}{'quality, 1 to 5':>24}")
    for system, row in found["systems"].items():
        print(f"{system:32}" + "".join(f"{said(row[scale]):>24}" for scale in SCALES))
    print(f"{'':32}{'prefer the first':>24}  (no difference is half an answer; equality is 0.50)")
    for row in found["pairs"]:
        print(f"{' / '.join(row['systems']):32}{said(row['first preferred']):>24}  {row['answers']} answers, "
              f"{row['no difference']} without difference, agreement {agreed(row['agreement'])}")
    print("agreement of listeners (Krippendorff's alpha: 1 all agree, 0 chance): "
          + ", ".join(f"{scale} {agreed(value)}" for scale, value in found["agreement"].items()))
