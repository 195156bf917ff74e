"""The mixin that orchestrates the stages: what callers give is checked, each stage runs, results get names.

Knows nothing of the networks' insides or of files. Everything is checked before any network runs."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig
from transformers.utils import ModelOutput

from .generation_configuration_bark import BarkGenerationConfig
from .generation_options import all_options, stage_options
from .generation_stages import Progress, run_coarse, run_fine, run_semantic, semantic_prompt
from .sampling import row_seeds
from .vocabulary import Vocabulary
from .voices import Voice


@dataclass
class BarkGenerateOutput(ModelOutput):
    """Everything that one `generate` call made; row i's parts are at index i.

    audio (B, N) float32 with zeros on the right, audio_lengths (B,) in samples, semantic_tokens: (S_i,),
    coarse_codes: (2, T_i), fine_codes: (8, T_i), seeds: pass them as `seed` to repeat the rows, sampling_rate in Hz.
    """

    audio: Tensor  # a ModelOutput may require its first field only
    audio_lengths: Tensor = None  # type: ignore[assignment]
    semantic_tokens: list[Tensor] = None  # type: ignore[assignment]
    coarse_codes: list[Tensor] = None  # type: ignore[assignment]
    fine_codes: list[Tensor] = None  # type: ignore[assignment]
    seeds: list[int] = None  # type: ignore[assignment]
    sampling_rate: int = None  # type: ignore[assignment]

    def voice(self, row: int = 0) -> Voice:
        """Row `row` as a voice for later generations. Raises ValueError where it is too short to be one."""
        return Voice(*(self[key][row].cpu().numpy() for key in ("semantic_tokens", "coarse_codes", "fine_codes")))


class BarkGenerationMixin:
    """`generate`, its three stages and `decode_audio`. A sample never depends on its neighbours in the batch."""

    semantic: Any  # the networks come from the class that mixes this in
    coarse_acoustics: Any
    fine_acoustics: Any
    codec_model: Any

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        history_prompt: Any = None,
        return_output_lengths: bool = False,
        *,
        attention_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        seed: int | list[int] | None = None,
        generator: torch.Generator | None = None,
        logits_processor=None,
        streamer=None,
        return_dict_in_generate: bool | None = None,
        **options,
    ) -> Tensor | tuple[Tensor, Tensor] | BarkGenerateOutput:
        """Text ids (B, L) -> speech.

        input_ids, attention_mask: the tokenizer's ids (a row's first 256 count) and 1 where they are text; without a
        mask, trailing zeros are padding. history_prompt: a voice for all rows, or a list with one or None for each.
        Options: `semantic_`, `coarse_`, `fine_` + do_sample, temperature, top_k, top_p, max_new_tokens; unprefixed
        temperature, top_k, top_p mean semantic and coarse, do_sample all; min_eos_p, allow_early_stop,
        max_duration (s), max_new_tokens the semantic stage; max_coarse_history, sliding_window_len the coarse stage.
        None switches a setting off. seed: row i gets seed + i, or a list with one each; without it the seeds come
        from `generator` or torch's global one. streamer: its `put` gets `Progress` tuples, its `end` ends it.

        Returns audio (B, N) float32, or (audio, lengths (B,)), or a `BarkGenerateOutput`.
        Raises ValueError or TypeError, before any network runs, for input that cannot be spoken."""
        config, vocabulary = self._checked_generation_config(), self._vocabulary()
        semantic_options, coarse_options, fine_options = all_options(config, generation_config, options)
        self._check_coarse_room(coarse_options)
        texts = _texts(input_ids, attention_mask, vocabulary)
        voices = _voices(history_prompt, len(texts), vocabulary)
        seeds = row_seeds(len(texts), seed, generator)
        report = _report(streamer, logits_processor)
        semantic = self._run_semantic(texts, voices, semantic_options, seeds, logits_processor, report)
        coarse = self._run_coarse(semantic, voices, coarse_options, seeds, logits_processor, report)
        fine = self._run_fine(coarse, voices, fine_options, seeds, logits_processor, report)
        waves = self.codec_model.decode_all(fine)
        if report is not None:
            report(Progress("codec", 1, 1))
        _ended(streamer, waves)
        audio = nn.utils.rnn.pad_sequence(waves, batch_first=True)
        lengths = torch.tensor([len(wave) for wave in waves], device=audio.device)
        if return_dict_in_generate:
            return BarkGenerateOutput(audio, lengths, semantic, coarse, fine, seeds, config.sample_rate)
        return (audio, lengths) if return_output_lengths else audio

    @torch.no_grad()
    def generate_semantic(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, history_prompt: Any = None, *,
        generation_config=None, seed=None, generator=None, logits_processor=None, streamer=None, **options,
    ) -> list[Tensor]:  # fmt: skip
        """Text ids (B, L) -> list of (S_i,) int64 semantic ids. The stage's keywords are unprefixed."""
        vocabulary = self._vocabulary()
        report = _report(streamer, logits_processor)
        stage = stage_options("semantic", self._checked_generation_config(), generation_config, options)
        texts = _texts(input_ids, attention_mask, vocabulary)
        voices = _voices(history_prompt, len(texts), vocabulary)
        seeds = row_seeds(len(texts), seed, generator)
        result = self._run_semantic(texts, voices, stage, seeds, logits_processor, report)
        return _ended(streamer, result)

    @torch.no_grad()
    def generate_coarse(
        self, semantic: list[Tensor] | Tensor, history_prompt: Any = None, *,
        generation_config=None, seed=None, generator=None, logits_processor=None, streamer=None, **options,
    ) -> list[Tensor]:  # fmt: skip
        """List of (S_i,) semantic ids -> list of (2, T_i) int64 codes."""
        vocabulary = self._vocabulary()
        report = _report(streamer, logits_processor)
        stage = stage_options("coarse", self._checked_generation_config(), generation_config, options)
        self._check_coarse_room(stage)
        rows = _id_rows(semantic, (None,), vocabulary.semantic_vocab_size, "semantic ids (S,)")
        voices = _voices(history_prompt, len(rows), vocabulary)
        seeds = row_seeds(len(rows), seed, generator)
        result = self._run_coarse(rows, voices, stage, seeds, logits_processor, report)
        return _ended(streamer, result)

    @torch.no_grad()
    def generate_fine(
        self, coarse: list[Tensor] | Tensor, history_prompt: Any = None, *,
        generation_config=None, seed=None, generator=None, logits_processor=None, streamer=None, **options,
    ) -> list[Tensor]:  # fmt: skip
        """List of (2, T_i) codes -> list of (8, T_i) int64 codes."""
        vocabulary = self._vocabulary()
        report = _report(streamer, logits_processor)
        stage = stage_options("fine", self._checked_generation_config(), generation_config, options)
        k = vocabulary.n_coarse_codebooks
        rows = _id_rows(coarse, (k, None), vocabulary.codebook_size, f"coarse codes ({k}, T)")
        voices = _voices(history_prompt, len(rows), vocabulary)
        seeds = row_seeds(len(rows), seed, generator)
        result = self._run_fine(rows, voices, stage, seeds, logits_processor, report)
        return _ended(streamer, result)

    @torch.no_grad()
    def decode_audio(self, fine: list[Tensor] | Tensor) -> list[Tensor]:
        """List of (8, T_i) codes -> list of (320 T_i,) float32 waveforms at 24 kHz."""
        vocabulary = self._vocabulary()
        k = vocabulary.n_fine_codebooks
        return self.codec_model.decode_all(_id_rows(fine, (k, None), vocabulary.codebook_size, f"fine codes ({k}, T)"))

    def enable_cpu_offload(self, accelerator_id: int | None = 0, device: str | torch.device | None = None) -> None:
        """Keeps the weights in CPU memory and moves one stage at a time to the accelerator, when it is called.

        accelerator_id: its number; `device` names it instead ("cuda:1", "mps", ...). Needs accelerate."""
        from accelerate import cpu_offload_with_hook

        if device is None:
            accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
            if accelerator is None:
                raise RuntimeError("enable_cpu_offload needs an accelerator and found none; on a CPU leave it out.")
            device = torch.device(accelerator.type, accelerator_id or 0)
        hook = None
        for stage in (self.semantic, self.coarse_acoustics, self.fine_acoustics, self.codec_model):
            _, hook = cpu_offload_with_hook(stage, torch.device(device), prev_module_hook=hook)

    def adjust_generation_fn(self, generation_config, from_auto_class, from_pipeline, source, *args, **kwargs) -> None:
        """Called by `from_pretrained`: takes the caller's generation config or reads the checkpoint's own."""
        if generation_config is not None:
            self.generation_config = BarkGenerationConfig.from_dict(generation_config.to_dict())
        elif source is not None:
            names = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder")
            kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
            known = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
            try:
                self.generation_config = BarkGenerationConfig.from_pretrained(source, **known)
            except OSError:  # no file: the checkpoint uses Suno's values
                self.generation_config = BarkGenerationConfig()

    def _run_semantic(self, texts, voices, options, seeds, logits_processor, report) -> list[Tensor]:
        vocabulary = self._vocabulary()
        histories = [None if voice is None else torch.tensor(voice["semantic_prompt"]) for voice in voices]
        texts = [vocabulary.encode_text(text) for text in texts]
        input_ids, history_ids = semantic_prompt(texts, histories, vocabulary, self.semantic.device)
        tokens = run_semantic(
            self.semantic, input_ids, history_ids, options, vocabulary, seeds, logits_processor, report
        )
        silent = [row for row, one in enumerate(tokens) if not len(one)]
        if silent:
            warnings.warn(f"The model ended at once for text {silent}: no audio. Try another seed.", stacklevel=4)
        return tokens

    def _run_coarse(self, semantic, voices, options, seeds, logits_processor, report) -> list[Tensor]:
        model = self.coarse_acoustics
        codes = run_coarse(
            model, semantic, voices, options, self._vocabulary(), seeds, model.device, logits_processor, report
        )
        return [one.to(model.device) for one in codes]

    def _run_fine(self, coarse, voices, options, seeds, logits_processor, report) -> list[Tensor]:
        model = self.fine_acoustics
        codes = run_fine(
            model, coarse, voices, options, self._vocabulary(), seeds, model.device, logits_processor, report
        )
        return [one.to(model.device) for one in codes]

    def _check_coarse_room(self, options) -> None:
        """A full window (semantic ids, infer token, history, all new ids but the last) must have positions."""
        width, block = self._vocabulary().max_coarse_input_length, self.coarse_acoustics.config.block_size
        if width + options.max_coarse_history + options.sliding_window_len > block:
            raise ValueError(
                f"`max_coarse_input_length` ({width}) + `max_coarse_history` ({options.max_coarse_history}) + "
                f"`sliding_window_len` ({options.sliding_window_len}) must be at most "
                f"`coarse_acoustics_config.block_size` ({block})."
            )

    def _vocabulary(self) -> Vocabulary:
        return Vocabulary.of(self.generation_config)

    def _checked_generation_config(self):
        stages = (self.semantic, self.coarse_acoustics, self.fine_acoustics, self.codec_model)
        self._vocabulary().check_against(*(stage.config for stage in stages))
        return self.generation_config


def _report(streamer, logits_processor):
    """The streamer's `put`, or None; refuses callbacks that would fail in the middle of a run."""
    if logits_processor is not None and not callable(logits_processor):
        raise TypeError(f"`logits_processor` must be a LogitsProcessorList, got {type(logits_processor).__name__}.")
    if streamer is None:
        return None
    if not (hasattr(streamer, "put") and hasattr(streamer, "end")):
        raise TypeError(f"`streamer` must have `put` and `end`, got {type(streamer).__name__}.")
    return streamer.put


def _ended(streamer, result):
    if streamer is not None:
        streamer.end()
    return result


def _texts(input_ids, attention_mask, vocabulary: Vocabulary) -> list[Tensor]:
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


def _voices(history_prompt, rows: int, vocabulary: Vocabulary) -> list[Voice | None]:
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
            seen[id(one)] = Voice.of(one)
            seen[id(one)].check_ranges(
                vocabulary.semantic_vocab_size,
                vocabulary.codebook_size,
                vocabulary.n_coarse_codebooks,
                vocabulary.n_fine_codebooks,
            )
    return [None if one is None else seen[id(one)] for one in history_prompt]


def _id_rows(rows, shape: tuple[int | None, ...], size: int, name: str) -> list[Tensor]:
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


def _mask_tensor(value) -> Tensor:
    try:
        return torch.as_tensor(value).detach().cpu()
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
