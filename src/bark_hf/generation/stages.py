"""The three stages as generators and functions on plain tensors: prompts, windows, histories, fills.

Knows nothing of models' files, of keyword arguments or of audio. Every row is what it would be alone: its own
history, length and random stream; pads are part of the model and windows have the original's fixed sizes."""

from collections.abc import Iterable, Iterator
from math import ceil, floor
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..engine.decoding import not_finite, pick, process, run_jobs
from ..engine.step import has_stock_forward
from ..sampling import random_stream, uniforms
from ..vocabulary import Vocabulary
from .processors import stopping_criteria


class Progress(NamedTuple):
    """What `progress` is called with: a stage's name, how much of it is done, of how much at most, and the new ids."""

    stage: str
    done: int
    total: int
    ids: Tensor | None = None


def semantic_prompt(text: Tensor, voice, vocabulary: Vocabulary) -> dict[str, Tensor]:
    """input_ids (257,): the text padded on the right, the infer token; history_ids (256,), pads without a voice."""
    v, width = vocabulary, vocabulary.max_input_semantic_length
    history = torch.zeros(0, dtype=torch.long, device="cpu")
    if voice is not None:
        history = torch.tensor(voice["semantic_prompt"], device="cpu")[-width:]
    text = nn.functional.pad(v.encode_text(text), (0, width - len(text)), value=v.text_pad_token)
    return {
        "input_ids": nn.functional.pad(text, (0, 1), value=v.semantic_infer_token),
        "history_ids": nn.functional.pad(history, (0, width - len(history)), value=v.semantic_pad_token),
    }


class SemanticJob:
    """One text on its way to semantic ids: 256 text positions plus history, the infer token, then up to 768 ids."""

    def __init__(self, index: int, text: Tensor, voice, options, vocabulary: Vocabulary, seed: int, block_size: int):
        self.index = index
        self.text, self.voice, self.vocabulary = text, voice, vocabulary
        width = vocabulary.max_input_semantic_length + 1
        limits = (options.max_new_tokens, vocabulary.max_semantic_tokens(options.max_duration), block_size - width + 1)
        self.total = min(limit for limit in limits if limit is not None)
        self.end = vocabulary.semantic_vocab_size + options.allow_early_stop  # the last legal id is EOS, or before it
        self.noise = uniforms(random_stream(seed, "semantic"), self.total)
        self.criteria, self.minimum = stopping_criteria(options), options.min_new_tokens or 0
        self.drawn, self.stale, self.done = 0, True, False
        self._ids: list[Tensor] = []

    def prompt(self) -> dict[str, Tensor]:
        self.stale = False
        return semantic_prompt(self.text, self.voice, self.vocabulary)

    def budget(self) -> int:
        return self.total - self.drawn

    def legal(self, draw: int) -> tuple[int, int]:
        return 0, self.end

    def take(self, ids: Tensor, stopped: Tensor) -> None:
        if self.drawn < self.minimum:  # EOS is forbidden there: a probability of 0 may still reach `min_eos_p`
            early = torch.arange(self.drawn, self.drawn + len(ids)) < self.minimum
            stopped = stopped & ~(early & (ids != self.vocabulary.semantic_pad_token))
        ends = stopped.nonzero().flatten().tolist()
        self._ids.append(ids[: ends[0]] if ends else ids)
        self.drawn += len(ids)
        self.done = bool(ends) or self.drawn == self.total or _met(self.criteria, self.ids)

    @property
    def ids(self) -> Tensor:
        return torch.cat(self._ids) if self._ids else torch.zeros(0, dtype=torch.long, device="cpu")


class CoarseJob:
    """Semantic ids on their way to coarse codes, in sliding windows: history and new ids so far are the next input."""

    def __init__(self, index: int, semantic: Tensor, voice, options, vocabulary: Vocabulary, seed: int):
        self.index = index
        self.vocabulary, self.options = vocabulary, options
        self.total = vocabulary.coarse_length(len(semantic))
        if options.max_new_tokens is not None:
            k = vocabulary.n_coarse_codebooks
            self.total = min(self.total, options.max_new_tokens // k * k)
        self.noise = uniforms(random_stream(seed, "coarse"), self.total)
        self.criteria = stopping_criteria(options)
        history, self.coarse = self._history(voice)
        self.n_semantic_history, self.n_coarse_history = len(history), len(self.coarse)
        self.semantic = torch.cat([history, semantic])
        self.drawn = self.window_end = 0
        self.stale = True

    def _history(self, voice) -> tuple[Tensor, Tensor]:
        """The kept ends of a voice; the last frame goes, for time alignment, as in the original."""
        if voice is None:
            return torch.zeros(0, dtype=torch.long, device="cpu"), torch.zeros(0, dtype=torch.long, device="cpu")
        v, semantic = self.vocabulary, torch.tensor(voice["semantic_prompt"], device="cpu")
        coarse = v.flatten_codes(torch.tensor(voice["coarse_prompt"], device="cpu"))
        n_semantic = min(
            v.max_semantic_history(self.options.max_coarse_history),
            len(semantic) - len(semantic) % 2,
            floor(len(coarse) / v.ratio),
        )
        n_coarse = round(n_semantic * v.ratio)
        kept = coarse[len(coarse) - n_coarse :][: -v.n_coarse_codebooks]
        return semantic[len(semantic) - n_semantic :], kept

    def first(self, draw: int) -> int:
        """The first semantic id that the window which begins at draw number `draw` sees."""
        at = self.n_semantic_history + round(draw / self.vocabulary.ratio)
        return max(0, at - self.vocabulary.max_semantic_history(self.options.max_coarse_history))

    def prompt(self) -> dict[str, Tensor]:
        """input_ids (256 + 1 + history,): semantic ids padded on the right, the infer token, the last coarse ids."""
        v = self.vocabulary
        self.stale = False
        self.window_end = self.drawn + self.options.sliding_window_len
        semantic = self.semantic[self.first(self.drawn) :][: v.max_coarse_input_length]
        pad = v.max_coarse_input_length - len(semantic)
        semantic = nn.functional.pad(semantic, (0, pad), value=v.coarse_semantic_pad_token)
        infer = torch.tensor([v.coarse_infer_token], device="cpu")
        return {"input_ids": torch.cat([semantic, infer, self.coarse[-self.options.max_coarse_history :]])}

    def budget(self) -> int:
        return min(self.window_end, self.total) - self.drawn

    def legal(self, draw: int) -> tuple[int, int]:
        """Step parity is global: the utterance's first new id is codebook 0."""
        return self.vocabulary.coarse_range(draw)

    def take(self, ids: Tensor, stopped: Tensor) -> None:
        self.coarse = torch.cat([self.coarse, ids])
        begun = self.window_end - self.options.sliding_window_len
        self.drawn += len(ids)
        if _met(self.criteria, self.ids):  # whole frames are kept
            self.total = self.drawn = (
                self.drawn // self.vocabulary.n_coarse_codebooks * self.vocabulary.n_coarse_codebooks
            )
            self.coarse = self.coarse[: self.n_coarse_history + self.total]
        if self.drawn == self.window_end and not self.done:
            # where nothing is cut or shifted, the next window's input is the cache's content with ids appended
            same = self.first(self.drawn) == self.first(begun)
            if same and len(self.coarse) <= self.options.max_coarse_history:
                self.window_end += self.options.sliding_window_len
            else:
                self.stale = True

    @property
    def done(self) -> bool:
        return self.drawn == self.total

    @property
    def frames(self) -> int | None:
        """How many there will be; None where that is not known yet."""
        return self.total // self.vocabulary.n_coarse_codebooks

    @property
    def ids(self) -> Tensor:
        return self.coarse[self.n_coarse_history :]

    @property
    def codes(self) -> Tensor:
        return self.vocabulary.unflatten_ids(self.ids)


def _met(criteria, ids: Tensor) -> bool:
    """Whether one row's stopping criteria end it after its last id, which is kept."""
    return criteria is not None and bool(criteria(ids[None], None).any())


def run_semantic(
    sessions, model, jobs: Iterable[SemanticJob], slots: int, options, vocabulary: Vocabulary,
    processor=None, report=None, look_every: int = 1, partial: bool = False,
) -> Iterator[SemanticJob]:  # fmt: skip
    """Yields the jobs as they end, each with its `ids`; with `partial` also whenever one has new ids."""
    eos = vocabulary.semantic_pad_token if options.allow_early_stop else None
    every = 1 if options.has_criteria else look_every if partial or eos is not None else None
    yield from run_jobs(
        sessions, model, jobs, slots, model.config.block_size, options,
        eos=eos, logits_processor=processor, report=_reporter("semantic", report),
        look_every=every, partial=partial,
    )  # fmt: skip


def run_coarse(sessions, model, jobs: Iterable[CoarseJob], slots: int, options, vocabulary: Vocabulary,
               processor=None, report=None, look_every: int | None = None,
               partial: bool = False) -> Iterator[CoarseJob]:  # fmt: skip
    """Yields the jobs as they end, each with its `codes`; with `partial` also after every window."""
    capacity = vocabulary.max_coarse_input_length + options.max_coarse_history + options.sliding_window_len
    yield from run_jobs(
        sessions, model, jobs, slots, capacity, options,
        logits_processor=processor, report=_reporter("coarse", report),
        look_every=1 if options.has_criteria else look_every, partial=partial,
    )  # fmt: skip


def _reporter(stage: str, report):
    if report is None:
        return None

    def reporter(jobs, ahead: int, ids: Tensor) -> None:
        # a copy: the next ids are drawn from, and may be written over, those given here
        report(Progress(stage, max(job.drawn for job in jobs) + ahead, max(job.total for job in jobs), ids.clone()))

    return reporter


class FineRow:
    """One utterance on its way through the fine windows: frames (T, 8) with history in front, pads at the end."""

    def __init__(self, coarse: Tensor, voice, vocabulary: Vocabulary):
        v = vocabulary
        self.n_frames = coarse.shape[1]
        self.window, self.hop = v.max_fine_input_length, v.max_fine_input_length - v.max_fine_history_length
        frames = torch.full((self.n_frames, v.n_fine_codebooks), v.fine_pad, dtype=torch.long, device="cpu")
        frames[:, : v.n_coarse_codebooks] = coarse.t()
        if voice is not None:
            history = torch.tensor(voice["fine_prompt"], device="cpu")[:, -v.max_fine_history_length :].t()
            frames = torch.cat([history, frames])
        self.n_history = len(frames) - self.n_frames
        self.frames = nn.functional.pad(frames, (0, 0, 0, max(0, self.window - len(frames))), value=v.fine_pad)
        self.loops = 0
        if self.n_frames:
            self.loops = max(0, ceil((self.n_frames - (self.window - self.n_history)) / self.hop)) + 1

    def span(self, loop: int) -> tuple[int, int]:
        """First frame of the loop's window, and the first frame inside it that is predicted."""
        start = min(loop * self.hop, len(self.frames) - self.window)
        fill = min(self.n_history + loop * self.hop, len(self.frames) - self.hop)
        return start, fill - start

    @property
    def codes(self) -> Tensor:
        return self.frames[self.n_history :][: self.n_frames].t()


def run_fine(
    model, coarse: list[Tensor], voices: list, options, vocabulary: Vocabulary, seeds, device,
    processor=None, report=None,
) -> list[Tensor]:  # fmt: skip
    """Codes (2, T_i) and voices or None -> list of (8, T_i) codes, in windows of 1024 frames and six passes each."""
    rows = [FineRow(c.cpu(), voice, vocabulary) for c, voice in zip(coarse, voices, strict=True)]
    streams = [random_stream(seed, "fine") for seed in seeds]
    loops = max(row.loops for row in rows)
    for loop in range(loops):
        active = [i for i, row in enumerate(rows) if row.loops > loop]
        noise = [fine_noise(streams[i], vocabulary) for i in active]
        fill(model, [rows[i] for i in active], loop, loops, options, vocabulary, noise, device, processor, report)
    return [row.codes for row in rows]


def fine_noise(stream, vocabulary: Vocabulary) -> Tensor:
    """The next window's uniforms, (passes, frames)."""
    passes = vocabulary.n_fine_codebooks - vocabulary.n_coarse_codebooks
    return torch.stack([uniforms(stream, vocabulary.max_fine_input_length) for _ in range(passes)])


def fill(
    model, rows: list[FineRow], loop: int, loops: int, options, vocabulary: Vocabulary, noise: list[Tensor], device,
    processor=None, report=None,
) -> None:  # fmt: skip
    """Predicts window number `loop` of rows that have one."""
    spans = [row.span(loop) for row in rows]
    frames = [row.frames[start:][: row.window] for row, (start, _) in zip(rows, spans, strict=True)]
    window = FineWindow(model, torch.stack(frames).to(device), [first for _, first in spans], vocabulary)
    draws = torch.stack(noise, dim=1)  # (passes, B, frames)
    for done, one in enumerate(draws, start=1):
        window.predict(options, one, processor)
        if report is not None:
            report(Progress("fine", loop * len(draws) + done, loops * len(draws)))
    for row, (start, first), made in zip(rows, spans, window.result(), strict=True):
        row.frames[start + first : start + row.window] = made[first:]


class FineWindow:
    """A batch of windows (B, 1024, 8) being filled codebook by codebook, row i from its frame `firsts[i]` on.

    The input of a pass is the sum of the tables up to its codebook. What is final of it is kept: a pass adds the
    codebook at its old ids, then its new ids settle."""

    def __init__(self, model, frames: Tensor, firsts: list[int], vocabulary: Vocabulary):
        self.model, self.frames, self.vocabulary = model, frames, vocabulary
        self.codebook = vocabulary.n_coarse_codebooks
        self.used = frames.shape[1] - min(firsts)  # the last frames, which some row fills
        at = torch.arange(frames.shape[1] - self.used, frames.shape[1], device="cpu")
        self.filled = (at >= torch.tensor(firsts, device="cpu")[:, None]).to(frames.device)
        self.settled: Tensor | None = None
        # a hook may move the tables only for the model's own forward, and another forward wants its own input
        if has_stock_forward(model) and has_stock_forward(model.input_embeds_layers):
            self.settled = model.input_embeds_layers(frames, self.codebook - 1)

    def predict(self, options, noise: Tensor, processor=None) -> None:
        """Draws the next codebook from (B, 1024) uniforms."""
        size, used, codebook = self.vocabulary.codebook_size, self.used, self.codebook
        inputs = {"input_ids": self.frames}
        if self.settled is not None:
            inputs = {"inputs_embeds": self.settled + self._table(codebook)}
        scores = self.model(
            codebook_idx=codebook,
            **inputs,
            logits_to_keep=used,
            logits_range=(0, size) if processor is None else None,
            return_dict=True,
        ).logits.float()
        if processor is not None:  # a frame is a row whose generated ids are its earlier codebooks
            earlier = self.frames[:, -used:, :codebook].flatten(0, 1)
            scores = process(scores.flatten(0, 1), 0, size, processor, earlier).view_as(scores)
        ids, _ = pick(scores[..., :size], options, noise[:, -used:])
        old = self.frames[:, -used:, codebook]
        old.copy_(torch.where(self.filled, ids.to(old.device), old))
        if self.settled is not None:
            self.settled = self.settled + self._table(codebook)
        self.codebook += 1

    def result(self) -> Tensor:
        """The frames so far, on the CPU. Raises RuntimeError where the network gave NaN."""
        frames = self.frames.cpu()
        given = self.vocabulary.n_coarse_codebooks
        made = frames[:, -self.used :, given : self.codebook][self.filled.cpu()]  # (N, codebooks made)
        broken = (made >= self.vocabulary.codebook_size).any(0).nonzero()
        if len(broken):
            raise not_finite(self.model, f"codebook {given + int(broken[0])}")
        return frames

    def _table(self, codebook: int) -> Tensor:
        return self.model.input_embeds_layers[codebook](self.frames[..., codebook])
