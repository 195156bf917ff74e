"""One call's way through the stages: requests in, requests with their tokens and audio out, as they are done.

Knows nothing of what callers write: options and inputs are checked before they come here."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from .generation_stages import CoarseJob, Progress, SemanticJob, run_coarse, run_fine, run_semantic
from .vocabulary import Vocabulary
from .voices import Voice

LOOK_EVERY = 16  # semantic steps between two looks at the stops, where looking makes the device wait


@dataclass
class Request:
    """One text on its way through the stages, which fill in its parts."""

    index: int
    text: Any
    voice: Voice | None
    seed: int
    semantic: Any = None
    coarse: Any = None
    fine: Any = None
    audio: Any = None


class Run:
    """One call: its options, callbacks and vocabulary, and the stages as generators that pull from each other."""

    def __init__(self, model, options: tuple):
        self.model = model
        self.vocabulary = model._vocabulary()
        self.semantic_options, self.coarse_options, self.fine_options = options
        if self.coarse_options is not None:
            _check_coarse_room(model.coarse_acoustics.config, self.coarse_options, self.vocabulary)
        self.processor = self.streamer = self.report = None

    def callbacks(self, logits_processor, streamer) -> None:
        """Takes the caller's callbacks; refuses those that would fail in the middle of a run."""
        if logits_processor is not None and not callable(logits_processor):
            raise TypeError(
                f"`logits_processor` must be a LogitsProcessorList, got {type(logits_processor).__name__}."
            )
        if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
            raise TypeError(f"`streamer` must have `put` and `end`, got {type(streamer).__name__}.")
        self.processor, self.streamer = logits_processor, streamer
        self.report = None if streamer is None else streamer.put

    @property
    def look_every(self) -> int:
        return 1 if self.model.semantic.device.type == "cpu" else LOOK_EVERY

    def end(self) -> None:
        if self.streamer is not None:
            self.streamer.end()

    def speak(self, requests: Iterable[Request], slots: int, together: int) -> Iterator[Request]:
        """All stages; `slots` rows at a time in the causal ones, `together` in the fine one and the codec."""
        yield from self.fine(self.coarse(self.semantic(requests, slots), slots), together, self.model.codec_model)

    def semantic(self, requests: Iterable[Request], slots: int) -> Iterator[Request]:
        model, options, running = self.model.semantic, self.semantic_options, {}

        def jobs():
            for one in requests:
                running[one.index] = one
                yield SemanticJob(
                    one.index, one.text, one.voice, options, self.vocabulary, one.seed, model.config.block_size
                )

        for job in run_semantic(
            self.model.sessions,
            model,
            jobs(),
            slots,
            options,
            self.vocabulary,
            self.processor,
            self.report,
            self.look_every,
        ):
            request = running.pop(job.index)
            request.semantic = job.ids.to(model.device)
            yield request

    def coarse(self, requests: Iterable[Request], slots: int) -> Iterator[Request]:
        model, options, running = self.model.coarse_acoustics, self.coarse_options, {}

        def jobs():
            for one in requests:
                running[one.index] = one
                yield CoarseJob(one.index, one.semantic.cpu(), one.voice, options, self.vocabulary, one.seed)

        for job in run_coarse(
            self.model.sessions, model, jobs(), slots, options, self.vocabulary, self.processor, self.report
        ):
            request = running.pop(job.index)
            request.coarse = job.codes.to(model.device)
            yield request

    def fine(self, requests: Iterable[Request], together: int, codec=None) -> Iterator[Request]:
        """Groups of `together` requests, in the order they come; with a codec also their audio."""
        model, requests = self.model.fine_acoustics, iter(requests)
        while group := list(islice(requests, together)):
            codes = run_fine(
                model, [one.coarse for one in group], [one.voice for one in group], self.fine_options,
                self.vocabulary, [one.seed for one in group], model.device, self.processor, self.report,
            )  # fmt: skip
            codes = [one.to(model.device) for one in codes]
            waves = codec.decode_all(codes) if codec is not None else [None] * len(codes)
            if codec is not None and self.report is not None:
                self.report(Progress("codec", 1, 1))
            for request, one, wave in zip(group, codes, waves, strict=True):
                request.fine, request.audio = one, wave
                yield request


def warn_silent(requests: Iterable[Request]) -> None:
    """Says which texts ended with their first id."""
    silent = [request.index for request in requests if not len(request.semantic)]
    if silent:
        warnings.warn(f"The model ended at once for text {silent}: no audio. Try another seed.", stacklevel=4)


def _check_coarse_room(config, options, vocabulary: Vocabulary) -> None:
    """A full window (semantic ids, infer token, history, all new ids but the last) must have positions."""
    width, block = vocabulary.max_coarse_input_length, config.block_size
    if width + options.max_coarse_history + options.sliding_window_len > block:
        raise ValueError(
            f"`max_coarse_input_length` ({width}) + `max_coarse_history` ({options.max_coarse_history}) + "
            f"`sliding_window_len` ({options.sliding_window_len}) must be at most "
            f"`coarse_acoustics_config.block_size` ({block})."
        )
