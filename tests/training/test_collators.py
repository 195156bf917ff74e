"""What the collators build is what generation would feed the network; a stage's loss is the cross entropy of that."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn

from bark_hf.engine.decoding import SessionPool
from bark_hf.generation.options import CoarseOptions, FineOptions, SemanticOptions
from bark_hf.generation.stages import CoarseJob, FineRow, SemanticJob, run_coarse, run_fine, run_semantic
from bark_hf.training.collators import IGNORED, CoarseCollator, FineCollator, SemanticCollator
from bark_hf.training.utterances import Utterances, of_use
from bark_hf.vocabulary import Vocabulary

BLOCK = 1024


@pytest.fixture(scope="module")
def vocabulary(small):
    return Vocabulary.of(small.model.generation_config)


def row(vocabulary, semantic: int, speaker: str | None = None, seed: int = 0) -> dict:
    """One row of a tokenized dataset with `semantic` ids."""
    random = np.random.default_rng((seed, semantic))
    frames = vocabulary.coarse_length(semantic) // vocabulary.n_coarse_codebooks
    return {
        "text_ids": random.integers(1, 300, 9).tolist(),
        "semantic_ids": random.integers(0, vocabulary.semantic_vocab_size, semantic).tolist(),
        "codes": random.integers(0, vocabulary.codebook_size, (8, frames)).tolist(),
        "speaker": speaker,
    }


def examples(vocabulary, *lengths: int, history_share: float = 1.0, epoch: int = 0, speaker: str | None = "a"):
    """An utterance of each length, with a piece of another of them as history."""
    rows = [row(vocabulary, length, speaker) for length in lengths]
    utterances = Utterances(rows, vocabulary, history_share=history_share, seed=3)
    utterances.set_epoch(epoch)
    return [utterances[i] for i in range(len(rows))]


class Teacher(nn.Module):
    """A causal model that always draws the next of the given ids, and remembers what each window was fed."""

    def __init__(self, ids: torch.Tensor, size: int):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))  # something that has a device and a type
        self.config = SimpleNamespace(block_size=BLOCK)
        self.ids, self.size, self.drawn = ids.tolist(), size, 0
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.windows: list[tuple[int, list[int], torch.Tensor | None]] = []  # first draw, what was fed, history

    def forward(self, input_ids, cache, logits_range, history_ids=None, **kwargs):
        if cache.limit == input_ids.shape[1]:
            self.windows.append((self.drawn, [], history_ids))
        self.windows[-1][1].extend(input_ids[0].tolist())
        scores = torch.zeros(1, 1, self.size)
        scores[..., self.ids[self.drawn]] = 50.0
        self.drawn += 1
        first, end = logits_range
        return SimpleNamespace(logits=scores[..., first:end])


@pytest.mark.parametrize("length", [1, 7, 120, 700])
def test_semantic_examples_are_what_generation_feeds(vocabulary, length):
    one, _ = examples(vocabulary, length, 50)
    assert one.voice is not None
    batch = SemanticCollator(vocabulary, BLOCK)([one])
    wanted = torch.cat([one.semantic_ids, torch.tensor([vocabulary.semantic_pad_token])])
    teacher = Teacher(wanted, vocabulary.semantic_pad_token + 1)
    job = SemanticJob(0, one.text_ids, one.voice, SemanticOptions(), vocabulary, 0, BLOCK)
    (done,) = run_semantic(SessionPool(), teacher, [job], 1, SemanticOptions(), vocabulary)
    assert torch.equal(done.ids, one.semantic_ids)
    ((_, fed, history),) = teacher.windows
    assert batch["input_ids"][0, :-1].tolist() == fed  # EOS itself is never fed
    assert torch.equal(batch["history_ids"], history)
    assert batch["labels"][0, 257:].tolist() == wanted.tolist()
    assert (batch["labels"][0, :257] == IGNORED).all()


def test_semantic_rows_of_a_batch_are_padded_behind_and_cut_to_the_positions_there_are(vocabulary):
    short, long = examples(vocabulary, 20, 900)
    collator = SemanticCollator(vocabulary, BLOCK)
    batch, alone = collator([short, long]), collator([short])
    assert batch["input_ids"].shape == batch["labels"].shape == (2, BLOCK)
    width = alone["input_ids"].shape[1]
    assert torch.equal(batch["input_ids"][0, :width], alone["input_ids"][0])
    assert (batch["labels"][0, width:] == IGNORED).all()
    assert vocabulary.semantic_pad_token not in batch["labels"][1]  # cut: no end is learned
    assert SemanticCollator(vocabulary, BLOCK, pad_to=BLOCK)([short])["input_ids"].shape == (1, BLOCK)


@pytest.mark.parametrize("history_share", [0.0, 1.0])
@pytest.mark.parametrize("length", [2, 41, 150, 211, 400, 700])
def test_coarse_windows_are_what_generation_feeds(vocabulary, length, history_share):
    one, _ = examples(vocabulary, length, 300, history_share=history_share)
    assert (one.voice is None) == (history_share == 0)
    options = CoarseOptions()
    collator = CoarseCollator(vocabulary, options)
    ids = vocabulary.flatten_codes(one.codes[:2])
    teacher = Teacher(ids, vocabulary.coarse_range(1)[1])
    job = CoarseJob(0, one.semantic_ids, one.voice, options, vocabulary, 0)
    (done,) = run_coarse(SessionPool(), teacher, [job], 1, options, vocabulary)
    assert torch.equal(done.codes, one.codes[:2])
    fed = {first: window for first, window, _ in teacher.windows}
    covered = set()
    starts = collator.starts(one)
    for at in starts:
        window, labelled = collator.window(one, at)
        covered |= set(range(at + min(60, len(ids) - at) - labelled, at + min(60, len(ids) - at)))
        first = max(begun for begun in fed if begun <= at)  # its cache was kept while nothing shifted
        assert fed[first][: len(window) - 1] == window.tolist()[:-1]
        assert window[-labelled:].tolist() == ids[: at + 60][-labelled:].tolist()
        assert (window[-labelled:] >= vocabulary.semantic_vocab_size).all()
    assert covered == set(range(len(ids)))  # every id is a label in some window
    assert len(starts) == len(fed)  # windows that shift, and one for all before


def test_coarse_batches_label_the_utterance_and_nothing_else(vocabulary):
    batch = CoarseCollator(vocabulary, CoarseOptions())(examples(vocabulary, 30, 300, epoch=5))
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        assert torch.equal(labels[labels != IGNORED], ids[labels != IGNORED])
        assert (labels[:257] == IGNORED).all()


class FineTeacher(nn.Module):
    """Predicts the given codes, and code 0 behind them; remembers the input of each pass."""

    def __init__(self, rows: list[FineRow], codes: torch.Tensor, size: int):
        super().__init__()
        self.row, self.codes, self.size = rows[0], codes, size
        self.passes: list[torch.Tensor] = []
        self._hf_hook = None  # a hooked model is given ids, not embeddings
        self.loop = 0

    def forward(self, codebook_idx, input_ids, logits_to_keep, **kwargs):
        self.passes.append(input_ids[0].clone())
        start, _ = self.row.span((len(self.passes) - 1) // 6)
        at = torch.arange(start, start + self.row.window) - self.row.n_history
        known = (at >= 0) & (at < self.codes.shape[1])
        wanted = torch.where(known, self.codes[codebook_idx][at.clamp(0, self.codes.shape[1] - 1)], 0)
        scores = nn.functional.one_hot(wanted, self.size).float() * 50
        return SimpleNamespace(logits=scores[None, -logits_to_keep:])


@pytest.mark.parametrize("history_share", [0.0, 1.0])
@pytest.mark.parametrize("length", [2, 300, 690, 1500])
def test_fine_windows_are_what_generation_feeds(vocabulary, length, history_share):
    one, _ = examples(vocabulary, length, 200, history_share=history_share)
    coarse = one.codes[:2]
    fine_row = FineRow(coarse, one.voice, vocabulary)
    teacher = FineTeacher([fine_row], one.codes, vocabulary.codebook_size)
    (made,) = run_fine(teacher, [coarse], [one.voice], FineOptions(temperature=None), vocabulary, [0], "cpu")
    assert torch.equal(made, one.codes)
    collator = FineCollator(vocabulary)
    labelled = torch.zeros(fine_row.n_frames, dtype=torch.long)
    for loop in range(fine_row.loops):
        start, first = fine_row.span(loop)
        at = torch.arange(start, start + fine_row.window)
        behind = at >= fine_row.n_history + fine_row.n_frames
        for codebook in range(2, 8):
            fed = teacher.passes[loop * 6 + codebook - 2]
            frames, labels = collator.window(one, FineRow(coarse, one.voice, vocabulary), loop, codebook)
            read = frames[:, : codebook + 1]
            assert torch.equal(read[~behind], fed[~behind, : codebook + 1])
            assert torch.equal(read[behind][:, [0, 1, codebook]], fed[behind][:, [0, 1, codebook]])
            assert (read[behind][:, 2:codebook] < vocabulary.codebook_size).all()
            wanted = labels != IGNORED
            assert not wanted[:first].any()
            assert torch.equal(wanted[first:], ~behind[first:])  # all that generation takes from this window
            filled = at[wanted] - fine_row.n_history
            assert torch.equal(labels[wanted], one.codes[codebook, filled])
            seen = torch.where(labelled[filled] > 0, labels[wanted], vocabulary.fine_pad)
            assert torch.equal(frames[wanted, codebook], seen)  # the answer only where an earlier window gave it
        labelled[filled] += 1
    assert (labelled >= 1).all()
    assert labelled.max() == (2 if length >= 690 else 1)


def test_draws_depend_on_seed_epoch_and_index_alone(vocabulary):
    collate = FineCollator(vocabulary)
    first, again = (collate(examples(vocabulary, 900, 700, 800)) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    alone = collate(examples(vocabulary, 900, 700, 800)[1:2])
    assert torch.equal(alone["input_ids"][0], first["input_ids"][1])
    other = collate(examples(vocabulary, 900, 700, 800, epoch=1))
    assert not torch.equal(other["input_ids"], first["input_ids"])


def test_history_is_a_piece_of_the_same_speaker_and_of_another_utterance(vocabulary):
    rows = [row(vocabulary, 40 + i, speaker, seed=i) for i, speaker in enumerate("aabbbc")]
    utterances = Utterances(rows, vocabulary, history_share=1.0)
    seen = set()
    for epoch in range(30):
        utterances.set_epoch(epoch)
        for i in range(5):
            semantic = utterances[i].voice["semantic_prompt"].tolist()
            (origin,) = [j for j, one in enumerate(rows) if one["semantic_ids"][-len(semantic) :] == semantic]
            assert origin != i
            assert rows[origin]["speaker"] == rows[i]["speaker"]
            assert utterances[i].voice["fine_prompt"].shape[1] == int(len(semantic) * 75 / 49.9)
            seen.add(origin)
        assert utterances[5].voice is None  # nobody else speaks like c
    assert seen == {0, 1, 2, 3, 4}
    shares = [Utterances(rows, vocabulary, 0.5, seed=s)[0].voice is not None for s in range(200)]
    assert 70 < sum(shares) < 130


def test_workers_that_outlive_an_epoch_see_the_next_one(vocabulary):
    """Guards against the windows and histories of the first epoch for ever, with `dataloader_persistent_workers`."""
    utterances = Utterances([row(vocabulary, 40, "a", seed=i) for i in range(4)], vocabulary, history_share=1.0)
    loader = torch.utils.data.DataLoader(utterances, batch_size=None, num_workers=1, persistent_workers=True)
    for epoch in range(2):
        utterances.set_epoch(epoch)
        here = [utterances[i].voice["semantic_prompt"].tolist() for i in range(4)]
        assert [one.voice["semantic_prompt"].tolist() for one in loader] == here


def test_rows_without_codes_teach_the_semantic_stage_alone(vocabulary):
    silent = [{**row(vocabulary, 30, "a", seed), "codes": [[]] * 8} for seed in range(2)]
    table = Dataset.from_list([silent[0], row(vocabulary, 40, "a"), silent[1]])
    assert of_use(table, "semantic") is table
    for stage in ("coarse", "fine"):
        (kept,) = of_use(table, stage)
        assert kept == table[1]
        with pytest.raises(ValueError, match=f"None of the 2 rows has codes, which the {stage} stage learns"):
            of_use(table.select([0, 2]), stage)
    assert of_use(table.select([1]), "fine")[0] == table[1]
    utterances = Utterances(table.select([0, 2]), vocabulary, history_share=1.0)
    batch = SemanticCollator(vocabulary, BLOCK)([utterances[0], utterances[1]])
    assert (batch["labels"] != IGNORED).sum(1).tolist() == [31, 31]
    assert (batch["history_ids"] != vocabulary.semantic_pad_token).any(1).all()  # each is the other's


def test_bad_tables_are_refused(vocabulary):
    with pytest.raises(ValueError, match="lacks the columns codes"):
        Utterances([{"text_ids": [1], "semantic_ids": [1]}], vocabulary)
    with pytest.raises(ValueError, match="empty"):
        Utterances(Dataset.from_list([row(vocabulary, 5)]).select([]), vocabulary)
    with pytest.raises(ValueError, match="history_share"):
        Utterances([row(vocabulary, 5)], vocabulary, history_share=2)
