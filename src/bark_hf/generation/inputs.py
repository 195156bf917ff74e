"""What callers give, checked before any network runs: text ids and masks, voices, token ids, batch sizes.

Knows nothing of networks. Every check raises ValueError that says what was given and what is allowed."""

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..generation_configuration_bark import plain
from ..sampling import row_seeds
from ..vocabulary import Vocabulary
from ..voices.voice import Voice


def check_texts(input_ids, attention_mask, vocabulary: Vocabulary) -> list[Tensor]:
    """Checked ids (B, L) -> list of (L_i,) tokenizer ids of at most 256, with masked places as pads."""
    if input_ids is None:
        raise ValueError("Pass `input_ids`: model.generate(**processor('Hello.')).")
    ids = _integer_tensor(input_ids, "input_ids")
    if ids.dim() == 1:
        ids = ids[None]
    if ids.dim() != 2 or not ids.numel():
        raise ValueError(f"`input_ids` must be (batch, length) with at least one id, got {tuple(ids.shape)}.")
    if attention_mask is None:  # trailing zeros are BERT's [PAD]
        mask = ids.ne(0).flip(1).cummax(1).values.flip(1)
    else:
        mask = _mask_tensor(attention_mask)
        if mask.shape != ids.shape and mask.dim() == 1:
            mask = mask[None]
        if mask.shape != ids.shape:
            raise ValueError(f"`attention_mask` is {tuple(mask.shape)} and `input_ids` {tuple(ids.shape)}: not equal.")
        mask = mask.bool()
    room = vocabulary.text_pad_token - vocabulary.text_encoding_offset
    real = ids[mask]
    if real.numel() and (real.min() < 0 or real.max() >= room):
        raise ValueError(f"`input_ids` holds ids from {real.min()} to {real.max()}; this model knows 0 to {room - 1}.")
    width = vocabulary.max_input_semantic_length
    rows = []
    for row, (one, kept) in enumerate(zip(ids, mask, strict=True)):
        count = int(kept.sum())
        if not count:
            raise ValueError(f"Text {row} is empty: `input_ids` and `attention_mask` leave no id to speak.")
        lost = count - int(kept[:width].sum())
        if lost:
            share = round(100 * lost / count)
            warnings.warn(f"Text {row} has {count} ids, the model reads {width}: {share}% are cut.", stacklevel=4)
        rows.append(torch.where(kept, one, room)[:width])  # room + offset is the text pad
    return rows


def flatten_turns(input_ids, attention_mask, history_prompt):
    """Chats (B, T, L) -> the ids and masks of their turns (R, L), the turns' voices, and how many turns each chat has.

    A turn without ids only pads a chat that has fewer than T, and is left out. history_prompt: a voice for all turns,
    or a list, which may be nested, with one or None for each turn that is spoken. What is no (B, T, L) comes back as
    it is, with no counts."""
    if input_ids is None or np.ndim(input_ids) != 3:
        return input_ids, attention_mask, history_prompt, []
    ids = _integer_tensor(input_ids, "input_ids")
    mask = ids.ne(0) if attention_mask is None else _mask_tensor(attention_mask).bool()
    if mask.shape != ids.shape:
        raise ValueError(f"`attention_mask` is {tuple(mask.shape)} and `input_ids` {tuple(ids.shape)}: not equal.")
    is_spoken = mask.any(2)
    counts = is_spoken.sum(1).tolist()
    if not all(counts) or not counts:
        raise ValueError("`input_ids` of chats (batch, turns, length) must have a turn with text in each chat.")
    masks = None if attention_mask is None else mask[is_spoken]
    return ids[is_spoken], masks, _flat(history_prompt), counts


def join_turns(waves: list[Tensor], counts: list[int]) -> list[Tensor]:
    """The audio of turns, in order, -> each chat's. With several samples of each turn, sample i joins sample i."""
    samples, rows = len(waves) // sum(counts), iter(waves)
    chats = [[next(rows) for _ in range(count * samples)] for count in counts]
    return [torch.cat(chat[sample::samples]) for chat in chats for sample in range(samples)]


def check_voices(history_prompt, rows: int, vocabulary: Vocabulary) -> list[Voice | None]:
    """One voice for all or a list with one or None for each -> a checked list."""
    if history_prompt is None or isinstance(history_prompt, Mapping) or hasattr(history_prompt, "keys"):
        history_prompt = [history_prompt] * rows
    if not isinstance(history_prompt, list | tuple):
        raise ValueError(
            "`history_prompt` must be a voice, a list of voices and None, or None, got "
            f"{type(history_prompt).__name__}. Names and paths are for the processor: processor(text, voice_preset=)."
        )
    if len(history_prompt) != rows:
        raise ValueError(f"`history_prompt` lists {len(history_prompt)} voices for {rows} rows.")
    seen: dict[int, Voice] = {}
    for one in history_prompt:
        if one is not None and id(one) not in seen:
            seen[id(one)] = Voice.of(one, vocabulary.rates)
            seen[id(one)].check_against(vocabulary)
    return [None if one is None else seen[id(one)] for one in history_prompt]


def check_ids(rows, shape: tuple[int | None, ...], size: int, name: str) -> list[Tensor]:
    """Checks a list of id tensors (or one stacked tensor) of the given shape, ids below `size`."""
    if isinstance(rows, Tensor) and rows.dim() == len(shape):
        rows = [rows]
    if not isinstance(rows, list | tuple | Tensor) or not len(rows):
        raise ValueError(f"Pass a list of {name}, one for each sample, got {type(rows).__name__}.")
    checked = [_integer_tensor(row, name) for row in rows]
    for i, row in enumerate(checked):
        if row.dim() != len(shape) or any(want not in (None, got) for want, got in zip(shape, row.shape, strict=True)):
            raise ValueError(f"Sample {i} has shape {tuple(row.shape)}; expected {name}.")
        if row.numel() and (row.min() < 0 or row.max() >= size):
            raise ValueError(f"Sample {i} holds ids from {row.min()} to {row.max()}; {name} are 0 to {size - 1}.")
    return checked


def _flat(voices):
    if not isinstance(voices, list | tuple):
        return voices
    return [voice for part in voices for voice in (_flat(part) if isinstance(part, list | tuple) else [part])]


def _mask_tensor(value) -> Tensor:
    try:
        return torch.as_tensor(value, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"`attention_mask` must be a tensor or array of 0 and 1: {error}") from error


def _integer_tensor(value, name: str) -> Tensor:
    try:
        tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be an integer tensor or array: {error}") from error
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name} must hold integers, got {tensor.dtype}.")
    return tensor.cpu().long()


def check_seeds(texts: int, samples: int, seed, generator: torch.Generator | None) -> list[int]:
    """A seed for each row; sample j of text i is row i * samples + j.

    An integer gives row r seed + r, a list with one for each text sample j its text's seed + j, a longer one each row
    its own."""
    if isinstance(seed, list | tuple) and len(seed) == texts:
        return [row_seed for one in row_seeds(texts, list(seed), generator) for row_seed in row_seeds(samples, one)]
    return row_seeds(texts * samples, seed, generator)


def check_batch_size(batch_size: int | None, rows: int | None) -> int:
    batch_size = plain(batch_size)
    if batch_size is None and rows is not None:
        return rows
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"`batch_size` must be an integer of at least 1, got {batch_size!r}.")
    return batch_size if rows is None else min(batch_size, rows)
