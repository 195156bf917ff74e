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


def semantic_ids(said: str, seconds: float) -> list[int]:
    """flite's `-psdur` (phones with their ends in seconds, "pau:0.18 hh:0.25 ...") -> the id of each frame's middle.

    Frames behind the last phone are its end; without any phone there are no ids. Raises ValueError for a phone that is
    not one of `PHONES`."""
    ids: list[int] = []
    start = 0.0
    total = int(seconds * FRAME_RATE)
    for place, one in enumerate(segments := said.split()):
        phone, _, end = one.rpartition(":")
        if phone not in PHONES:
            raise ValueError(f"flite says {one!r}; known are {' '.join(PHONES)}, each with its end in seconds.")
        last = place == len(segments) - 1
        length = max(float(end) - start, 1e-3)
        while len(ids) < total and (last or (len(ids) + 0.5) / FRAME_RATE < float(end)):
            share = ((len(ids) + 0.5) / FRAME_RATE - start) / length
            ids.append(PHONES.index(phone) * STATES + min(int(share * STATES), STATES - 1))
        start = float(end)
    return ids
