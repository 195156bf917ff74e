"""The mixin with the public doors: `generate`, its stages, `generate_many`. Options, inputs, one run, named results.

Knows nothing of the networks' insides or of files. Everything is checked before any network runs."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig
from transformers.utils import ModelOutput

from .codec.streaming import check_causal
from .engine.cpu import has_amx
from .engine.decoding import SessionPool
from .engine.int8 import quantize_linears
from .files.checkpoint import find_file
from .generation.inputs import (
    check_batch_size,
    check_ids,
    check_seeds,
    check_texts,
    check_voices,
    flatten_turns,
    join_turns,
)
from .generation.options import all_options, refuse_unread, return_sequences, stage_options
from .generation.run import Request, Run, warn_silent
from .generation.stages import Progress
from .generation.stream import stream_audio
from .generation_configuration_bark import BarkGenerationConfig
from .sampling import MAX_SEED, row_seeds
from .vocabulary import Vocabulary
from .voices.voice import Voice


@dataclass
class BarkGenerateOutput(ModelOutput):
    """Everything that one `generate` call made; row i's parts are at index i.

    audio (B, N) float32 with zeros on the right, audio_lengths (B,) in samples, semantic_tokens: (S_i,),
    coarse_codes: (2, T_i), fine_codes: (8, T_i), seeds: pass them as `seed` to repeat the rows, sampling_rate in Hz,
    rates: semantic ids and frames a second.
    """

    audio: Tensor  # a ModelOutput may require its first field only
    audio_lengths: Tensor = None  # type: ignore[assignment]
    semantic_tokens: list[Tensor] = None  # type: ignore[assignment]
    coarse_codes: list[Tensor] = None  # type: ignore[assignment]
    fine_codes: list[Tensor] = None  # type: ignore[assignment]
    seeds: list[int] = None  # type: ignore[assignment]
    sampling_rate: int = None  # type: ignore[assignment]
    rates: tuple[float, float] = None  # type: ignore[assignment]

    def voice(self, row: int = 0) -> Voice:
        """Row `row` as a voice for later generations. Raises ValueError where it is too short to be one."""
        semantic, coarse, fine = self.semantic_tokens[row], self.coarse_codes[row], self.fine_codes[row]
        return Voice(semantic.cpu().numpy(), coarse.cpu().numpy(), fine.cpu().numpy(), self.rates)


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
        num_return_sequences: int | None = None,
        streamer=None,
        progress: Callable[[Progress], None] | None = None,
        batch_size: int | None = None,
        return_dict_in_generate: bool | None = None,
        **options,
    ) -> Tensor | tuple[Tensor, Tensor] | BarkGenerateOutput:
        """Text ids (B, L) -> speech.

        A stage's scores pass through the keywords' penalties and forbidden ids (repetition_penalty,
        no_repeat_ngram_size, bad_words_ids, min_new_tokens, suppress_tokens, begin_suppress_tokens: transformers' own
        classes), `logits_processor`, the keywords' filters (top_h, min_p, typical_p, epsilon_cutoff, eta_cutoff),
        top_p, top_k and, last, the temperature; min_eos_p is compared with what comes out. So filters look at
        probabilities before the temperature, as the original's do, and transformers' after it. Processors get one
        row's generated ids (n, L), of the fine stage a frame's earlier codebooks, and scores (n, V) of all ids.

        Ids of chats (B, T, L), as `processor.apply_chat_template` gives them, become one audio for each chat, its
        turns joined in order. Voices, seeds and all ids are then the turns', audio and lengths the chats'.

        Args:
            input_ids: the tokenizer's ids; a row's first 256 count.
            history_prompt: a voice for all texts, or a list with one or None for each.
            return_output_lengths: also returns each row's number of samples.
            attention_mask: (B, L), 1 where the ids are text; without it trailing zeros are padding.
            generation_config: a GenerationConfig or BarkGenerationConfig; it wins over the model's where it says
                something, and a keyword wins over it.
            seed: row i gets seed + i, also where a text has several rows. A list has one for each text, whose
                sample j gets its seed + j, or one for each row. Without it the seeds come from `generator` or torch's
                global one.
            logits_processor: a LogitsProcessorList for all stages.
            num_return_sequences: samples of each text; the rows are those of text 0, then those of text 1, and so on.
                `semantic_num_return_sequences` means the same: samples differ from the first stage on.
            streamer: transformers' TextStreamer or its like, for one row: `put` gets the text's ids (1, L), then each
                semantic id (1,) as it is sampled, then `end` is called. The ids are no text: a streamer's `tokenizer`
                must have a `decode` that says what to show of them.
            progress: a function that is called with `Progress` tuples.
            batch_size: how many rows run at a time (None: all); a row that ends makes room for the next.
            return_dict_in_generate: True for a `BarkGenerateOutput`.
            **options: with the prefix `semantic_`, `coarse_` or `fine_`: do_sample, temperature, top_k, top_p, min_p,
                typical_p, epsilon_cutoff, eta_cutoff, top_h, suppress_tokens; semantic and coarse also
                max_new_tokens, repetition_penalty, no_repeat_ngram_size, bad_words_ids, begin_suppress_tokens,
                max_time (seconds from a row's start in the stage) and stopping_criteria (called with each row's ids
                (1, L); the id that it stops at is kept, of coarse ids whole frames). Only the semantic stage has
                min_new_tokens, min_eos_p, allow_early_stop and max_duration (seconds of speech), only the coarse one
                max_coarse_history and sliding_window_len. Without a prefix do_sample means all stages; filters,
                penalties and the temperature the semantic and the coarse one; what stops or names ids the semantic
                one. None switches a setting off.

        Returns:
            audio (B * num_return_sequences, N) float32, or (audio, lengths), or a `BarkGenerateOutput`.

        Raises:
            ValueError, TypeError: before any network runs, for input that cannot be spoken."""
        num_return_sequences = options.pop("semantic_num_return_sequences", num_return_sequences)
        run = Run(self, all_options(self._checked_generation_config(), generation_config, options))
        run.callbacks(logits_processor, streamer, progress)
        input_ids, attention_mask, history_prompt, turns = flatten_turns(input_ids, attention_mask, history_prompt)
        samples = return_sequences(self.generation_config, generation_config, num_return_sequences)
        if turns and samples > 1:
            raise ValueError(f"A chat becomes one audio, `num_return_sequences` is {samples}. Call once for each.")
        requests = _text_requests(run, input_ids, attention_mask, history_prompt, samples, seed, generator)
        slots = check_batch_size(batch_size, len(requests))
        seeds = [request.seed for request in requests]
        made = sorted(run.speak(requests, slots, together=slots), key=lambda result: result.index)
        warn_silent(made)
        waves = [result.audio for result in made]
        if turns:
            waves = join_turns(waves, turns)
        audio = nn.utils.rnn.pad_sequence(waves, batch_first=True)
        lengths = torch.tensor([len(wave) for wave in waves], device=audio.device)
        if return_dict_in_generate:
            tokens = zip(*((result.semantic, result.coarse, result.fine) for result in made), strict=True)
            sampling_rate = self.generation_config.sample_rate
            rates = run.vocabulary.rates
            return BarkGenerateOutput(audio, lengths, *map(list, tokens), seeds, sampling_rate, rates)
        return (audio, lengths) if return_output_lengths else audio

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

        inputs: an iterable of what the processor gives for one text; with `processor`, also of texts, (text, voice)
        and (text, voice, seed). It is read as rows get free: `batch_size` texts run at a time in each stage, and one
        that ends makes room for the next at once. seed: an integer; text i gets seed + i, unless it brings its own.
        Other keywords as in `generate`, but for num_return_sequences, streamer and progress. A text without speech
        gives zero samples.

        Raises ValueError or TypeError at once for options that cannot be, and for an input when it is read."""
        run = Run(self, all_options(self._checked_generation_config(), generation_config, options))
        run.callbacks(logits_processor)
        self._check_one_sample("generate_many", generation_config)
        if isinstance(seed, list | tuple):
            raise ValueError("`seed` must be an integer; for a seed of its own pass a text as (text, voice, seed).")
        if seed is not None:
            (seed,) = row_seeds(1, seed)
        slots = check_batch_size(batch_size, None)
        return self._generate_many(run, _requests(inputs, processor, seed, run.vocabulary), slots)

    @torch.inference_mode(False)  # one mode for the whole run, whatever surrounds each `next`
    @torch.no_grad()
    def _generate_many(
        self, run: Run, requests: Iterator[Request], slots: int
    ) -> Iterator[tuple[int, BarkGenerateOutput]]:
        together = slots if self.fine_acoustics.device.type != "cpu" else 1
        for result in run.speak(requests, slots, together):
            yield (
                result.index,
                BarkGenerateOutput(
                    result.audio[None],
                    torch.tensor([len(result.audio)], device=result.audio.device),
                    [result.semantic],
                    [result.coarse],
                    [result.fine],
                    [result.seed],
                    self.generation_config.sample_rate,
                    run.vocabulary.rates,
                ),
            )

    def stream(
        self,
        input_ids: Tensor | None = None,
        history_prompt: Any = None,
        *,
        attention_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        lookahead: float | None = 0.3,
        overlap: float | None = None,
        seed: int | list[int] | None = None,
        generator: torch.Generator | None = None,
        logits_processor=None,
        streamer=None,
        progress: Callable[[Progress], None] | None = None,
        **options,
    ) -> Iterator[np.ndarray]:
        """Text ids (1, L) -> the pieces of its speech, (N_i,) float32, as each is made. Closing it frees everything.

        lookahead: seconds of coarse codes that the fine stage sees behind what it settles. With None the samples are
        those of `generate` for the same seed, up to float rounding, and come late: a text within one fine window (a
        voice and 7 s) after its last coarse code. With less the first comes sooner, and codebooks 2 to 7 know less of
        what follows. overlap: seconds of semantic ids behind a coarse window before it is made, so that both stages
        advance together: sooner still, other samples; None waits for the last. progress: as in `generate`, but that
        the codec's, and with a look-ahead the fine stage's, is in frames. Others as in `generate`.
        Raises ValueError or TypeError at once for input that cannot be spoken, or a codec that is not causal."""
        run = Run(self, all_options(self._checked_generation_config(), generation_config, options))
        run.callbacks(logits_processor, streamer, progress)
        self._check_one_sample("stream", generation_config)
        texts = check_texts(input_ids, attention_mask, run.vocabulary)
        if len(texts) != 1:
            raise ValueError(f"`stream` speaks one text, got {len(texts)}; `generate` takes several.")
        (voice,) = check_voices(history_prompt, 1, run.vocabulary)
        (row_seed,) = row_seeds(1, seed, generator)
        run.follow(texts)
        check_causal(self.codec_model)
        for name, seconds in (("lookahead", lookahead), ("overlap", overlap)):
            number = isinstance(seconds, Real) and not isinstance(seconds, bool)
            if seconds is not None and not (number and 0 <= seconds < math.inf):
                raise ValueError(f"`{name}` is in seconds, 0 or more, or None; got {seconds!r}.")
        frames = None if lookahead is None else round(lookahead * run.vocabulary.coarse_rate_hz)
        ahead = None if overlap is None else round(overlap * run.vocabulary.semantic_rate_hz)
        return self._stream(run, Request(0, texts[0], voice, row_seed), frames, ahead)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _stream(self, run: Run, request: Request, lookahead: int | None, ahead: int | None) -> Iterator[np.ndarray]:
        for audio in stream_audio(run, request, lookahead, ahead):
            yield audio.cpu().numpy()
        warn_silent([request])

    @torch.no_grad()
    def generate_semantic(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, history_prompt: Any = None, *,
        generation_config=None, seed=None, generator=None, logits_processor=None, num_return_sequences=None,
        streamer=None, progress=None, **options,
    ) -> list[Tensor]:  # fmt: skip
        """Text ids (B, L) -> list of (S_i,) int64 semantic ids. Keywords as in `generate`, the stage's unprefixed."""
        stage = stage_options("semantic", self._checked_generation_config(), generation_config, options)
        run = Run(self, (stage, None, None))
        run.callbacks(logits_processor, streamer, progress)
        samples = return_sequences(self.generation_config, generation_config, num_return_sequences)
        requests = _text_requests(run, input_ids, attention_mask, history_prompt, samples, seed, generator)
        made = sorted(run.semantic(requests, len(requests)), key=lambda request: request.index)
        warn_silent(made)
        return [request.semantic for request in made]

    @torch.no_grad()
    def generate_coarse(
        self, semantic: list[Tensor] | Tensor, history_prompt: Any = None, *,
        generation_config=None, seed=None, generator=None, logits_processor=None, num_return_sequences=None,
        streamer=None, progress=None, **options,
    ) -> list[Tensor]:  # fmt: skip
        """List of (S_i,) semantic ids -> list of (n_coarse_codebooks, T_i) int64 codes.

        Keywords as in `generate`, unprefixed. A streamer gets the semantic ids (1, S), then each coarse id (1,)."""
        stage = stage_options("coarse", self._checked_generation_config(), generation_config, options)
        run = Run(self, (None, stage, None))
        run.callbacks(logits_processor, streamer, progress)
        samples = return_sequences(self.generation_config, generation_config, num_return_sequences)
        rows = check_ids(semantic, (None,), run.vocabulary.semantic_vocab_size, "semantic ids (S,)")
        voices = check_voices(history_prompt, len(rows), run.vocabulary)
        seeds = check_seeds(len(rows), samples, seed, generator)
        rows, voices = _repeated(rows, samples), _repeated(voices, samples)
        parts = zip(range(len(rows)), voices, seeds, rows, strict=True)
        requests = [Request(i, None, voice, one, semantic=row) for i, voice, one, row in parts]
        run.follow(rows)
        made = sorted(run.coarse(iter(requests), len(rows)), key=lambda request: request.index)
        return [request.coarse for request in made]

    @torch.no_grad()
    def generate_fine(
        self, coarse: list[Tensor] | Tensor, history_prompt: Any = None, *,
        generation_config=None, seed=None, generator=None, logits_processor=None, num_return_sequences=None,
        progress=None, **options,
    ) -> list[Tensor]:  # fmt: skip
        """List of (2, T_i) codes -> list of (8, T_i) int64 codes. Keywords as in `generate`, unprefixed."""
        stage = stage_options("fine", self._checked_generation_config(), generation_config, options)
        run = Run(self, (None, None, stage))
        run.callbacks(logits_processor, progress=progress)
        samples = return_sequences(self.generation_config, generation_config, num_return_sequences)
        k = run.vocabulary.n_coarse_codebooks
        rows = check_ids(coarse, (k, None), run.vocabulary.codebook_size, f"coarse codes ({k}, T)")
        voices = check_voices(history_prompt, len(rows), run.vocabulary)
        seeds = check_seeds(len(rows), samples, seed, generator)
        rows, voices = _repeated(rows, samples), _repeated(voices, samples)
        parts = zip(range(len(rows)), voices, seeds, rows, strict=True)
        requests = [Request(i, None, voice, one, coarse=row) for i, voice, one, row in parts]
        made = list(run.fine(iter(requests), len(rows)))
        return [request.fine for request in made]

    @torch.no_grad()
    def decode_audio(self, fine: list[Tensor] | Tensor) -> list[Tensor]:
        """List of (8, T_i) codes -> list of (320 T_i,) float32 waveforms at 24 kHz."""
        vocabulary = self._vocabulary()
        k = vocabulary.n_fine_codebooks
        return self.codec_model.decode_all(
            check_ids(fine, (k, None), vocabulary.codebook_size, f"fine codes ({k}, T)")
        )

    @torch.no_grad()
    def codec_decode(self, fine_output: Tensor, output_lengths: Tensor | list[int] | None = None):
        """Codes (B, 8, T), as `BarkFineModel.generate` returns them -> audio, with the name that transformers has.

        Args:
            fine_output: Codes; frames from a row's first pad (an id that is no code) on do not count.
            output_lengths: (B,) how many frames of each row count.

        Returns:
            (B, N) float32 with zeros behind a shorter row; with `output_lengths` a list of (N_i,)."""
        size = self.generation_config.codebook_size
        lengths = (fine_output >= size).any(1).long().cumsum(1).eq(0).sum(1).tolist()
        if output_lengths is not None:
            lengths = [min(pair) for pair in zip(lengths, torch.as_tensor(output_lengths).tolist(), strict=True)]
        rows = zip(fine_output, lengths, strict=True)
        waves = self.decode_audio([codes[:, :length] for codes, length in rows])
        return waves if output_lengths is not None else nn.utils.rnn.pad_sequence(waves, batch_first=True)

    def capture_steps(self, enabled: bool = True) -> None:
        """Decodes by steps of fixed shapes, which CUDA captures as graphs, one for each bucket of rows and lengths.

        Captures are made when first needed, kept with the sessions, and released by `capture_steps(False)` or by
        moving the model. Elsewhere than on CUDA the shapes are fixed but nothing is captured. Never run on CUDA yet.
        """
        self.sessions.static = enabled
        self.sessions.clear()

    def warmup(self, batch_size: int = 1) -> float:
        """Speaks a few ids for `batch_size` rows, so that caches are allocated and kernels chosen; returns seconds."""
        start = time.perf_counter()
        for rows in sorted({1, batch_size}):  # one row takes other kernels than many
            ids = torch.ones(rows, 1, dtype=torch.long, device="cpu")
            self.generate(ids, seed=0, max_new_tokens=4, allow_early_stop=False)
        return time.perf_counter() - start

    def quantize_int8(self, dtype: torch.dtype | None = None) -> "BarkGenerationMixin":
        """Makes the blocks' linear layers and the semantic head int8, in place, for speed on a CPU; returns the model.

        Weights are symmetric for each output; activations are quantized as they come, each row by its own size.
        Compiled steps, where numba is installed, leave activations as they are and keep keys and values of up to 8
        rows in bfloat16; a batch that they take whole gives what each text gives alone, others nearly so. All else
        becomes `dtype`, by default the faster one here: bfloat16 where the CPU has AMX (it halves what a step reads),
        else float32, which is closer. Inference only; the model can no longer be saved or moved. Raises ValueError for
        adapters that are not merged, and elsewhere than on a CPU: there, pass transformers' `quantization_config` to
        `from_pretrained`."""
        if dtype is None:
            dtype = torch.bfloat16 if has_amx() else torch.float32
        stages = self.semantic, self.coarse_acoustics, self.fine_acoustics
        for stage in stages:
            if stage.device.type != "cpu":
                raise ValueError(f"`quantize_int8` is for CPUs, the model is on {stage.device}.")
            if any("base_layer" in part._modules for part in stage.modules()):
                raise ValueError(
                    "`quantize_int8` found an adapter, whose layers it would make int8 too: merge it into the weights "
                    "first (peft: `merge_and_unload`)."
                )
        quantize_linears(self.semantic)  # with its head, of which a step reads all rows
        for stage in stages:
            quantize_linears(stage.layers)
            stage.to(dtype)
        return self

    def enable_cpu_offload(self, accelerator_id: int | None = 0, device: str | torch.device | None = None) -> None:
        """Keeps the weights in CPU memory and moves a stage to the accelerator when it is called.

        A stage sends the one before it home, the first one the codec, so that `generate` has one there at a time;
        where stages take turns (`generate_many`, `batch_size`, `stream`), two. The last one stays until the next call.
        accelerator_id: its number; `device` names it instead ("cuda:1", "mps", ...). Needs accelerate."""
        from accelerate import cpu_offload_with_hook
        from accelerate.hooks import remove_hook_from_module

        if device is None:
            device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
            if device is None:
                raise RuntimeError("enable_cpu_offload needs an accelerator and found none; on a CPU leave it out.")
        device = torch.device(device)
        if device.type != "cpu" and device.index is None:  # as a weight's device has a number, to which it is compared
            device = torch.device(device.type, accelerator_id or 0)
        hook = None
        for stage in (self.semantic, self.coarse_acoustics, self.fine_acoustics, self.codec_model):
            remove_hook_from_module(stage)  # of an earlier call
            _, hook = cpu_offload_with_hook(stage, device, prev_module_hook=hook)
        self.semantic._hf_hook.prev_module_hook = hook

    def adjust_generation_fn(self, generation_config, from_auto_class, from_pipeline, source, *args, **kwargs) -> None:
        """Called by `from_pretrained`: takes the caller's generation config or reads the checkpoint's own.

        As in transformers the argument stands for the whole file, ids included, which are Suno's where it names none:
        for other values of a few fields load without it and change `model.generation_config`, or give the config to
        `generate`, where it says only what it sets. Raises OSError for a file that is no JSON, and where it is unknown
        whether there is one (`files.checkpoint`)."""
        if generation_config is not None:
            if not hasattr(generation_config, "semantic_config"):
                raise ValueError(
                    "`from_pretrained` takes a BarkGenerationConfig, which replaces the checkpoint's, as "
                    f"`generation_config`, got {type(generation_config).__name__}. Pass it to `generate` instead."
                )
            if isinstance(generation_config, BarkGenerationConfig):
                refuse_unread(generation_config, "generation_config")
            self.generation_config = BarkGenerationConfig.from_dict(generation_config.to_dict())
        elif source is not None:
            names = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder")
            hub = {**dict(zip(names, args, strict=False)), **kwargs}
            self.generation_config = generation_config_of(source, **hub)

    def _vocabulary(self) -> Vocabulary:
        return Vocabulary.of(self.generation_config)

    def _check_one_sample(self, caller: str, generation_config) -> None:
        count = return_sequences(self.generation_config, generation_config, None)
        if count != 1:
            raise ValueError(
                f"`{caller}` makes one sample of each text, and the generation config's `num_return_sequences` is "
                f"{count}: set it to 1, or call `generate`."
            )

    def _checked_generation_config(self):
        if not isinstance(self.generation_config, BarkGenerationConfig):
            raise TypeError(
                "`model.generation_config` must be a BarkGenerationConfig, which has a section for each stage, got "
                f"{type(self.generation_config).__name__}. Give other configs to `generate` as `generation_config`."
            )
        refuse_unread(self.generation_config, "model.generation_config")
        stages = (self.semantic, self.coarse_acoustics, self.fine_acoustics, self.codec_model)
        self._vocabulary().check_against(*(stage.config for stage in stages))
        return self.generation_config


def generation_config_of(source: str | Path, **hub: Any) -> BarkGenerationConfig:
    """A checkpoint's own generation config; Suno's values where it has none. `hub` and errors as in `find_file`."""
    found = find_file(source, "generation_config.json", **hub)
    return BarkGenerationConfig() if found is None else BarkGenerationConfig.from_pretrained(Path(found).parent)


def _text_requests(
    run: Run, input_ids, attention_mask, history_prompt, samples: int, seed, generator
) -> list[Request]:
    """Checked requests, `samples` for each text, and the streamer's prompt."""
    texts = check_texts(input_ids, attention_mask, run.vocabulary)
    voices = check_voices(history_prompt, len(texts), run.vocabulary)
    seeds = check_seeds(len(texts), samples, seed, generator)
    texts, voices = _repeated(texts, samples), _repeated(voices, samples)
    run.follow(texts)
    return [Request(*parts) for parts in zip(range(len(texts)), texts, voices, seeds, strict=True)]


def _repeated(rows: list, samples: int) -> list:
    return [row for row in rows for _ in range(samples)]


def _requests(inputs: Iterable[Any], processor, seed: int | None, vocabulary: Vocabulary) -> Iterator[Request]:
    """Each input of `generate_many`, checked when it is read."""
    for index, one in enumerate(inputs):
        own = one[2] if isinstance(one, tuple) and len(one) == 3 else None
        if own is None and seed is not None:
            own = (seed + index) % (MAX_SEED + 1)
        (row_seed,) = row_seeds(1, own)
        if isinstance(one, str) or (isinstance(one, tuple) and len(one) in (2, 3)):
            if processor is None:
                raise ValueError(f"Input {index} is a text: pass `processor=`, or what the processor gives for it.")
            text, voice = (one, None) if isinstance(one, str) else one[:2]
            one = processor(text, voice_preset=voice, voice_seed=row_seed)
        if not hasattr(one, "keys") or "input_ids" not in one:
            raise ValueError(f"Input {index} must be what the processor gives for one text, got {type(one).__name__}.")
        texts = check_texts(one["input_ids"], one.get("attention_mask"), vocabulary)
        if len(texts) != 1:
            raise ValueError(f"Input {index} holds {len(texts)} texts; pass one at a time.")
        (voice,) = check_voices(one.get("history_prompt"), 1, vocabulary)
        yield Request(index, texts[0], voice, row_seed)
