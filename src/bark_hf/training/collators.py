"""Utterances in, what the network is fed out: the very layout that generation uses, with labels.

Knows nothing of files, models or the Trainer. Prompts, windows and pads come from `generation.stages`, so training
and generation cannot differ. Labels are -100 wherever generation draws nothing."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..generation.options import CoarseOptions
from ..generation.stages import CoarseJob, FineRow, semantic_prompt
from ..vocabulary import Vocabulary
from .utterances import Utterance

IGNORED = -100


@dataclass(frozen=True)
class SemanticCollator:
    """Text, history slot, infer token, then the semantic ids and EOS, which are the labels."""

    vocabulary: Vocabulary
    block_size: int
    pad_to: int | None = None  # a fixed length; by default the longest of the batch

    def __call__(self, examples: list[Utterance]) -> dict[str, Tensor]:
        """-> input_ids (B, 257 + S), history_ids (B, 256), labels (B, 257 + S), to be shifted by the model.

        What exceeds the network's positions is cut; such an example has no EOS."""
        rows, histories, starts = [], [], []
        eos = torch.tensor([self.vocabulary.semantic_pad_token])
        for one in examples:
            text = one.text_ids[: self.vocabulary.max_input_semantic_length]
            prompt = semantic_prompt(text, one.voice, self.vocabulary)
            histories.append(prompt["history_ids"])
            starts.append(len(prompt["input_ids"]))
            rows.append(torch.cat([prompt["input_ids"], one.semantic_ids, eos])[: self.block_size])
        labels = [_labelled(row, len(row) - start) for row, start in zip(rows, starts, strict=True)]
        return {
            "input_ids": _padded(rows, self.vocabulary.semantic_pad_token, self.pad_to),
            "history_ids": torch.stack(histories),
            "labels": _padded(labels, IGNORED, self.pad_to),
        }


@dataclass(frozen=True)
class CoarseCollator:
    """One window of the sliding ones, drawn at random: semantic ids, infer token, history, the ids up to its end.

    All windows before the first that shifts are the beginning of the last of them, so they count as one. All coarse
    ids of the utterance in the window are labels, a voice's are not."""

    vocabulary: Vocabulary
    options: CoarseOptions
    pad_to: int | None = None

    def __call__(self, examples: list[Utterance]) -> dict[str, Tensor]:
        """-> input_ids (B, 257 + history + window), labels of the same shape, to be shifted by the model."""
        windows = [self.window(one, self._draw(one)) for one in examples]
        rows, labelled = zip(*windows, strict=True)
        labels = [_labelled(row, count) for row, count in zip(rows, labelled, strict=True)]
        return {
            "input_ids": _padded(list(rows), self.vocabulary.coarse_semantic_pad_token, self.pad_to),
            "labels": _padded(labels, IGNORED, self.pad_to),
        }

    def window(self, one: Utterance, at: int) -> tuple[Tensor, int]:
        """What the network has been fed when the window that begins at new id number `at` is full, and how many of
        its last ids are the utterance's."""
        job, ids = self._job(one)
        history = self.options.max_coarse_history
        job.coarse, job.drawn = torch.cat([job.coarse, ids[:at]]), at
        new = ids[at : at + self.options.sliding_window_len]
        return torch.cat([job.prompt()["input_ids"], new]), min(at, history) + len(new)

    def starts(self, one: Utterance) -> list[int]:
        """The windows worth drawing: the last that has not shifted, and all that have."""
        job, ids = self._job(one)
        voice, step = len(job.coarse), self.options.sliding_window_len
        starts, shifted = [0], False
        for at in range(step, len(ids), step):
            job.coarse, job.drawn = torch.cat([job.coarse, ids[at - step : at]]), at
            shifted = shifted or voice + at > self.options.max_coarse_history or job.first(at) != job.first(0)
            starts = [*starts, at] if shifted else [at]
        return starts

    def _draw(self, one: Utterance) -> int:
        starts = self.starts(one)
        return starts[int(one.draws.integers(len(starts)))]

    def _job(self, one: Utterance) -> tuple[CoarseJob, Tensor]:
        """The utterance's job, and the ids that it should draw."""
        v = self.vocabulary
        ids = v.flatten_codes(one.codes[: v.n_coarse_codebooks])
        job = CoarseJob(0, one.semantic_ids, one.voice, self.options, v, seed=0)
        return job, ids[: job.total]


@dataclass(frozen=True)
class FineCollator:
    """One of the windows of 1024 frames and one of the codebooks 2..7, drawn at random for each example.

    Codebooks before the drawn one are there, the drawn one is as the pass finds it: known in the history, what an
    earlier window gave in an overlap, else pads. Pads behind a short utterance are filled in generation with whatever
    the network says, and nobody reads it: here they hold random codes, so that the network learns to ignore them.
    Labels are the frames that the window fills. Generation fills an overlap anew with what the network says where it
    sees what an earlier window gave, so that is to be learned as well: to leave it."""

    vocabulary: Vocabulary

    def __call__(self, examples: list[Utterance]) -> dict[str, Tensor]:
        """-> input_ids (B, 1024, K), labels (B, 1024) of codebook_idx (B,), not shifted."""
        v = self.vocabulary
        inputs, labels, codebooks = [], [], []
        for one in examples:
            row = FineRow(one.codes[: v.n_coarse_codebooks], one.voice, v)
            loop = int(one.draws.integers(row.loops))
            codebook = int(one.draws.integers(v.n_coarse_codebooks, v.n_fine_codebooks))
            made, wanted = self.window(one, row, loop, codebook)
            inputs.append(made)
            labels.append(wanted)
            codebooks.append(codebook)
        return {
            "input_ids": torch.stack(inputs),
            "labels": torch.stack(labels),
            "codebook_idx": torch.tensor(codebooks),
        }

    def window(self, one: Utterance, row: FineRow, loop: int, codebook: int) -> tuple[Tensor, Tensor]:
        """The (1024, K) input of one pass of one window, and its labels (1024,)."""
        start, first = row.span(loop)
        before = 0 if loop == 0 else row.span(loop - 1)[0] + row.window  # frames that earlier windows have filled
        end = row.n_history + row.n_frames
        truth = row.frames.clone()
        truth[row.n_history : end] = one.codes[: truth.shape[1], : row.n_frames].t()
        behind = truth[end:, self.vocabulary.n_coarse_codebooks :]
        behind.copy_(torch.from_numpy(one.draws.integers(self.vocabulary.codebook_size, size=behind.shape)))
        at = torch.arange(start, start + row.window)
        new = at >= max(start + first, before)
        frames = truth[at]
        labels = torch.where((at >= start + first) & (at < end), frames[:, codebook], IGNORED)
        frames[new, codebook] = self.vocabulary.fine_pad
        frames[:, codebook + 1 :] = self.vocabulary.fine_pad  # the pass does not read them
        return frames, labels


def _labelled(row: Tensor, count: int) -> Tensor:
    """The ids, all but the last `count` ignored."""
    return torch.cat([row.new_full((len(row) - count,), IGNORED), row[len(row) - count :]])


def _padded(rows: list[Tensor], value: int, width: int | None) -> Tensor:
    """(B, longest or `width`), padded on the right: causality keeps real positions from seeing pads."""
    batch = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
    return batch if width is None else nn.functional.pad(batch, (0, width - batch.shape[1]), value=value)
