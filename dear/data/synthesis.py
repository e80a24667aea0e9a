"""The instruments of SoundWorld: one short numpy function a kind of sound.

Each takes (samples, centre frequency in Hz, qualities, numpy generator) and returns (samples,) float32 of any scale.
"""

from dataclasses import dataclass

import numpy as np

SAMPLE_RATE = 16_000
TOKEN = 1280  # samples: what one token of the models holds
_VALUES = ((0.0, 0.4), (0.0, 1.0), (0.0, 0.5), (0.2, 0.8))  # position, rate, phase, brightness


@dataclass(frozen=True)
class Qualities:
    """What no caption says, drawn once an event: all in [0, 1].

    position: place of the pitch inside its octave-wide register; rate: of the rhythm; phase: of the rhythm of wind,
    knock, bell and engine (sounds that move in pitch start at the beginning of a movement);
    brightness: weight of the upper partials or width of the band.

    Each takes a few values only, as notes of a scale and tempi do. With continuous ones a classroom model learns to
    copy a steady pitch (a held tone's tokens: R2 0.8 from their neighbours after 1000 steps) but not to continue a
    moving one (sweeps: R2 0.0), for the tokens of a moving pitch never repeat.
    """

    position: float
    rate: float
    phase: float
    brightness: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Qualities":
        """One of 2 notes, 2 tempi, 2 phases and 2 colours, all equally often."""
        return cls(*(float(rng.choice(values)) for values in _VALUES))


def _wave(frequency: np.ndarray, partials: np.ndarray) -> np.ndarray:
    """Periodic wave by table lookup; `partials[k]` is the amplitude of harmonic k + 1."""
    turns = np.arange(2048) / 2048
    table = np.zeros(2048, np.float32)
    for k, amplitude in enumerate(partials, start=1):
        table += (amplitude * np.sin(2 * np.pi * k * turns + 1.7 * k * k)).astype(np.float32)
    phase = np.cumsum(frequency, dtype=np.float64) * (2048 / SAMPLE_RATE)
    return table[phase.astype(np.int64) & 2047]


def _wander(samples: int, rng, knots_per_second: float = 25.0) -> np.ndarray:
    """Slow random curve of unit variance: the jitter of a living source."""
    knots = rng.standard_normal(int(samples / SAMPLE_RATE * knots_per_second) + 2).astype(np.float32)
    return np.interp(np.arange(samples), np.linspace(0, samples, len(knots)), knots).astype(np.float32)


def _partials(q: Qualities, centre: float) -> np.ndarray:
    count = max(1, min(6, int(7000 / (2 * centre))))
    return (0.15 + 0.55 * q.brightness) ** np.arange(count)


def _noise(samples: int, low: float, high: float, rng) -> np.ndarray:
    """Noise of the band [low, high] Hz with soft edges."""
    from scipy import fft  # late, here and below: what only reads captions need not wait for it

    size = fft.next_fast_len(samples, real=True)
    spectrum = fft.rfft(rng.standard_normal(size, dtype=np.float32))
    f = np.linspace(0, SAMPLE_RATE / 2, len(spectrum), dtype=np.float32) + 1.0
    gain = 1 / (1 + (low / f) ** 8) / (1 + (f / high) ** 8)
    return fft.irfft(spectrum * gain, size)[:samples]


def _period(q: "Qualities", slow: float, fast: float) -> float:
    """Length of a beat in samples: `slow` to `fast` tokens of 80 ms.

    Whole (or half) numbers of tokens, so that the tokens of a moving sound come again: with tempi that do not fit the
    grid a classroom teacher drew rising chirps as falling ones half the time, while tones and sirens came out.
    """
    return (slow + (fast - slow) * q.rate) * TOKEN


def _turns(samples: int, period: float, phase: float = 0.0) -> np.ndarray:
    """Beats since the start, (samples,).

    What moves in pitch starts at the beginning of its movement: with two phases the first token of a siren had 16
    forms instead of 8, and an energy head drew between them.
    """
    return np.arange(samples, dtype=np.float32) / np.float32(period) + np.float32(phase)


def _beats(samples: int, period: float, phase: float, rng, jitter_s: float) -> np.ndarray:
    """Sample positions of a rhythm with micro-timing."""
    times = np.arange(phase * period, samples, period)
    times = times + rng.standard_normal(len(times)) * jitter_s * SAMPLE_RATE
    return np.clip(times, 0, samples - 1).astype(int)


def _strike(samples: int, positions, hits) -> np.ndarray:
    """Sum of one short sound a position."""
    wave = np.zeros(samples, np.float32)
    for start, hit in zip(positions, hits, strict=True):
        piece = hit[: samples - start]
        wave[start : start + len(piece)] += piece
    return wave


def _ring(samples: int, frequencies, decays_s, weights) -> np.ndarray:
    """Damped sines."""
    t = np.arange(samples, dtype=np.float32)[:, None] / SAMPLE_RATE
    f, d = np.asarray(frequencies, np.float32), np.asarray(decays_s, np.float32)
    return (np.sin(2 * np.pi * f * t) * np.exp(-t / d) * np.asarray(weights, np.float32)).sum(1)


def tone(n, f, q, rng):
    """Steady harmonic sound with a little jitter and shimmer."""
    return _wave(f * 2 ** (0.012 * _wander(n, rng)), _partials(q, f)) * (1 + 0.2 * _wander(n, rng))


def _sweep(n, f, q, rng, sign):
    place = _turns(n, _period(q, 8, 6)) % 1.0
    pitch = f * 2 ** (sign * (place - 0.5) + 0.012 * _wander(n, rng))
    edges = np.minimum(1, 16 * np.minimum(place, 1 - place))
    return _wave(pitch, _partials(q, f)) * edges * (1 + 0.2 * _wander(n, rng))


def rise(n, f, q, rng):
    """Upward glides of an octave, one after the other, each of about half a second."""
    return _sweep(n, f, q, rng, 1)


def fall(n, f, q, rng):
    """Downward glides of an octave, one after the other, each of about half a second."""
    return _sweep(n, f, q, rng, -1)


def siren(n, f, q, rng):
    """Pitch that swings up and down 2 to 3 times a second."""
    swing = np.sin(2 * np.pi * _turns(n, _period(q, 6, 4)))
    return _wave(f * 2 ** (0.35 * swing + 0.012 * _wander(n, rng)), _partials(q, f)) * (1 + 0.15 * _wander(n, rng))


def hiss(n, f, q, rng):
    """Steady band of noise."""
    half = 2 ** (0.25 + 0.35 * q.brightness)
    return _noise(n, f / half, f * half, rng)


def wind(n, f, q, rng):
    """Band of noise that swells 1 to 1.6 times a second, darker when it is weak."""
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * _turns(n, _period(q, 12, 8), q.phase))
    half = 2 ** (0.25 + 0.35 * q.brightness)
    dark = _noise(n, f / half / 1.6, f, rng)
    return (_noise(n, f, f * half, rng) * swell**2 + dark * 0.25 * (0.2 + swell)).astype(np.float32)


def rain(n, f, q, rng):
    """Drops at random times, 25 to 70 a second, each a short damped sine near the pitch."""
    count = max(8, rng.poisson(n / SAMPLE_RATE * (25 + 45 * q.rate)))
    pitch = f * 2 ** rng.uniform(-0.45, 0.45, count).astype(np.float32)
    t = np.arange(480, dtype=np.float32) / SAMPLE_RATE
    drops = np.sin(2 * np.pi * pitch[:, None] * t) * np.exp(-t / (0.004 + 0.004 * (1 - q.brightness)))
    drops *= np.exp(0.6 * rng.standard_normal((count, 1))).astype(np.float32)
    return _strike(n, rng.integers(0, n, count), drops)


def knock(n, f, q, rng):
    """Dry hits, 3 or 6 a second, on a body with three resonances."""
    body = _ring(1600, (f, f * 1.62, f * 2.4), (0.022, 0.014, 0.009), (1, 0.3 + 0.5 * q.brightness, 0.4 * q.brightness))
    at = _beats(n, _period(q, 4, 2), q.phase, rng, 0.004)
    decay = np.exp(-np.arange(1600, dtype=np.float32) / 60)
    click = rng.standard_normal((len(at), 1600)).astype(np.float32) * decay * 0.25
    return _strike(n, at, (body + click) * np.exp(0.15 * rng.standard_normal((len(at), 1))).astype(np.float32))


def bell(n, f, q, rng):
    """Long ringing strokes, 1.2 to 2.1 a second, with inharmonic partials."""
    ratios = np.array([1.0, 1.19, 1.56, 2.0, 2.66])
    weights = np.array([1, 0.5, 0.4, 0.5, 0.25]) * (0.25 + 0.75 * q.brightness) ** np.arange(5)
    stroke = _ring(9600, f * ratios, 0.28 / ratios, weights)
    at = _beats(n, _period(q, 10, 6), q.phase, rng, 0.006)
    return _strike(n, at, stroke * np.exp(0.15 * rng.standard_normal((len(at), 1))).astype(np.float32))


def engine(n, f, q, rng):
    """Rough pulses, 8 to 13 a second, of noise and a buzz around the pitch."""
    beat = _turns(n, _period(q, 1.5, 1), q.phase) + 0.06 * _wander(n, rng)
    pulse = np.exp(-3.5 * (beat % 1.0)).astype(np.float32)
    buzz = _wave(np.full(n, f / 4), np.exp(-0.5 * ((np.arange(1, 9) - 4) / (0.8 + q.brightness)) ** 2))
    return pulse * (buzz + 1.6 * _noise(n, f / 1.5, f * 1.5, rng))


def bird(n, f, q, rng):
    """Short falling whistles, 4 to 6 a second."""
    beat = _turns(n, _period(q, 3, 2)) + 0.04 * _wander(n, rng, 8)
    place = np.clip((beat % 1.0) / 0.6, 0, 1)
    pitch = f * 2 ** (0.45 - 0.9 * place + 0.01 * _wander(n, rng))
    return _wave(pitch, _partials(q, f)[:2]) * np.maximum(np.sin(np.pi * place), 0) ** 0.7


INSTRUMENTS = {g.__name__: g for g in (tone, rise, fall, siren, hiss, wind, rain, knock, bell, engine, bird)}


def synthesise(kind: str, samples: int, centre: float, qualities: Qualities, rng) -> np.ndarray:
    """Sound of one event (samples,) float32 with 5 ms fades; `centre` in Hz."""
    if kind not in INSTRUMENTS:
        raise ValueError(f"kind must be one of {', '.join(INSTRUMENTS)}, got {kind!r}")
    wave = INSTRUMENTS[kind](samples, centre, qualities, rng).astype(np.float32)
    fade = np.linspace(0, 1, 80, dtype=np.float32)
    wave[:80] *= fade
    wave[-80:] *= fade[::-1]
    return wave


def add_room(wave: np.ndarray, rng) -> np.ndarray:
    """Diffuse reverberation of a random room and a faint noise floor (about -52 dB)."""
    from scipy import fft

    tail = int(SAMPLE_RATE * rng.uniform(0.1, 0.3))
    room = rng.standard_normal(tail, dtype=np.float32) * np.exp(-5 * np.arange(tail, dtype=np.float32) / tail)
    room *= rng.uniform(0.05, 0.25) / np.sqrt((room**2).sum())
    room[0] = 1.0
    size = fft.next_fast_len(len(wave) + tail, real=True)
    wet = fft.irfft(fft.rfft(wave, size) * fft.rfft(room, size), size)[: len(wave)]
    floor = _noise(len(wave), 40.0, 5000.0, rng) * rng.uniform(0.0015, 0.004)
    return np.clip(wet + floor, -1, 1).astype(np.float32)
