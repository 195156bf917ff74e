"""Text of any length as speech in one voice: cut into chunks, each spoken well, joined as they come, kept on disk.

Knows nothing of how a text is cut, a chunk judged or two of them joined, and nothing of audio files."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers import AutomaticSpeechRecognitionPipeline

from ..sampling import row_seeds
from ..voices.languages import text_language
from ..voices.voice import Voice
from .attempts import Spoken, Task, check_choice, most_ids, speak_well, stage_options
from .chunk_store import ChunkStore, fingerprint, weights
from .joiner import Joiner
from .quality import Judge, Recognizer
from .script import Line, parse_script
from .sentences import seconds_of
from .speakers import Cast, Part, parts_of, spoken_lines

MAX_SECONDS = 13.0  # of a chunk, by prediction: Bark ends at 15.4 s, in the middle of a word
_TELLING = 5000  # characters tell a text's language
_ROOM = 0.85  # of what a model can speak at once: 13 of 15.4 s


class LongProgress(NamedTuple):
    """Chunks that can be heard, of how many; their seconds, of about how many."""

    chunks: int
    of_chunks: int
    seconds: float
    of_seconds: float


@dataclass(frozen=True, eq=False)
class Piece:
    """What can be heard now, (N,) float32, and the report of the chunk that brought it."""

    audio: np.ndarray
    chunk: dict[str, Any]


Pieces = Generator[Piece, None, None]
SpokenParts = Generator[tuple[Part, Voice | None, Spoken], None, None]  # each with what it continued


class LongSpeech(Iterator[Piece]):
    """Speech in the making: a piece for each chunk, in order, made when it is asked for; `close` ends it early.

    sampling_rate in Hz; seed: repeats it; given: fingerprints of the voices that were given, in order; chunks: the
    reports of those delivered so far, which is all that is kept of them; voices: each speaker's, by name ("" without
    one), also those that were made up."""

    def __init__(self, sampling_rate: int, seed: int, cast: Cast, pieces: Pieces):
        self.sampling_rate, self.seed = sampling_rate, seed
        self.given = list(dict.fromkeys(voice.fingerprint for voice in cast.voices.values()))
        self.chunks: list[dict[str, Any]] = []
        self._cast, self._pieces = cast, pieces

    def __next__(self) -> Piece:
        piece = next(self._pieces)
        self.chunks.append(piece.chunk)
        return piece

    def close(self) -> None:
        self._pieces.close()

    @property
    def voices(self) -> dict[str, Voice]:
        known = {**self._cast.stopgaps, **self._cast.voices}
        return {speaker or "": voice for (speaker, _), voice in reversed(known.items())}

    def audio(self) -> np.ndarray:
        """All that is left of it, (N,) float32."""
        return np.concatenate([piece.audio for piece in self] or [np.zeros(0, np.float32)])


def speak_long(
    model,
    processor,
    text: str | Iterable[Line],
    *,
    voice: Any = None,
    mode: str = "fixed",
    language: str | None = None,
    seed: int | None = None,
    batch_size: int = 8,
    max_seconds: float = MAX_SECONDS,
    resume_folder: str | Path | None = None,
    progress: Callable[[LongProgress], None] | None = None,
    best_of: int = 1,
    retries: int = 2,
    guard: bool | Judge = True,
    asr: Recognizer | AutomaticSpeechRecognitionPipeline | None = None,
    **options,
) -> LongSpeech:
    """A text, a script or the lines of one -> speech, chunk by chunk, as an iterator of `Piece`.

    voice: for all that names none, as the processor takes it; without one each speaker keeps the voice that the model
    makes up in the first seconds. mode: how the chunks of a speaker hang together. "fixed" continues the voice each
    time, and speaks `batch_size` chunks together once it is there; "rolling" continues the last chunk, which drifts;
    "anchored" the voice and, after it, the end of the last chunk; these two speak one chunk at a time.
    seed: the result depends on it and not on `batch_size`. resume_folder: keeps each finished chunk there, and takes
    those that are there: one that was broken off and is called again gives the same samples. progress: called after
    each chunk. best_of, retries, guard, asr: see `speak_well`. Other options as in `generate`.
    Raises ValueError, before any network runs, for a text without words, and for a folder of another text, voice,
    model, seed or options (of a `guard` or `asr` of your own only that there is one). What has no letter, digit, tag
    or note, such as `* * *`, is not spoken."""
    check_choice(best_of, retries, guard, asr)
    store = None if resume_folder is None else ChunkStore(resume_folder)
    if seed is None and store is not None:
        seed = store.plan.get("seed")
    (seed,) = row_seeds(1, seed)
    lines = spoken_lines(parse_script(text) if isinstance(text, str) else text)
    vocabulary, stages = model._vocabulary(), stage_options(model, options)
    cast = Cast(mode, stages[1].max_coarse_history / vocabulary.n_coarse_codebooks / vocabulary.coarse_rate_hz)
    words = " ".join(line.text for line in lines)
    if not lines:
        raise ValueError("The text has no words to speak.")
    language = language or text_language(words[:_TELLING]) or "en"
    default = processor.voice(processor.pick_voice(voice, words[:_TELLING], seed))
    most = min(max_seconds, _ROOM * most_ids(model, stages[0]) / vocabulary.semantic_rate_hz)
    parts = list(parts_of(processor, lines, default, language, most, vocabulary.max_input_semantic_length))
    given = {part.who: part.voice for part in parts if part.voice is not None}
    for one in given.values():
        one.check_against(vocabulary)
    cast.voices.update(given)
    if store is not None:
        speakers = list(dict.fromkeys(part.who for part in parts))
        store.keep_to({
            "text": fingerprint([[part.text, part.ending, part.pause, speakers.index(part.who)] for part in parts]),
            "voices": [list(one) for one in speakers],
            "mode": mode,
            "language": language,
            "seed": seed,
            "model": weights(model),
            "options": [repr(stage) for stage in stages],
            "guard": [best_of, retries, guard if isinstance(guard, bool) else "own", asr is not None],
        })  # fmt: skip
    speak = partial(speak_well, model, processor, seed=seed, batch_size=batch_size, best_of=best_of, retries=retries,
                    guard=guard, language=language, asr=asr, **options)  # fmt: skip
    rate = model.generation_config.sample_rate
    spoken = _spoken(parts, cast, store, speak)
    return LongSpeech(rate, seed, cast, _pieces(parts, spoken, Joiner(rate), lines[0].pause, language, progress))


def _spoken(
    parts: list[Part], cast: Cast, store: ChunkStore | None, speak: Callable[..., Generator[Spoken, None, None]]
) -> SpokenParts:
    """The parts in order: loaded from the chunk store, or generated and saved there at once."""
    while parts:
        run, parts = parts[: cast.together(parts)], parts[cast.together(parts) :]
        absent = {part.index for part in run if store is None or part.index not in store}
        early: dict[int, Spoken] = {}
        tasks = (Task(part.index, part.text, cast.history(part)) for part in run if part.index in absent)
        with closing(speak(tasks=tasks)) as results:
            for part in run:
                while part.index in absent and part.index not in early:
                    one = next(results)
                    if store is not None:
                        store.save(one.task.index, one.arrays, one.notes)
                    early[one.task.index] = one
                if store is None or part.index in absent:
                    spoken = early.pop(part.index)
                else:
                    spoken = Spoken.of(Task(part.index, part.text), *store.load(part.index))
                history = cast.history(part)
                cast.heard(part, spoken.voice, spoken.passed)
                yield part, history, spoken


def _pieces(
    parts: list[Part], spoken: SpokenParts, joiner: Joiner, lead: float, language: str, progress: Callable | None
) -> Pieces:
    """What was spoken, joined. lead: seconds of silence before it; the last part's pause is what comes after it."""
    rate = joiner.sampling_rate
    expected = [seconds_of(part.text, language) for part in parts]
    before, samples = np.zeros(round(lead * rate), np.float32), 0
    with closing(spoken):
        for part, history, one in spoken:
            audio = joiner.add(one.audio, part.ending, part.pause)
            if part is parts[0]:
                audio = np.concatenate([before, audio])
            if part is parts[-1]:
                audio = np.concatenate([audio, joiner.end(), np.zeros(round((part.pause or 0) * rate), np.float32)])
            samples += len(audio)
            if progress is not None:
                progress(_progress(part.index + 1, samples / rate, expected))
            start, end = (float(len(before) + place) / rate for place in joiner.spans[-1])
            report = {
                "index": part.index,
                "text": part.text,
                "speaker": part.speaker,
                "voice": None if history is None else history.fingerprint,
                "start": start,
                "end": end,
                "seed": one.attempts[one.kept]["seed"],
                "kept": one.kept,
                "attempts": one.attempts,
            }
            yield Piece(audio, report)


def _progress(done: int, seconds: float, expected: list[float]) -> LongProgress:
    """What is left takes the time that is expected of it, at the pace so far."""
    pace = seconds / sum(expected[:done]) or 1.0
    return LongProgress(done, len(expected), seconds, seconds + pace * sum(expected[done:]))
