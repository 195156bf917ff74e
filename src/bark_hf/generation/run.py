"""One call's way through the stages: requests in, requests with their tokens and audio out, as they are done.

Knows nothing of what callers write: options and inputs are checked before they come here."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..vocabulary import Vocabulary
from ..voices.voice import Voice
from .processors import check_named_ids, frame_processor, sequence_processor
from .stages import CoarseJob, Progress, SemanticJob, run_coarse, run_fine, run_semantic

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
    """One call: its options, callbacks and vocabulary, and the stages as generators that pull from each other.

    A call of one stage has no options for the others. Its streamer gets the ids of the first stage that it runs."""

    def __init__(self, model, options: tuple):
        self.model = model
        self.vocabulary = v = model._vocabulary()
        self.semantic_options, self.coarse_options, self.fine_options = options
        if self.coarse_options is not None:
            _check_coarse_room(model.coarse_acoustics.config, self.coarse_options, v)
        ranges = {
            "semantic": (0, v.semantic_pad_token + 1),
            "coarse": (v.coarse_range(0)[0], v.coarse_range(v.n_coarse_codebooks - 1)[1]),
            "fine": (0, v.codebook_size),
        }
        for (stage, ids), own in zip(ranges.items(), options, strict=True):
            if own is not None:
                check_named_ids(own, stage, *ids)
        self.processors: dict[str, Any] = {}
        self.streamer: Any = None
        self.report: Any = None
        self._prompt = torch.zeros(0, dtype=torch.long)
        self.streamed_stage = "coarse" if self.semantic_options is None else "semantic"

    def callbacks(self, logits_processor=None, streamer=None, progress=None) -> None:
        """Takes the caller's callbacks; refuses those that would fail in the middle of a run."""
        if logits_processor is not None and not callable(logits_processor):
            raise TypeError(
                f"`logits_processor` must be a LogitsProcessorList, got {type(logits_processor).__name__}."
            )
        if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
            raise TypeError(
                f"`streamer` must have `put` and `end`, as transformers' streamers have, got "
                f"{type(streamer).__name__}. A function that takes `Progress` tuples is for `progress`."
            )
        if progress is not None and not callable(progress):
            raise TypeError(f"`progress` must be a function of `Progress` tuples, got {type(progress).__name__}.")
        self.streamer, self.report = streamer, progress
        eos = self.vocabulary.semantic_pad_token
        if self.semantic_options is not None:
            self.processors["semantic"] = sequence_processor(self.semantic_options, logits_processor, eos)
        if self.coarse_options is not None:
            self.processors["coarse"] = sequence_processor(self.coarse_options, logits_processor)
        if self.fine_options is not None:
            self.processors["fine"] = frame_processor(self.fine_options, logits_processor)

    def follow(self, rows: list[Tensor]) -> None:
        """Keeps the only row's prompt (L,) for the streamer. Raises ValueError where there are several rows."""
        if self.streamer is None:
            return
        if len(rows) != 1:
            raise ValueError(
                f"`streamer` follows one row, got {len(rows)} (texts x `num_return_sequences`): make one call for "
                "each, or use `progress`."
            )
        masked = self.vocabulary.text_pad_token - self.vocabulary.text_encoding_offset
        self._prompt = rows[0] if self.streamed_stage == "coarse" else rows[0][rows[0] != masked]

    def streams(self, stage: str) -> bool:
        return self.streamer is not None and stage == self.streamed_stage

    def streamed(self, stage: str, jobs: Iterable[Any]) -> Iterator[Any]:
        """The same jobs. The streamer gets the prompt (1, L), then each new id of the only row (1,), then its end."""
        if not self.streams(stage):
            yield from jobs
            return
        self.streamer.put(self._prompt[None].clone())
        count = 0
        for job in jobs:
            for one in job.ids[count:]:
                self.streamer.put(one[None].clone())
            count = len(job.ids)
            if job.done:
                self.streamer.end()
            yield job

    @property
    def look_every(self) -> int:
        on_cpu = self.model.semantic.device.type == "cpu"
        return 1 if on_cpu or self.streamer is not None else LOOK_EVERY

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

        steps = run_semantic(
            self.model.sessions, model, jobs(), slots, options, self.vocabulary,
            self.processors["semantic"], self.report, self.look_every, partial=self.streams("semantic"),
        )  # fmt: skip
        for job in self.streamed("semantic", steps):
            if job.done:
                request = running.pop(job.index)
                request.semantic = job.ids.to(model.device)
                yield request

    def coarse(self, requests: Iterable[Request], slots: int) -> Iterator[Request]:
        model, options, running = self.model.coarse_acoustics, self.coarse_options, {}

        def jobs():
            for one in requests:
                running[one.index] = one
                yield CoarseJob(one.index, one.semantic.cpu(), one.voice, options, self.vocabulary, one.seed)

        streams = self.streams("coarse")
        steps = run_coarse(
            self.model.sessions, model, jobs(), slots, options, self.vocabulary,
            self.processors["coarse"], self.report, 1 if streams else None, partial=streams,
        )  # fmt: skip
        for job in self.streamed("coarse", steps):
            if job.done:
                request = running.pop(job.index)
                request.coarse = job.codes.to(model.device)
                yield request

    def fine(self, requests: Iterable[Request], together: int, codec=None) -> Iterator[Request]:
        """Groups of `together` requests, in the order they come; with a codec also their audio."""
        model, requests = self.model.fine_acoustics, iter(requests)
        while group := list(islice(requests, together)):
            codes = run_fine(
                model, [one.coarse for one in group], [one.voice for one in group], self.fine_options,
                self.vocabulary, [one.seed for one in group], model.device, self.processors["fine"], self.report,
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
