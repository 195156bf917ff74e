"""Chunks of speech to one: edges trimmed, levels matched, pauses by punctuation, and no clicks.

Knows nothing of texts or models. Waves are (N,) float samples; what it gives depends on what it was given alone, so
a joiner that broke off is made again from the same chunks."""

import math
from collections.abc import Mapping

import numpy as np

from ..audio.files import FRAME, frame_levels, heard, ramp

PAUSES = {"clause": 0.25, "sentence": 0.5, "paragraph": 1.0}  # seconds from the end of speech to its next beginning
LONGEST = 1.0  # seconds of silence that may stand inside a chunk; a pause of the model's own is cut to it
MOST = 6.0  # dB, by which a chunk is made louder or quieter
_HEAD, _TAIL = 0.03, 0.10  # seconds around a chunk's speech that are kept, where breath and room die away
_FADE = 0.005  # seconds, at least, from nothing to a chunk and back


class Joiner:
    """`for wave, ending in chunks: play(joiner.add(wave, ending))`, then `play(joiner.end())`.

    pauses: seconds after a chunk, by the name of its ending. level: of speech, in dB of full scale (RMS); by default
    that of the first chunk that has any. After `add`, `spans[-1]` is where the chunk's speech begins and ends in the
    whole, in samples; its first and last 0.03 and 0.10 s around it are kept, and fade. Raises ValueError for a rate,
    pause or level that cannot be."""

    def __init__(self, sampling_rate: int, pauses: Mapping[str, float] = PAUSES, level: float | None = None):
        for name, seconds in pauses.items():
            _check_pause(name, seconds)
        if sampling_rate < 1000 or (level is not None and not -100 <= level <= 0):
            raise ValueError(
                f"Joining needs a rate of 1000 Hz or more, a level of -100 to 0 dB; got {sampling_rate} and {level}."
            )
        self.sampling_rate, self.pauses, self.level = sampling_rate, dict(pauses), level
        self.spans: list[tuple[int, int]] = []
        self._given = 0  # samples
        self._held = np.zeros(0, np.float32)  # what follows them, and may yet be mixed with the next chunk
        self._spoken: int | None = None  # where the last speech ended
        self._pause = 0.0  # seconds, from there to the next
        self._ended = False

    def add(self, wave: np.ndarray, ending: str, pause: float | None = None) -> np.ndarray:
        """A chunk, and what comes after it: the name of a pause, or its seconds -> (N,) float32 that can be heard now.

        A silent or empty chunk adds nothing but its pause, where that is longer than the one before it."""
        if self._ended:
            raise ValueError("This joiner has ended; make another for another whole.")
        if ending not in self.pauses:
            raise ValueError(f"A chunk ends with one of {', '.join(map(repr, self.pauses))}; got {ending!r}.")
        pause = self.pauses[ending] if pause is None else _check_pause("pause", pause)
        wave = np.asarray(wave, dtype=np.float32)
        if wave.ndim != 1 or not np.isfinite(wave).all():
            raise ValueError(f"A chunk is (N,) finite samples; this is {wave.shape}, or holds NaN or infinity.")
        sounding = heard(wave, self.sampling_rate)
        if not sounding.any():
            self.spans.append((self._spoken or 0,) * 2)
            self._pause = max(self._pause, pause)
            return wave[:0]
        wave = self._leveled(wave, sounding)
        wave, head, tail = self._trimmed(*self._shortened(wave, sounding))
        begin = self._given  # of the whole, if this is the first
        if self._spoken is not None:
            begin = self._spoken + max(self._samples(self._pause) - head, 0)
        start, end = begin + head, begin + len(wave) - tail
        self.spans.append((start, end))
        self._spoken, self._pause = end, pause
        return self._mixed(wave, begin, until=end)

    def end(self) -> np.ndarray:
        """(N,) float32: the rest. Nothing can be added after it."""
        self._ended = True
        rest, self._held = self._held, self._held[:0]
        return rest

    def _samples(self, seconds: float) -> int:
        return round(seconds * self.sampling_rate)

    def _mixed(self, wave: np.ndarray, begin: int, until: int) -> np.ndarray:
        """Adds the wave to what is held; gives the whole up to `until`, before which no later chunk begins."""
        offset = begin - self._given
        mixed = np.zeros(max(len(self._held), offset + len(wave)), np.float32)
        mixed[: len(self._held)] = self._held
        mixed[offset : offset + len(wave)] += wave
        ready = until - self._given
        self._given, self._held = until, mixed[ready:]
        return mixed[:ready]

    def _leveled(self, wave: np.ndarray, sounding: np.ndarray) -> np.ndarray:
        """The wave at the wanted level, but neither 6 dB from its own nor raised beyond full scale."""
        own = 10 * np.log10(np.mean(10 ** (frame_levels(wave, self.sampling_rate)[sounding] / 10)))
        if self.level is None:
            self.level = float(own)
        gain = 10 ** (np.clip(self.level - own, -MOST, MOST) / 20)
        return wave * np.float32(min(gain, max(1.0, 1 / np.abs(wave).max())))

    def _shortened(self, wave: np.ndarray, sounding: np.ndarray) -> tuple[np.ndarray, int, int]:
        """The wave, the middles of long silences cut out of its speech, and where that begins and ends."""
        size, half, fade = (self._samples(seconds) for seconds in (FRAME, LONGEST / 2, _FADE))
        loud = np.flatnonzero(sounding)
        before = np.flatnonzero(np.diff(loud) > LONGEST / FRAME)
        cuts = zip((loud[before] + 1) * size + half, loud[before + 1] * size - half, strict=True)
        whole, at, rising = wave[:0], 0, ramp(fade)
        for left, right in cuts:
            whole = np.concatenate([whole, wave[at:left]])
            whole[-fade:] = whole[-fade:] * rising[::-1] + wave[right - fade : right] * rising
            at = right
        whole = np.concatenate([whole, wave[at:]])
        end = min((int(loud[-1]) + 1) * size, len(wave)) - (len(wave) - len(whole))
        return whole, int(loud[0]) * size, end

    def _trimmed(self, wave: np.ndarray, start: int, end: int) -> tuple[np.ndarray, int, int]:
        """The wave around its speech, cut at zero crossings and faded; the samples before and after the speech."""
        fade = self._samples(_FADE)
        first = _zero_crossing(wave, max(start - self._samples(_HEAD), 0), fade)
        last = len(wave) - _zero_crossing(wave[::-1], max(len(wave) - end - self._samples(_TAIL), 0), fade)
        head, tail, wave = max(start - first, 0), max(last - end, 0), wave[first:last].copy()
        for turned, quiet in ((wave, head), (wave[::-1], tail)):
            size = min(max(quiet, fade), len(wave))
            turned[:size] *= ramp(size)
        return wave, head, tail


def click_ratio(audio: np.ndarray, sampling_rate: int, at: int) -> float:
    """The largest step between two samples within 1 ms of `at`, over the largest one within 50 ms: a click is above 1.

    (N,) samples; 0 where nothing moves, infinite for a step in silence."""
    near, far = round(0.001 * sampling_rate), round(0.05 * sampling_rate)
    steps = np.abs(np.diff(np.asarray(audio, dtype=np.float64)[max(0, at - far) : at + far]))
    middle = min(at, far)
    inside = steps[max(0, middle - near) : middle + near].max(initial=0)
    outside = max(steps[: max(0, middle - near)].max(initial=0), steps[middle + near :].max(initial=0))
    return float(inside / outside) if outside else float("inf") if inside else 0.0


def _zero_crossing(wave: np.ndarray, at: int, reach: int) -> int:
    """The index nearest to `at`, `reach` samples away at most, before which the sign changes; else `at`."""
    first = max(at - reach, 1)
    negative = np.signbit(wave[first - 1 : at + reach + 1])
    crossings = first + np.flatnonzero(negative[1:] != negative[:-1])
    return int(min(crossings, key=lambda one: abs(one - at), default=at))


def _check_pause(name: str, seconds: float) -> float:
    if not 0 <= seconds < math.inf:
        raise ValueError(f"A pause is a number of seconds, 0 or more; {name!r} is {seconds}.")
    return float(seconds)
