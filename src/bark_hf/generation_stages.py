"""The three stages as generators and functions on plain tensors: prompts, windows, histories, fills.

Knows nothing of models' files, of keyword arguments or of audio. Every row is what it would be alone: its own
history, length and random stream; pads are part of the model and windows have the original's fixed sizes."""

from collections.abc import Iterator
from math import ceil, floor
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .decoding import DecodeSession, Step, decode, pick, process
from .sampling import random_stream, uniforms
from .vocabulary import Vocabulary


class Progress(NamedTuple):
    """What a streamer's `put` gets: the stage's name, how much of it is done, of how much at most, and the new ids."""

    stage: str
    done: int
    total: int
    ids: Tensor | None = None


def semantic_prompt(texts: list[Tensor], histories: list[Tensor | None], vocabulary: Vocabulary, device):
    """Text ids (L_i,) of at most 256 and semantic histories or None -> input_ids (B, 257) and history_ids (B, 256)."""
    width = vocabulary.max_input_semantic_length
    input_ids = torch.full((len(texts), width + 1), vocabulary.text_pad_token, dtype=torch.long)
    history_ids = torch.full((len(texts), width), vocabulary.semantic_pad_token, dtype=torch.long)
    for row, (text, history) in enumerate(zip(texts, histories, strict=True)):
        input_ids[row, : len(text)] = text
        if history is not None:
            kept = history[-width:]
            history_ids[row, : len(kept)] = kept
    input_ids[:, -1] = vocabulary.semantic_infer_token
    return input_ids.to(device), history_ids.to(device)


def semantic_limit(model, input_ids: Tensor, options, vocabulary: Vocabulary) -> int:
    """How many ids there can be at most: by number, by duration and by the model's positions."""
    limits = (options.max_new_tokens, vocabulary.max_semantic_tokens(options.max_duration))
    room = model.config.block_size - input_ids.shape[1] + 1
    return min(limit for limit in (*limits, room) if limit is not None)


def semantic_steps(
    model, input_ids: Tensor, history_ids: Tensor, options, vocabulary: Vocabulary, seeds: list[int], processor=None
) -> Iterator[Step]:
    """Draws semantic ids, one step for all rows, until the step limit; rows that stopped go on unread."""
    steps = semantic_limit(model, input_ids, options, vocabulary)
    eos = vocabulary.semantic_pad_token if options.allow_early_stop else None
    end = vocabulary.semantic_vocab_size + (eos is not None)
    noise = torch.stack([uniforms(random_stream(seed, "semantic"), steps) for seed in seeds]).to(input_ids.device)
    session = DecodeSession(model, input_ids.shape[1] + steps)
    logits = session.prefill(input_ids, history_ids=history_ids)
    ranges = [(0, end)] * steps
    yield from decode(
        session, logits, ranges, options, noise, eos=eos, min_eos_p=options.min_eos_p, logits_processor=processor
    )


def run_semantic(
    model, input_ids: Tensor, history_ids: Tensor, options, vocabulary: Vocabulary, seeds, processor=None, report=None
) -> list[Tensor]:
    """Drains `semantic_steps` -> list of (S_i,) ids, without EOS."""
    rows = len(seeds)
    total = semantic_limit(model, input_ids, options, vocabulary)
    lengths: list[int | None] = [None] * rows
    drawn = []
    for step, (ids, stopped) in enumerate(
        semantic_steps(model, input_ids, history_ids, options, vocabulary, seeds, processor)
    ):
        drawn.append(ids)
        for row in stopped.nonzero().flatten().tolist():
            lengths[row] = step if lengths[row] is None else lengths[row]
        if report is not None:
            report(Progress("semantic", step + 1, total, ids))
        if None not in lengths:
            break
    tokens = torch.stack(drawn, dim=1)
    return [tokens[row, : tokens.shape[1] if length is None else length] for row, length in enumerate(lengths)]


class CoarseRow:
    """One utterance on its way through the coarse windows: semantic ids and coarse ids, history in front."""

    def __init__(self, semantic: Tensor, voice, options, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self.max_history = options.max_coarse_history
        self.total = vocabulary.coarse_length(len(semantic))
        if options.max_new_tokens is not None:
            k = vocabulary.n_coarse_codebooks
            self.total = min(self.total, options.max_new_tokens // k * k)
        history, self.coarse = self._history(voice)
        self.n_semantic_history, self.n_coarse_history = len(history), len(self.coarse)
        self.semantic = torch.cat([history, semantic])

    def _history(self, voice) -> tuple[Tensor, Tensor]:
        """The kept ends of a voice; the last frame goes, for time alignment, as in the original."""
        if voice is None:
            return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
        v, semantic = self.vocabulary, torch.tensor(voice["semantic_prompt"])
        coarse = v.flatten_codes(torch.tensor(voice["coarse_prompt"]))
        n_semantic = min(
            v.max_semantic_history(self.max_history),
            len(semantic) - len(semantic) % 2,
            floor(len(coarse) / v.ratio),
        )
        n_coarse = round(n_semantic * v.ratio)
        kept = coarse[len(coarse) - n_coarse :][: -v.n_coarse_codebooks]
        return semantic[len(semantic) - n_semantic :], kept

    def window(self, n_done: int) -> Tensor:
        """(256 + 1 + history,) input of the window that begins after `n_done` new ids."""
        v = self.vocabulary
        at = self.n_semantic_history + round(n_done / v.ratio)
        first = max(0, at - v.max_semantic_history(self.max_history))
        semantic = self.semantic[first:][: v.max_coarse_input_length]
        pad = v.max_coarse_input_length - len(semantic)
        return torch.cat(
            [
                nn.functional.pad(semantic, (0, pad), value=v.coarse_semantic_pad_token),
                torch.tensor([v.coarse_infer_token]),
                self.coarse[-self.max_history :],
            ]
        )

    @property
    def codes(self) -> Tensor:
        return self.vocabulary.unflatten_ids(self.coarse[self.n_coarse_history :][: self.total])


def coarse_windows(
    model, rows: list[CoarseRow], options, vocabulary: Vocabulary, seeds: list[int], device,
    processor=None, report=None,
) -> Iterator[int]:  # fmt: skip
    """Extends every unfinished row by one window at a time; yields the number of new ids done, rows hold the ids.

    All rows are at the same step of their own utterance, so the codebook parity is one for all: step 0 is codebook 0.
    """
    noise = [uniforms(random_stream(seed, "coarse"), max(row.total, 1)) for row, seed in zip(rows, seeds, strict=True)]
    longest = max(row.total for row in rows)
    done = 0
    while done < longest:
        active = [i for i, row in enumerate(rows) if row.total > done]
        steps = min(options.sliding_window_len, max(rows[i].total for i in active) - done)
        windows = [rows[i].window(done) for i in active]
        lengths = [len(window) for window in windows]
        prompt = nn.utils.rnn.pad_sequence(windows, batch_first=True).to(device)
        session = DecodeSession(model, max(lengths) + steps)
        draws = nn.utils.rnn.pad_sequence([noise[i][done : done + steps] for i in active], batch_first=True)
        draws = nn.functional.pad(draws, (0, steps - draws.shape[1])).to(device)
        generated = None
        if processor is not None:
            generated = torch.stack([_new_ids(rows[i], done) for i in active]).to(device)
        ranges = [vocabulary.coarse_range(done + step) for step in range(steps)]
        new = []
        for ids, _ in decode(
            session, session.prefill(prompt, lengths), ranges, options, draws,
            logits_processor=processor, generated=generated,
        ):  # fmt: skip
            new.append(ids)
            if report is not None:
                report(Progress("coarse", done + len(new), longest, ids))
        for i, ids in zip(active, torch.stack(new, dim=1).cpu(), strict=True):
            rows[i].coarse = torch.cat([rows[i].coarse, ids])
        done += steps
        yield done


def _new_ids(row: CoarseRow, done: int) -> Tensor:
    return row.coarse[row.n_coarse_history :][:done]


def run_coarse(
    model, semantic: list[Tensor], voices: list, options, vocabulary: Vocabulary, seeds, device,
    processor=None, report=None,
) -> list[Tensor]:  # fmt: skip
    """Semantic ids (S_i,) and voices or None -> list of (2, T_i) codes."""
    rows = [CoarseRow(s.cpu(), voice, options, vocabulary) for s, voice in zip(semantic, voices, strict=True)]
    for _ in coarse_windows(model, rows, options, vocabulary, seeds, device, processor, report):
        pass
    return [row.codes for row in rows]


class FineRow:
    """One utterance on its way through the fine windows: frames (T, 8) with history in front, pads at the end."""

    def __init__(self, coarse: Tensor, voice, vocabulary: Vocabulary):
        v = vocabulary
        self.n_frames = coarse.shape[1]
        self.window, self.hop = v.max_fine_input_length, v.max_fine_input_length - v.max_fine_history_length
        frames = torch.full((self.n_frames, v.n_fine_codebooks), v.fine_pad, dtype=torch.long)
        frames[:, : v.n_coarse_codebooks] = coarse.t()
        if voice is not None:
            history = torch.tensor(voice["fine_prompt"])[:, -v.max_fine_history_length :].t()
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
    given, total = vocabulary.n_coarse_codebooks, vocabulary.n_fine_codebooks
    loops = max(row.loops for row in rows)
    for loop in range(loops):
        active = [i for i, row in enumerate(rows) if row.loops > loop]
        spans = [rows[i].span(loop) for i in active]
        window = torch.stack(
            [rows[i].frames[start : start + rows[i].window] for i, (start, _) in zip(active, spans, strict=True)]
        ).to(device)
        filled = torch.arange(window.shape[1]) >= torch.tensor([first for _, first in spans])[:, None]
        filled = filled.to(device)
        for codebook in range(given, total):
            noise = torch.stack([uniforms(streams[i], window.shape[1]) for i in active])
            window = _fine_pass(model, window, codebook, filled, options, vocabulary.codebook_size, noise, processor)
            if report is not None:
                done = loop * (total - given) + codebook - given + 1
                report(Progress("fine", done, loops * (total - given)))
        for i, (start, first), frames in zip(active, spans, window.cpu(), strict=True):
            rows[i].frames[start + first : start + rows[i].window] = frames[first:]
    return [row.codes for row in rows]


def _fine_pass(model, window, codebook, filled, options, codebook_size, noise, processor) -> Tensor:
    """(B, 1024, 8) -> the same with codebook `codebook` predicted where `filled` (B, 1024)."""
    scores = model(codebook_idx=codebook, input_ids=window, return_dict=True).logits.float()
    if processor is not None:  # a frame is a row whose generated ids are its earlier codebooks
        flat = process(scores.flatten(0, 1), 0, codebook_size, processor, window[..., :codebook].flatten(0, 1))
        scores = flat.view_as(scores)
    ids, _ = pick(scores[..., :codebook_size], options, noise)
    window = window.clone()
    window[..., codebook] = torch.where(filled, ids.to(window.device), window[..., codebook])
    return window
