"""The mixin that orchestrates the stages: what callers give is checked, each stage runs, results get names.

Knows nothing of the networks' insides or of files. Everything is checked before any network runs."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig
from transformers.utils import ModelOutput

from .decoding import SessionPool
from .generation_configuration_bark import BarkGenerationConfig
from .generation_options import all_options, stage_options
from .generation_stages import CoarseJob, Progress, SemanticJob, run_coarse, run_fine, run_semantic
from .sampling import MAX_SEED, row_seeds
from .vocabulary import Vocabulary
from .voices import Voice

LOOK_EVERY = 16  # semantic steps between two looks at the stops, where looking makes the device wait


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
    sessions: SessionPool

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
        batch_size: int | None = None,
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
        batch_size: how many rows run at a time (None: all); a row that ends makes room for the next.

        Returns audio (B, N) float32, or (audio, lengths (B,)), or a `BarkGenerateOutput`.
        Raises ValueError or TypeError, before any network runs, for input that cannot be spoken."""
        run = _Run(self, all_options(self._checked_generation_config(), generation_config, options))
        run.callbacks(logits_processor, streamer)
        texts = _texts(input_ids, attention_mask, run.vocabulary)
        voices = _voices(history_prompt, len(texts), run.vocabulary)
        seeds = row_seeds(len(texts), seed, generator)
        requests = [_Request(*parts) for parts in zip(range(len(texts)), texts, voices, seeds, strict=True)]
        slots = _slots(batch_size, len(texts))
        made = sorted(run.speak(requests, slots, together=slots), key=lambda result: result.index)
        run.end()
        waves = [result.audio for result in made]
        audio = nn.utils.rnn.pad_sequence(waves, batch_first=True)
        lengths = torch.tensor([len(wave) for wave in waves], device=audio.device)
        if return_dict_in_generate:
            tokens = zip(*((result.semantic, result.coarse, result.fine) for result in made), strict=True)
            sampling_rate = self.generation_config.sample_rate
            return BarkGenerateOutput(audio, lengths, *map(list, tokens), seeds, sampling_rate)
        return (audio, lengths) if return_output_lengths else audio

    @torch.no_grad()
    def generate_many(
        self,
        inputs: Iterable[Any],
        batch_size: int = 8,
        *,
        processor=None,
        generation_config: GenerationConfig | None = None,
        seed: int | None = None,
        logits_processor=None,
        **options,
    ) -> Iterator[tuple[int, BarkGenerateOutput]]:
        """Any number of texts -> (index, result) as each is done, not in their order.

        inputs: an iterable of what the processor gives for one text; with `processor`, also of texts and
        (text, voice) pairs. It is read as rows get free: `batch_size` texts run at a time in each stage, and one that
        ends makes room for the next at once. seed: text i gets seed + i. Other keywords as in `generate`."""
        run = _Run(self, all_options(self._checked_generation_config(), generation_config, options))
        run.callbacks(logits_processor, None)
        if seed is not None:
            row_seeds(1, seed)
        together = batch_size if self.fine_acoustics.device.type != "cpu" else 1
        for result in run.speak(_requests(inputs, processor, seed, run.vocabulary), _slots(batch_size, None), together):
            yield result.index, BarkGenerateOutput(
                result.audio[None],
                torch.tensor([len(result.audio)], device=result.audio.device),
                [result.semantic],
                [result.coarse],
                [result.fine],
                [result.seed],
                self.generation_config.sample_rate,
            )

    @torch.no_grad()
    def generate_semantic(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, history_prompt: Any = None, *,
        generation_config=None, seed=None, generator=None, logits_processor=None, streamer=None, **options,
    ) -> list[Tensor]:  # fmt: skip
        """Text ids (B, L) -> list of (S_i,) int64 semantic ids. The stage's keywords are unprefixed."""
        stage = stage_options("semantic", self._checked_generation_config(), generation_config, options)
        run = _Run(self, (stage, None, None))
        run.callbacks(logits_processor, streamer)
        texts = _texts(input_ids, attention_mask, run.vocabulary)
        voices = _voices(history_prompt, len(texts), run.vocabulary)
        seeds = row_seeds(len(texts), seed, generator)
        requests = [_Request(*parts) for parts in zip(range(len(texts)), texts, voices, seeds, strict=True)]
        made = sorted(run.semantic(requests, len(texts)), key=lambda request: request.index)
        run.end()
        return [request.semantic for request in made]

    @torch.no_grad()
    def generate_coarse(
        self, semantic: list[Tensor] | Tensor, history_prompt: Any = None, *,
        generation_config=None, seed=None, generator=None, logits_processor=None, streamer=None, **options,
    ) -> list[Tensor]:  # fmt: skip
        """List of (S_i,) semantic ids -> list of (2, T_i) int64 codes."""
        stage = stage_options("coarse", self._checked_generation_config(), generation_config, options)
        run = _Run(self, (None, stage, None))
        run.callbacks(logits_processor, streamer)
        rows = _id_rows(semantic, (None,), run.vocabulary.semantic_vocab_size, "semantic ids (S,)")
        voices = _voices(history_prompt, len(rows), run.vocabulary)
        seeds = row_seeds(len(rows), seed, generator)
        parts = zip(range(len(rows)), voices, seeds, rows, strict=True)
        requests = [_Request(i, None, voice, one, semantic=row) for i, voice, one, row in parts]
        made = sorted(run.coarse(iter(requests), len(rows)), key=lambda request: request.index)
        run.end()
        return [request.coarse for request in made]

    @torch.no_grad()
    def generate_fine(
        self, coarse: list[Tensor] | Tensor, history_prompt: Any = None, *,
        generation_config=None, seed=None, generator=None, logits_processor=None, streamer=None, **options,
    ) -> list[Tensor]:  # fmt: skip
        """List of (2, T_i) codes -> list of (8, T_i) int64 codes."""
        stage = stage_options("fine", self._checked_generation_config(), generation_config, options)
        run = _Run(self, (None, None, stage))
        run.callbacks(logits_processor, streamer)
        k = run.vocabulary.n_coarse_codebooks
        rows = _id_rows(coarse, (k, None), run.vocabulary.codebook_size, f"coarse codes ({k}, T)")
        voices = _voices(history_prompt, len(rows), run.vocabulary)
        seeds = row_seeds(len(rows), seed, generator)
        parts = zip(range(len(rows)), voices, seeds, rows, strict=True)
        requests = [_Request(i, None, voice, one, coarse=row) for i, voice, one, row in parts]
        made = list(run.fine(iter(requests), len(rows)))
        run.end()
        return [request.fine for request in made]

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

    def _vocabulary(self) -> Vocabulary:
        return Vocabulary.of(self.generation_config)

    def _checked_generation_config(self):
        stages = (self.semantic, self.coarse_acoustics, self.fine_acoustics, self.codec_model)
        self._vocabulary().check_against(*(stage.config for stage in stages))
        return self.generation_config


@dataclass
class _Request:
    """One text on its way through the stages, which fill in its parts."""

    index: int
    text: Tensor | None
    voice: Voice | None
    seed: int
    semantic: Any = None
    coarse: Any = None
    fine: Any = None
    audio: Any = None


class _Run:
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
            raise TypeError(f"`logits_processor` must be a LogitsProcessorList, got {type(logits_processor).__name__}.")
        if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
            raise TypeError(f"`streamer` must have `put` and `end`, got {type(streamer).__name__}.")
        self.processor, self.streamer = logits_processor, streamer
        self.report = None if streamer is None else streamer.put

    def end(self) -> None:
        if self.streamer is not None:
            self.streamer.end()

    def speak(self, requests: Iterable[_Request], slots: int, together: int) -> Iterator[_Request]:
        """All stages; `slots` rows at a time in the causal ones, `together` in the fine one and the codec."""
        for request in self.fine(self.coarse(self.semantic(requests, slots), slots), together, self.model.codec_model):
            yield request

    def semantic(self, requests: Iterable[_Request], slots: int) -> Iterator[_Request]:
        model, options, running = self.model.semantic, self.semantic_options, {}

        def jobs():
            for one in requests:
                running[one.index] = one
                yield SemanticJob(
                    one.index, one.text, one.voice, options, self.vocabulary, one.seed, model.config.block_size
                )

        look_every = 1 if model.device.type == "cpu" else LOOK_EVERY
        for job in run_semantic(
            self.model.sessions, model, jobs(), slots, options, self.vocabulary, self.processor, self.report, look_every
        ):
            request = running.pop(job.index)
            request.semantic = job.ids.to(model.device)
            if not len(job.ids):
                warnings.warn(
                    f"The model ended at once for text {[job.index]}: no audio. Try another seed.", stacklevel=2
                )
            yield request

    def coarse(self, requests: Iterable[_Request], slots: int) -> Iterator[_Request]:
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

    def fine(self, requests: Iterable[_Request], together: int, codec=None) -> Iterator[_Request]:
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
            for request, request.fine, request.audio in zip(group, codes, waves, strict=True):
                yield request


def _check_coarse_room(config, options, vocabulary: Vocabulary) -> None:
    """A full window (semantic ids, infer token, history, all new ids but the last) must have positions."""
    width, block = vocabulary.max_coarse_input_length, config.block_size
    if width + options.max_coarse_history + options.sliding_window_len > block:
        raise ValueError(
            f"`max_coarse_input_length` ({width}) + `max_coarse_history` ({options.max_coarse_history}) + "
            f"`sliding_window_len` ({options.sliding_window_len}) must be at most "
            f"`coarse_acoustics_config.block_size` ({block})."
        )


def _slots(batch_size: int | None, rows: int | None) -> int:
    if batch_size is None and rows is not None:
        return rows
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"`batch_size` must be an integer of at least 1, got {batch_size!r}.")
    return batch_size if rows is None else min(batch_size, rows)


def _requests(inputs: Iterable[Any], processor, seed: int | None, vocabulary: Vocabulary) -> Iterator[_Request]:
    """Each input of `generate_many`, checked when it is read."""
    for index, one in enumerate(inputs):
        if isinstance(one, str) or (isinstance(one, tuple) and len(one) == 2):
            if processor is None:
                raise ValueError(f"Input {index} is a text: pass `processor=`, or what the processor gives for it.")
            text, voice = (one, None) if isinstance(one, str) else one
            one = processor(text, voice_preset=voice)
        if not hasattr(one, "keys") or "input_ids" not in one:
            raise ValueError(f"Input {index} must be what the processor gives for one text, got {type(one).__name__}.")
        texts = _texts(one["input_ids"], one.get("attention_mask"), vocabulary)
        if len(texts) != 1:
            raise ValueError(f"Input {index} holds {len(texts)} texts; pass one at a time.")
        (voice,) = _voices(one.get("history_prompt"), 1, vocabulary)
        (row_seed,) = row_seeds(1, None if seed is None else (seed + index) % (MAX_SEED + 1))
        yield _Request(index, texts[0], voice, row_seed)


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
