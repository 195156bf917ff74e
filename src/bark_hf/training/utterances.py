"""A tokenized dataset as training reads it: an utterance, a piece of its speaker for history, a number for draws.

Knows nothing of windows, labels or networks. What is drawn depends on (seed, epoch, index) alone, so that a resumed
run, another number of processes or of workers sees the same examples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback

from ..vocabulary import Vocabulary

COLUMNS = ("text_ids", "semantic_ids", "codes")
TAUGHT = "taught_codes"  # a teacher's, in place of `codes` as what is to be learned; histories are as recorded
MIN_HISTORY = 2  # semantic ids: what a voice needs


def of_use(table: Dataset, stage: str) -> Dataset:
    """The rows that a stage learns from. Those without codes, texts and what is said alone, are for the semantic one.

    Raises ValueError where none is left."""
    if stage == "semantic":
        return table
    frames = [
        pc.list_value_length(pc.list_element(rows["codes"], 0))
        for rows in table.select_columns("codes").with_format("arrow").iter(1000)
    ]
    heard = np.flatnonzero(np.concatenate(frames))
    if not len(heard):
        raise ValueError(f"None of the {len(table)} rows has codes, which the {stage} stage learns.")
    return table.select(heard) if len(heard) < len(table) else table


@dataclass(frozen=True)
class Utterance:
    """text_ids (L,), semantic_ids (S,), codes (K, T); voice: a mapping of a voice's arrays or None; draws: the
    example's own random numbers."""

    text_ids: Tensor
    semantic_ids: Tensor
    codes: Tensor
    voice: Mapping[str, np.ndarray] | None
    draws: np.random.Generator


class Utterances(torch.utils.data.Dataset):
    """Examples of a dataset with `text_ids`, `semantic_ids`, `codes` and, for histories, `speaker` columns."""

    def __init__(self, table: Any, vocabulary: Vocabulary, history_share: float = 0.5, seed: int = 0):
        """table: a `datasets.Dataset` as `tokenize_corpus` or `teach` writes it, or a list of such rows.

        history_share: how many examples get the end of another utterance of their speaker as history, 0 to 1.
        Raises ValueError for missing columns, no rows and a share outside 0..1."""
        columns = set(table.column_names if hasattr(table, "column_names") else (table[0] if len(table) else ()))
        if missing := [name for name in COLUMNS if name not in columns]:
            raise ValueError(f"The dataset lacks the columns {', '.join(missing)}; it has {sorted(columns)}.")
        if not len(table):
            raise ValueError("The dataset is empty.")
        if not 0 <= history_share <= 1:
            raise ValueError(f"`history_share` must be 0 to 1, got {history_share}.")
        self.target = TAUGHT if TAUGHT in columns else COLUMNS[2]
        self.table, self.vocabulary, self.history_share, self.seed = table, vocabulary, history_share, seed
        self.epoch = torch.tensor(0).share_memory_()  # workers that outlive an epoch see it change
        speakers = [None] * len(table)
        if "speaker" in columns:
            speakers = table["speaker"] if hasattr(table, "column_names") else [row["speaker"] for row in table]
        self.peers: dict[str | None, list[int]] = {}  # speaker -> rows
        self.places: dict[int, int] = {}  # row -> where it stands among its speaker's
        for row, speaker in enumerate(speakers):
            if speaker is not None:
                peers = self.peers.setdefault(speaker, [])
                self.places[row] = len(peers)
                peers.append(row)
        self.speakers = list(speakers)

    def set_epoch(self, epoch: int) -> None:
        """Other windows and histories from now on; `EpochCallback` calls it."""
        self.epoch.fill_(epoch)

    @property
    def lengths(self) -> list[int]:
        """Semantic ids of each row, for sampling by length."""
        if hasattr(self.table, "column_names") and "length" in self.table.column_names:
            return list(self.table["length"])
        return [len(row["semantic_ids"]) for row in self.table]

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Utterance:
        row = self.table[index]
        draws = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, int(self.epoch), index))))
        voice = self._history(index, draws) if draws.random() < self.history_share else None
        text, semantic, codes = (torch.as_tensor(row[name], dtype=torch.long) for name in (*COLUMNS[:2], self.target))
        return Utterance(text, semantic, codes, voice, draws)

    def _history(self, index: int, draws: np.random.Generator) -> Mapping[str, np.ndarray] | None:
        """The end of another utterance of the speaker, of any length; None where there is no other."""
        peers = self.peers.get(self.speakers[index], [])
        if len(peers) < 2:
            return None
        other = peers[(self.places[index] + int(draws.integers(1, len(peers)))) % len(peers)]
        row = self.table[other]
        semantic, codes = np.asarray(row["semantic_ids"], np.int64), np.asarray(row["codes"], np.int64)
        if len(semantic) < MIN_HISTORY:
            return None
        kept = int(draws.integers(MIN_HISTORY, len(semantic) + 1))
        codes = codes[:, -(self.vocabulary.coarse_length(kept) // self.vocabulary.n_coarse_codebooks) :]
        coarse = codes[: self.vocabulary.n_coarse_codebooks]
        return {"semantic_prompt": semantic[-kept:], "coarse_prompt": coarse, "fine_prompt": codes}


class EpochCallback(TrainerCallback):
    """Tells the training examples which epoch it is, on every process and after a resume."""

    def __init__(self, utterances: Utterances):
        self.utterances = utterances

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.utterances.set_epoch(int((state.epoch or 0) + 1e-6))
