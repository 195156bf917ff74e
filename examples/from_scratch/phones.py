"""What flite says, as semantic ids: a phone has three of them, for its beginning, its middle and its end.

Knows nothing of audio."""

FRAME_RATE = 50.0  # ids a second
STATES = 3  # ids of a phone
PHONES = [
    "pau", "aa", "ae", "ah", "ao", "aw", "ax", "ay", "b", "ch", "d", "dh", "eh", "er", "ey", "f", "g", "hh", "ih",
    "iy", "jh", "k", "l", "m", "n", "ng", "ow", "oy", "p", "r", "s", "sh", "t", "th", "uh", "uw", "v", "w", "y",
    "z", "zh",
]  # fmt: skip
VOCAB_SIZE = len(PHONES) * STATES


def timed_ids(said: str, seconds: float) -> list[tuple[int, float]]:
    """flite's `-psdur` (phones with their ends in seconds, "pau:0.18 hh:0.25 ...") -> of each frame's middle its
    semantic id, and when the phone ends, in frames.

    Frames behind the last phone are its end; without any phone there are none. Raises ValueError for a phone that is
    not one of `PHONES`."""
    found: list[tuple[int, float]] = []
    start = 0.0
    total = int(seconds * FRAME_RATE)
    for place, one in enumerate(segments := said.split()):
        phone, _, told = one.rpartition(":")
        if phone not in PHONES:
            raise ValueError(f"flite says {one!r}; known are {' '.join(PHONES)}, each with its end in seconds.")
        last, end = place == len(segments) - 1, float(told)
        length = max(end - start, 1e-3)
        while len(found) < total and (last or (len(found) + 0.5) / FRAME_RATE < end):
            share = ((len(found) + 0.5) / FRAME_RATE - start) / length
            state = min(int(share * STATES), STATES - 1)
            found.append((PHONES.index(phone) * STATES + state, end * FRAME_RATE))
        start = end
    return found


def semantic_ids(said: str, seconds: float) -> list[int]:
    """As `timed_ids`, ids alone."""
    return [number for number, _ in timed_ids(said, seconds)]


def last_end(said: str) -> float:
    """Seconds that it lasts."""
    return float(said.rpartition(":")[2] or 0)
