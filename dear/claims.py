"""What the paper claims, what was measured here, and a verdict by one rule: a table made from the records.

The rule: of two groups of seeds the one with the smaller mean is ahead if the difference exceeds the largest range of
seeds of both; otherwise it is undecided. Where one model stands for each side there are no seeds: what then counts as a
difference is said in the row, and the verdict says "one model". "holds" and "does not hold" speak of this classroom;
what cannot be measured here says why.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

from dear import components, grid
from dear.pipeline import fingerprint
from dear.rivals import METHODS

HOLDS, FAILS, OPEN, UNTESTED = "holds", "does not hold", "undecided", "not testable here"
ONE = " (one model)"
CAPTIONS = 200  # that all students, heads and whole models were scored on


@dataclass(frozen=True)
class Claim:
    """A row of the table; seeds is the number behind each figure, yardstick the floor and the control beside it."""

    paper: str
    here: str
    seeds: str
    yardstick: str
    verdict: str


def verdict(ahead: Sequence[float], behind: Sequence[float]) -> str:
    """Whether `ahead` has the smaller mean, by more than seeds differ; it takes two seeds a group to decide."""
    if min(len(ahead), len(behind)) < 2:
        return OPEN
    gain, noise = mean(behind) - mean(ahead), max(max(v) - min(v) for v in (ahead, behind))
    return OPEN if abs(gain) <= noise else HOLDS if gain > 0 else FAILS


def all_of(*verdicts: str) -> str:
    """The verdict on a claim of several parts: it fails with one of them, holds with all."""
    return FAILS if FAILS in verdicts else OPEN if OPEN in verdicts else HOLDS


class Records:
    """The lines of the records by name, and the groups of seeds that claims are about.

    Groups hold lines of the shipped teacher, of CAPTIONS captions and of full length only, one a seed.
    """

    def __init__(self, folder: Path):
        self.folder, teacher = Path(folder), fingerprint(components.WEIGHTS / "teacher")
        self.told = {"captions": CAPTIONS, "teacher": teacher, "steps": grid.LONG.steps}

    def lines(self, name: str) -> list[dict]:
        """All lines of a jsonl record."""
        return [json.loads(line) for line in (self.folder / f"{name}.jsonl").read_text().splitlines()]

    def json(self, name: str) -> dict:
        """A json record."""
        return json.loads((self.folder / f"{name}.json").read_text())

    def group(self, name: str, want: dict) -> list[dict]:
        """Lines of a record that agree with `want`, one a seed; ValueError for two of one seed that differ."""
        want, found = self.told | json.loads(json.dumps(want)), {}
        for line in self.lines(name):
            if want == {k: line.get(k) for k in want}:
                if grid.scores(found.setdefault(line["seed"], line)) != grid.scores(line):
                    raise ValueError(f"{name} has two runs of seed {line['seed']} that differ: {want}")
        return list(found.values())

    def heads(self, setting, **changes) -> list[dict]:
        """Lines of the energy head in a setting of the ablations, one a seed."""
        job = grid.Job("energy", setting, 0, grid.LONG.steps, **changes).key()
        return self.group("heads", {k: v for k, v in job.items() if k != "seed"})

    def rivals(self, name: str) -> list[dict]:
        """Lines of a method's tuned setting at full length, one a seed."""
        return self.group("heads", {"method": name, "setting": self.tuned(name), "sizes": {}, "targets": 1})

    def tries(self, name: str) -> list[dict]:
        """Lines of a method's tries, in their order; ValueError if one is not there."""
        told = {**self.told, "seed": grid.TRY_SEED, "steps": grid.LONG.steps // grid.TRY_SHARE}
        found = [line for line in self.lines("heads") if told == {k: line.get(k) for k in told}]
        settings = [json.loads(json.dumps(asdict(t))) for t in grid.method(name).tries]
        lines = [next((x for x in found if x["method"] == name and x["setting"] == s), None) for s in settings]
        if None in lines:
            raise ValueError(f"the record has no try {lines.index(None) + 1} of {name}: run `dear study rivals`")
        return lines

    def tuned(self, name: str) -> dict:
        """The setting that a method's tries chose."""
        return min((x for x in self.tries(name) if grid.best(x)), key=lambda x: grid.best(x)["frechet"])["setting"]

    def wholes(self, **want) -> list[dict]:
        """Lines of whole models by what they are, one a seed."""
        return self.group("wholes", want)

    def students(self, **changes) -> list[dict]:
        """Lines of the short students that have lambda 1000, the last layer and the teacher's start but for changes."""
        want = {"distillation_weight": 1000.0, "layers": "last", "from_scratch": False, "freeze": False} | changes
        return self.group("students", want)

    def noise(self) -> float:
        """Frechet distance of clips whose tokens are noise, of the same captions."""
        return next(line for line in self.lines("heads") if line["method"] == "noise")["guidance 1"]["frechet"]

    def floor(self) -> float:
        """Frechet distance of rendered clips, of the validation captions that all of these are scored on."""
        return next(line["frechet"] for line in self.lines("guidance") if line["model"] == "rendered clips")


def distances(lines: list[dict], calls: int = 1) -> list[float]:
    """Frechet distance of each line, at the guidance whose mean over the lines is least; no number if one diverged."""
    found = [grid.scores(line, calls) for line in lines]
    scales = set.intersection(*map(set, found)) if found else set()
    return min(([one[w]["frechet"] for one in found] for w in sorted(scales)), key=mean, default=[])


def told(values: Sequence[float]) -> str:
    """Mean and, of several seeds, range."""
    if not values:
        return "diverged"
    return f"{mean(values):.0f}" + (f" ({min(values):.0f} to {max(values):.0f})" if len(values) > 1 else "")


def compared(ours: Sequence[float], others: dict[str, Sequence[float]]) -> tuple[str, str]:
    """Energy's distances beside those of others, as text, and the verdict on its being ahead of all of them."""
    said = ", ".join(f"{name} {told(values)}" for name, values in {"energy": ours, **others}.items())
    return said, _each(ours, others)


def faster(r: Records) -> Claim:
    """The paper's headline."""
    timing = next(line for line in reversed(r.lines("latency")) if "timed" in line)["ways"]
    seconds = {(w["model"], w["num_inference_steps"], w["sampling_steps"]): w["seconds_per_clip"] for w in timing}
    ratio = seconds["teacher", 16, 100] / seconds["student", 16, 1]
    full = {row["system"]: row["seconds_per_clip"]["processor"] for row in r.json("fullsize")["rows"]}
    paper = full["IMPACT, 64 iterations"] / full["AudioDEAR, 64 iterations"]
    card = r.json("speed_h200")
    plain, quick = (target["found"] for target in card["targets"][:2])
    return Claim("up to 8.5 times faster than its teacher (batch 8, V100, 64 iterations: 22.34 s and 2.61 s)",
                 f"at the paper's size, batch 8, {card['device'].split(',')[0]}: {plain:.1f} times, both plain, and "
                 f"{quick:.1f} times, both optimised; on one CPU core, batch 1, extrapolated, {paper:.1f} times; "
                 f"classroom size on one CPU core, batch 8, 16 iterations: {ratio:.1f} times", "one run each",
                 "random weights at the paper's size",
                 (HOLDS if plain >= 8.5 else FAILS) + " for plain code on a GPU; "
                 + (HOLDS if quick >= 8.5 else FAILS) + " once both are optimised")


def near_teacher(r: Records) -> Claim:
    """What the one call costs in fidelity."""
    rows = {row["model"]: row for row in r.json("soundworld")["rows"]}
    student, teacher, floor = (rows[n] for n in ("soundworld", "soundworld-teacher", "rendered clips"))
    gap = max(teacher["all"][a] - student["all"][a] for a in ("relation", "kind", "pitch", "loudness"))
    return Claim("a little below its teacher in CLAP (0.334 and 0.372) and IS (9.66 and 10.57), level in KL (1.06)",
                 f"attributes heard: {100 * gap:.1f} points below at most (up to 5 count as a little); Frechet "
                 f"distance {student['frechet']:.0f} and {teacher['frechet']:.0f}", "one model each, 500 captions",
                 f"rendered clips {floor['frechet']:.0f}", (HOLDS if gap <= 0.05 else FAILS) + ONE)


def best_head(r: Records) -> Claim:
    """The paper's comparison of one-step losses in its own frame."""
    ours, plain = distances(r.rivals("energy")), ("flow", "shortcut", "meanflow")
    others = {name: distances(r.rivals(name)) for name in plain}
    said, found = compared(ours, others)
    return Claim("in one frame, without distillation, energy is far ahead: FD 22 against flow matching 126, Shortcut "
                 "98 and MeanFlow 79", f"heads on frozen hidden states, one call: {said}",
                 str(len(ours)), f"rendered clips {r.floor():.0f}, tokens of noise {r.noise():.0f}; flow in one "
                 "call is a control too: it draws the mean", found)


def best_whole(r: Records) -> Claim:
    """The same of whole models, short runs."""
    ours = distances(r.students(distillation_weight=0.0))
    others = {n: distances(r.wholes(method=n, setting=r.tuned(n))) for n in ("flow", "shortcut", "meanflow")}
    said, found = compared(ours, others)
    return Claim("the same for whole models (the same figures)",
                 f"1000 steps from the teacher's backbone: {said}", str(len(ours)),
                 f"rendered clips {r.floor():.0f}", found)


def best_distilled(r: Records) -> Claim:
    """The rivals that the paper names, by their method."""
    ours = distances(r.rivals("energy"))
    others = {f"{m.name} ({m.of})": distances(r.rivals(m.name)) for m in METHODS if m.distilled}
    said, found = compared(ours, others)
    return Claim("better in FD than ConsistencyTTA, SoundCTM and AudioLCM in one step (18.67 against 22.21, 19.83 and "
                 "25.36), and than AudioTurbo (22.18)",
                 f"their methods as heads in our frame, one call: {said}", str(len(ours)),
                 f"rendered clips {r.floor():.0f}", found + "; the systems themselves: " + UNTESTED)


def distillation(r: Records) -> Claim:
    """Whether the pull on hidden states pays."""
    with_it, without = (distances(r.students(distillation_weight=w)) for w in (1000.0, 0.0))
    anew, never = (distances(r.students(distillation_weight=w, from_scratch=True)) for w in (1000.0, 0.0))
    return Claim("distilling hidden states helps: FD 18.67 against 22.09",
                 f"from the teacher {told(with_it)} against {told(without)}; from scratch {told(anew)} against "
                 f"{told(never)}", str(len(with_it)), f"rendered clips {r.floor():.0f}",
                 all_of(verdict(with_it, without), verdict(anew, never)))


def peak(r: Records) -> Claim:
    """The weight of the distillation."""
    found = {w: distances(r.students(distillation_weight=float(w))) for w in (0, 10, 100, 1000, 5000)}
    others = [verdict(found[1000], v) for w, v in found.items() if w != 1000]
    return Claim("lambda = 1000 is best: FD 22.09, 18.67 and 19.88 at 0, 1000 and 5000",
                 ", ".join(f"{w}: {mean(v):.0f}" for w, v in found.items()), str(len(found[0])),
                 f"rendered clips {r.floor():.0f}", all_of(*others))


def _ablation(r: Records, name: str, best, others: tuple, paper: str, control: str = "", label: str = "{}") -> Claim:
    """The claim that one value of an ablation is ahead of others; label: how a value is told."""
    found = {}
    for setting, changes in grid.ablations()[name]:
        usual = {"exponent": 1.0, "main": "noise"}
        value = (usual | setting.arguments | changes.get("sizes", {}))[name]
        found[value] = distances(r.heads(setting, **changes))
    said = ", ".join(f"{label.format(value)} {told(values)}" for value, values in found.items())
    fewest, most = (f(len(values) for values in found.values()) for f in (min, max))
    return Claim(paper, said, str(most) if fewest == most else f"{fewest} to {most}",
                 f"rendered clips {r.floor():.0f}{control}", _each(found[best], {v: found[v] for v in others}))


def _each(ours: Sequence[float], others: dict) -> str:
    """The verdict on being ahead of all others, and of which of them that holds, where it does not of all."""
    found = {name: verdict(ours, values) for name, values in others.items()}
    held = [str(name) for name, one in found.items() if one == HOLDS]
    whole = all_of(*found.values())
    return whole if whole == HOLDS or not held else f"{whole}; holds against {', '.join(held)}"


def samples(r: Records) -> Claim:
    """How many samples a target."""
    return _ablation(r, "samples", 2, (1, 4, 8), "two samples a target are the best balance (m = 2: FD 18.67, CLAP "
                     "0.334; m = 4: 18.13, 0.322)", "; m = 1, no repulsion, is the control", "m = {}:")


def noise_main(r: Records) -> Claim:
    """Where the noise enters the head."""
    return _ablation(r, "main", "noise", ("hidden",), "noise as the main stream is clearly better than noise as the "
                     "condition", label="{} main")


def exponent(r: Records) -> Claim:
    """EAR's ablation, which the paper relies on."""
    return _ablation(r, "exponent", 1.0, (0.5, 1.5, 2.0), "exponent 1 (EAR: FID 3.55; 4.10 at 1.5; 188 at 2, where "
                     "only the mean is matched)", "; exponent 2 is the control", "{:g}:")


def text(r: Records) -> Claim:
    """What the backbone sees of a caption."""
    found = {p: distances(r.wholes(pool=p, learns_text=True)) for p in ("no", "only", "also")}
    return Claim("a sequence of text vectors and a pooled one are best together, the pooled one alone clearly worse",
                 f"sequence {told(found['no'])}, pooled {told(found['only'])}, both {told(found['also'])}",
                 str(len(found["no"])), f"rendered clips {r.floor():.0f}",
                 f"both best: {verdict(found['also'], found['no'])}; pooled alone worse: "
                 f"{verdict(found['no'], found['only'])}")


def _drawn(r: Records, model: str, **changes) -> list[dict]:
    """Ways to draw a shipped model that differ from the usual ones in what `changes` holds, and in the scale."""
    usual = {"model": model, "num_inference_steps": 16, "decoding_schedule": "cosine", "guidance": "own",
             "guidance_schedule": "constant", "temperature": 1.0, "temperature_schedule": "constant", "seed": 0}
    want = usual | changes
    return [line for line in r.lines("guidance") if want == {k: line.get(k) for k in want}]


def guidance_scale(r: Records) -> Claim:
    """How strong."""
    found = {line["guidance_scale"]: line["frechet"] for line in _drawn(r, "student")}
    short = [grid.best(line) is line["guidance 2"] for line in r.students()]
    best = min(found, key=found.get)
    return Claim("guidance on h is best near w = 4",
                 "student of guided draws: " + ", ".join(f"w = {w:g}: {v:.0f}" for w, v in sorted(found.items()))
                 + f"; students of the data, of w = 1, 2, 3: best at 2 for {sum(short)} of {len(short)}",
                 "one model", f"rendered clips {r.floor():.0f}; w = 1 is no guidance",
                 (HOLDS if 3 <= best <= 5 else FAILS) + ONE)


def guidance_place(r: Records) -> Claim:
    """Where."""
    own, other = ({line["guidance_scale"]: line["frechet"] for line in _drawn(r, "teacher", guidance=g)}
                  for g in ("own", "other"))
    chance = [line["frechet"] for seed in (0, 1, 2) for line in _drawn(r, "teacher", seed=seed)
              if line["guidance_scale"] == 2.0]
    # At w = 2, where draws were repeated: the best of several scales is better by chance alone.
    gap, noise = own[1.0] - other[2.0], max(chance) - min(chance)
    return Claim("guidance on h suits one-step models alone",
                 f"a diffusion teacher: none {own[1.0]:.0f}; w = 1.5, 2, 3 on h "
                 + ", ".join(f"{other[w]:.0f}" for w in (1.5, 2.0, 3.0)) + ", on its prediction "
                 + ", ".join(f"{own[w]:.0f}" for w in (1.5, 2.0, 3.0)), "one model, three draws",
                 f"rendered clips {r.floor():.0f}; draws differ by {noise:.0f}",
                 (FAILS if gap > noise else HOLDS if gap < -noise else OPEN) + ONE)


def iterations(r: Records) -> Claim:
    """Whether one pass is enough."""
    found = {n: min(line["frechet"] for line in _drawn(r, "student", num_inference_steps=n))
             for n in (1, 4, 8, 16, 32)}
    return Claim("decoding everything in one pass fails (IMPACT: FAD 12.26 against 1.07 at 32 iterations)",
                 "student: " + ", ".join(f"{n}: {v:.0f}" for n, v in found.items()), "one model",
                 f"rendered clips {r.floor():.0f}; 1.5 times counts as failing",
                 (HOLDS if found[1] > 1.5 * found[32] else FAILS) + ONE)


def _plane(r: Records, name: str, setting: str, figure: str) -> list[float]:
    return [line[figure] for line in r.lines("plane") if line["stage"] in ("steps", "controls")
            and line["method"] == name and line["data"] == "swiss_roll"
            and (line["stage"] == "controls" or setting in line["setting"]) and line[figure] is not None]


def plane_nearest(r: Records) -> Claim:
    """The toy experiment."""
    rivals, parts, said = ("shortcut", "meanflow"), [], []
    for setting in ("published", "tuned"):
        for figure in ("w2", "mmd2"):
            ours = _plane(r, "energy", setting, figure)
            others = {name: _plane(r, name, setting, figure) for name in rivals}
            parts += [verdict(ours, v) for v in others.values()]
            if figure == "w2":
                said.append(f"{setting}: energy {mean(ours):.2f}, "
                            + ", ".join(f"{n} {mean(v):.2f}" for n, v in others.items()))
    floor, control = (mean(_plane(r, n, "", "w2")) for n in ("floor", "gaussian"))
    return Claim("energy is lowest in MMD and Wasserstein distance on the Swiss roll",
                 "Wasserstein-2, " + "; ".join(said) + f"; of {len(parts)} comparisons, MMD's among them, energy is "
                 f"ahead in {parts.count(HOLDS)} and behind in {parts.count(FAILS)}", str(len(ours)),
                 f"data {floor:.2f}, a Gaussian {control:.2f}",
                 all_of(*parts))


def plane_covers(r: Records) -> Claim:
    """What MeanFlow leaves out."""
    ours, theirs, tried = (_plane(r, n, s, "coverage") for n, s in (
        ("energy", "published"), ("meanflow", "published"), ("meanflow", "tuned")))
    floor = mean(_plane(r, "floor", "", "coverage"))
    return Claim("MeanFlow covers too little of the spiral, energy all of it",
                 f"share covered: energy {mean(ours):.2f}, MeanFlow {mean(theirs):.2f} as published, "
                 f"{mean(tried):.2f} tuned", str(len(ours)), f"data {floor:.2f}; 0.02 counts as too little",
                 HOLDS if mean(ours) - mean(theirs) > 0.02 < mean(ours) - mean(tried) else FAILS)


def not_best(r: Records) -> Claim:
    """What the paper's own table says against it."""
    return Claim("(its own table) it is not best in FAD: 2.79, where AudioLCM in two steps has 2.17 and SoundCTM 2.51; "
                 "nor in IS: 9.66, where AudioLCM in two steps has 9.89", "needs AudioCaps, PANNs and VGGish", "",
                 "", UNTESTED)


CLAIMS: tuple[Callable[[Records], Claim], ...] = (
    faster, near_teacher, best_head, best_whole, best_distilled, distillation, peak, samples, exponent, noise_main,
    text, guidance_scale, guidance_place, iterations, plane_nearest, plane_covers, not_best,
)


def table(records: Path) -> str:
    """All claims as a table in markdown."""
    rows = ["| the paper | here | seeds | floor and control | verdict |", "|---|---|---|---|---|"]
    for claim in (make(Records(records)) for make in CLAIMS):
        cells = (claim.paper, claim.here, claim.seeds, claim.yardstick, claim.verdict)
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)
