"""One text's speech as it comes into being: coarse windows, fine frames and audio, each as soon as it can be made.

Knows nothing of what callers write: options and inputs are checked before they come here."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..codec.streaming import CodecStream
from ..sampling import random_stream
from ..vocabulary import Vocabulary
from .run import Request, Run
from .stages import (
    CoarseJob,
    FineRow,
    FineWindow,
    Progress,
    SemanticJob,
    fill,
    fine_noise,
    run_coarse,
    run_semantic,
)


def stream_audio(run: Run, request: Request, lookahead: int | None, ahead: int | None) -> Iterator[Tensor]:
    """Yields (N_i,) float32 pieces of the waveform.

    lookahead: frames of coarse codes that the fine stage sees behind those that it settles; None: all that it would
    see offline. ahead: semantic ids behind a coarse window before it is made; None: all of them."""
    codec = CodecStream(run.model.codec_model)
    fine = _whole_windows(run, request) if lookahead is None else _growing_windows(run, request, lookahead)
    fine.send(None)
    coarse = _coarse_at_once(run, request) if ahead is None else _coarse_behind(run, request, ahead)
    done = total = 0  # frames

    def report(stage: str, made: Tensor) -> None:
        if run.report is not None and made.numel():
            run.report(Progress(stage, done, total))

    for codes, frames, most in coarse:
        settled = fine.send((codes, frames))
        done, total = done + settled.shape[1], most
        if lookahead is not None:  # whole windows report themselves, pass by pass
            report("fine", settled)
        audio = codec.push(settled)
        report("codec", audio)
        if len(audio):
            yield audio
    audio = codec.end()
    report("codec", audio)
    if len(audio):
        yield audio


def _coarse_at_once(run: Run, request: Request) -> Iterator[tuple[Tensor, int | None, int]]:
    """Coarse codes so far (2, T), how many frames there will be, None where that is not known, and how many at most:
    after each window. All semantic ids are there."""
    (request,) = run.semantic(iter([request]), 1)
    job = CoarseJob(0, request.semantic.cpu(), request.voice, run.coarse_options, run.vocabulary, request.seed)
    if not job.done:
        yield from _windows(run, job)


def _coarse_behind(run: Run, request: Request, ahead: int) -> Iterator[tuple[Tensor, int | None, int]]:
    """The same, as soon as there are `ahead` semantic ids behind a window: it sees no more of what follows."""
    model, vocabulary = run.model.semantic, run.vocabulary
    first = SemanticJob(
        0, request.text, request.voice, run.semantic_options, vocabulary, request.seed, model.config.block_size
    )
    steps = run_semantic(
        run.model.sessions, model, iter([first]), 1, run.semantic_options, vocabulary,
        run.processors["semantic"], run.report, run.look_every, partial=True,
    )  # fmt: skip
    steps = run.streamed("semantic", steps)
    job = _GrowingCoarseJob(first, request.voice, run.coarse_options, vocabulary, request.seed)
    step = run.coarse_options.sliding_window_len

    def catch_up() -> None:
        # a window may end within a frame, and the text, once whole, must not be shorter than what was drawn for it
        while not first.done and vocabulary.coarse_length(max(0, len(first.ids) - ahead)) < job.drawn + step:
            next(steps)
        job.grow(first.ids, first.done)

    catch_up()
    if not job.done:
        for found in _windows(run, job):
            yield found
            catch_up()
    for _ in steps:  # it ends, and its session is kept for the next call
        pass
    request.semantic = first.ids


def _windows(run: Run, job: CoarseJob) -> Iterator[tuple[Tensor, int | None, int]]:
    model, vocabulary = run.model.coarse_acoustics, run.vocabulary
    for _ in run_coarse(
        run.model.sessions, model, iter([job]), 1, run.coarse_options, vocabulary,
        run.processors["coarse"], run.report, partial=True,
    ):  # fmt: skip
        whole = len(job.ids) // vocabulary.n_coarse_codebooks * vocabulary.n_coarse_codebooks
        yield vocabulary.unflatten_ids(job.ids[:whole]), job.frames, job.total // vocabulary.n_coarse_codebooks


class _GrowingCoarseJob(CoarseJob):
    """A coarse job whose semantic ids are still coming."""

    def __init__(self, semantic: SemanticJob, voice, options, vocabulary: Vocabulary, seed: int):
        most = torch.zeros(semantic.total, dtype=torch.long, device="cpu")
        super().__init__(0, most, voice, options, vocabulary, seed)  # noise for as many as there can be
        self.history, self.limit, self.whole = self.semantic[: self.n_semantic_history], self.total, False

    def grow(self, ids: Tensor, whole: bool) -> None:
        """ids (S,): all so far; the next window starts from them."""
        self.semantic, self.whole = torch.cat([self.history, ids]), whole
        if whole and not self.done:
            self.total = min(self.limit, self.vocabulary.coarse_length(len(ids)))
        self.stale = not self.done

    @property
    def frames(self) -> int | None:
        return super().frames if self.whole or self.done else None


def _growing_windows(run: Run, request: Request, lookahead: int):
    """A coroutine: coarse codes so far (2, T) and how many frames there will be -> the next settled codes (8, M).

    A window ends where the coarse codes end. What is settled stays; what follows it in the window is `lookahead`
    frames at least, until the last."""
    vocabulary, model = run.vocabulary, run.model.fine_acoustics
    window, k = vocabulary.max_fine_input_length, vocabulary.n_coarse_codebooks
    row = FineRow(torch.zeros(k, 0, dtype=torch.long, device="cpu"), request.voice, vocabulary)
    history = row.frames[: row.n_history]
    settled, noise = history, _Noise(vocabulary, request.seed)
    coarse, frames = yield
    while True:
        begun = len(settled)
        until = len(history) + coarse.shape[1] - (0 if coarse.shape[1] == frames else lookahead)
        while len(settled) < until:
            waiting = coarse[:, len(settled) - len(history) :].t()
            waiting = nn.functional.pad(waiting, (0, settled.shape[1] - k), value=vocabulary.fine_pad)
            known = torch.cat([settled, waiting])
            start = max(0, min(len(known) - window, len(settled) - vocabulary.max_fine_history_length))
            inside = nn.functional.pad(
                known[start : start + window], (0, 0, 0, max(0, window - len(known))), value=vocabulary.fine_pad
            )
            made = FineWindow(model, inside[None].to(model.device), [len(settled) - start], vocabulary)
            for draws in noise.at(start):
                made.predict(run.fine_options, draws[None], run.processors["fine"])
            settled = torch.cat([settled, made.result()[0][len(settled) - start : until - start]])
        coarse, frames = yield settled[begun:].t()


class _Noise:
    """The draws of offline windows, laid out by frames, so that a frame is drawn alike wherever its window begins."""

    def __init__(self, vocabulary: Vocabulary, seed: int):
        self.vocabulary, self.stream = vocabulary, random_stream(seed, "fine")
        self.hop = vocabulary.max_fine_input_length - vocabulary.max_fine_history_length
        self.drawn = fine_noise(self.stream, vocabulary)  # (passes, frames from the history's begin on)

    def at(self, start: int) -> Tensor:
        """(passes, window) uniforms for the window that begins at frame `start`, history included."""
        end = start + self.vocabulary.max_fine_input_length
        while self.drawn.shape[1] < end:
            more = fine_noise(self.stream, self.vocabulary)
            self.drawn = torch.cat([self.drawn, more[:, -self.hop :]], dim=1)
        return self.drawn[:, start:end]


def _whole_windows(run: Run, request: Request):
    """The same coroutine with offline windows: each is filled when all its coarse codes are there."""
    vocabulary, model = run.vocabulary, run.model.fine_acoustics
    stream, row, loop, given = random_stream(request.seed, "fine"), None, 0, 0
    coarse, frames = yield
    while True:
        if frames is None:  # windows end where the utterance does: its length must be known
            coarse, frames = yield coarse.new_zeros(vocabulary.n_fine_codebooks, 0)
            continue
        if row is None or row.n_frames != frames:  # a stopping criterion may end the codes early
            blank, filled = torch.full((coarse.shape[0], frames), vocabulary.fine_pad, device="cpu"), row
            row = FineRow(blank, request.voice, vocabulary)
            if filled is not None:
                row.frames[: row.n_history + frames] = filled.frames[: row.n_history + frames]
        known = row.n_history + coarse.shape[1]
        row.frames[row.n_history : known, : coarse.shape[0]] = coarse.t()
        while loop < row.loops and (known - row.n_history == frames or known >= row.span(loop)[0] + row.window):
            noise = [fine_noise(stream, vocabulary)]
            fill(model, [row], loop, row.loops, run.fine_options, vocabulary, noise, model.device,
                 run.processors["fine"], run.report)  # fmt: skip
            loop += 1
        settled = frames if loop == row.loops else sum(row.span(loop)) - row.n_history
        given, codes = settled, row.codes[:, given:settled]
        coarse, frames = yield codes
