"""The best of several attempts at a text: made in batches, judged by the guard, made again where they fail.

Knows nothing of how a text is cut or of what is done with the speech."""

from collections import deque
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count, product
from typing import Any

import numpy as np
from transformers import AutomaticSpeechRecognitionPipeline

from ..generation.options import CoarseOptions, FineOptions, SemanticOptions, all_options
from ..generation_bark import BarkGenerateOutput
from ..sampling import MAX_SEED
from ..voices.voice import KEYS, Voice, compact, rates_of
from .quality import Judge, Recognizer, Verdict, judge


@dataclass(frozen=True)
class Task:
    """A text to speak. index: its number, for seeds and reports; voice: what the processor takes as one, or None."""

    index: int
    text: str
    voice: Any = None


@dataclass(frozen=True, eq=False)
class Spoken:
    """The best attempt at a task: audio (N,) float32, its arrays of ids by a voice's keys, and all that was tried.

    attempts: {"seed": ..., and the verdict's fields}, in order; `kept` is the number of this one."""

    task: Task
    audio: np.ndarray
    tokens: dict[str, np.ndarray]
    rates: tuple[float, float]
    kept: int
    attempts: list[dict[str, Any]]

    @classmethod
    def of(cls, task: Task, arrays: Mapping[str, np.ndarray], notes: Mapping[str, Any]) -> "Spoken":
        """From its `arrays` and `notes`, which a file has kept."""
        tokens = {key: arrays[key].astype(np.int64) for key in KEYS}
        return cls(task, arrays["audio"], tokens, rates_of(arrays), notes["kept"], notes["attempts"])

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Those of a voice file, and "audio"."""
        small = {key: compact(ids) for key, ids in self.tokens.items()}
        return {**small, "rates": np.array(self.rates), "audio": self.audio}

    @property
    def notes(self) -> dict[str, Any]:
        """What was tried, for JSON."""
        return {"text": self.task.text, "kept": self.kept, "attempts": self.attempts}

    @property
    def passed(self) -> bool:
        return not self.attempts[self.kept].get("reasons")

    @property
    def voice(self) -> Voice | None:
        """As a voice for later generations; None where it is too short to be one."""
        try:
            return Voice.of(self.tokens, self.rates)
        except ValueError:
            return None


def speak_well(
    model,
    processor,
    tasks: Iterable[Task],
    *,
    seed: int,
    batch_size: int = 8,
    best_of: int = 1,
    retries: int = 2,
    guard: bool | Judge = True,
    language: str | None = None,
    asr: Recognizer | AutomaticSpeechRecognitionPipeline | None = None,
    **options,
) -> Generator[Spoken, None, None]:
    """Tasks -> each spoken, as it is done, not in their order. `batch_size` attempts run at a time.

    Of `best_of` attempts the best is kept; where all of them fail, up to `retries` more are made until one passes,
    and the least bad is kept. guard: True for `judge`, a function of your own like it, or False for none. Attempt k at
    task i has the seed that (seed, i, k) gives, so a result depends on no other task. Options as in `generate`.
    Raises ValueError as `check_choice` does."""
    check_choice(best_of, retries, guard, asr)
    if guard is True:
        guard = partial(judge, language=language, limit=most_ids(model, stage_options(model, options)[0]), asr=asr)
    fresh = (first for task in tasks for first in product([_Trial(task)], range(best_of)))
    again: deque[tuple[_Trial, int]] = deque()
    running: dict[int, tuple[_Trial, int]] = {}

    def inputs():
        for place in count():
            one = again.popleft() if again else next(fresh, None)
            if one is None:
                return
            running[place] = trial, number = one
            yield trial.task.text, trial.task.voice, attempt_seed(seed, trial.task.index, number)

    while True:  # one pass, but for what fails after the last task has begun
        with closing(model.generate_many(inputs(), batch_size, processor=processor, **options)) as results:
            for place, result in results:
                trial, number = running.pop(place)
                trial.take(number, result, guard(result, trial.task.text) if guard else None)
                if len(trial.attempts) < best_of:
                    continue
                if trial.passed or len(trial.attempts) == best_of + retries:
                    yield trial.spoken()
                else:
                    again.append((trial, len(trial.attempts)))
        if not again:
            return


def check_choice(best_of: int, retries: int, guard: bool | Judge, asr: Any) -> None:
    """Raises ValueError for numbers that cannot be, and where there is nobody to judge what is best."""
    if not guard and (best_of > 1 or asr is not None):
        raise ValueError("`best_of` and `asr` choose by the guard's verdict: leave `guard` on.")
    if best_of < 1 or retries < 0:
        raise ValueError(f"`best_of` is 1 at least and `retries` 0, got {best_of} and {retries}.")


def attempt_seed(seed: int, index: int, attempt: int) -> int:
    """The seed of an attempt at a task; other attempts, tasks and seeds have independent ones."""
    drawn = np.random.SeedSequence(seed, spawn_key=(index, attempt)).generate_state(1, np.uint64)
    return int(drawn[0]) & MAX_SEED


def stage_options(model, options: Mapping[str, Any]) -> tuple[SemanticOptions, CoarseOptions, FineOptions]:
    """What `generate_many` makes of its keywords."""
    own = {name: value for name, value in options.items() if name not in ("generation_config", "logits_processor")}
    return all_options(model.generation_config, options.get("generation_config"), own)


def most_ids(model, semantic: SemanticOptions) -> int:
    """How many semantic ids the model can make at once."""
    vocabulary = model._vocabulary()
    room = model.semantic.config.block_size - vocabulary.max_input_semantic_length
    limits = room, semantic.max_new_tokens, vocabulary.max_semantic_tokens(semantic.max_duration)
    return min(limit for limit in limits if limit is not None)


class _Trial:
    """The attempts at one task so far; of their results only the best is held."""

    def __init__(self, task: Task):
        self.task = task
        self.attempts: dict[int, dict[str, Any]] = {}
        self.kept = 0
        self.passed = False
        self._best: tuple | None = None
        self._result: Any = None

    def take(self, number: int, result: BarkGenerateOutput, verdict: Verdict | None) -> None:
        self.attempts[number] = {"seed": result.seeds[0], **(asdict(verdict) if verdict else {})}
        key = (*(verdict.key if verdict else ()), number)
        if self._best is None or key < self._best:
            self._best, self._result, self.kept = key, result, number
            self.passed = verdict is None or not verdict.reasons

    def spoken(self) -> Spoken:
        result = self._result
        made = result.semantic_tokens[0], result.coarse_codes[0], result.fine_codes[0]
        return Spoken(
            self.task,
            result.audio[0].float().cpu().numpy(),
            {key: ids.cpu().numpy() for key, ids in zip(KEYS, made, strict=True)},
            result.rates,
            self.kept,
            [self.attempts[number] for number in sorted(self.attempts)],
        )
