"""`generate` of a single stage, with the signatures of transformers' Bark, and that package's own loop beside it.

Knows nothing of the networks' insides. With a stage's generation config a call runs on the cascade's engine and gives
what `generate_semantic`, `generate_coarse` and `generate_fine` give, as one padded tensor; without one it is
transformers' own `generate` over the bare network: beams, assistants, streamers, static caches."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin

from .engine.decoding import SessionPool
from .generation_bark import BarkGenerationMixin
from .generation_configuration_bark import BarkGenerationConfig
from .vocabulary import Vocabulary
from .voices.voice import Voice


class SingleStage(BarkGenerationMixin):
    """A cascade of which only one stage is there."""

    def __init__(
        self, generation_config: BarkGenerationConfig, semantic=None, coarse_acoustics=None, fine_acoustics=None
    ):
        self.generation_config = generation_config
        self.semantic, self.coarse_acoustics, self.fine_acoustics = semantic, coarse_acoustics, fine_acoustics
        self.sessions = SessionPool() if fine_acoustics is not None else (semantic or coarse_acoustics).sessions

    def _checked_generation_config(self) -> BarkGenerationConfig:
        stages = self.semantic, self.coarse_acoustics, self.fine_acoustics
        semantic, coarse, fine = (None if stage is None else stage.config for stage in stages)
        self._vocabulary().check_against(semantic, coarse, fine, None)
        return self.generation_config


class CausalStageGenerationMixin(GenerationMixin):
    """What the semantic and the coarse stage share: transformers' own loop over the network."""

    generation_config: GenerationConfig

    def prepare_inputs_for_generation(
        self,
        input_ids,
        *args,
        inputs_embeds: Tensor | None = None,
        history_ids: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs,
    ) -> dict[str, Any]:
        """As transformers', but that a semantic history belongs to the prompt alone."""
        inputs = super().prepare_inputs_for_generation(
            input_ids, *args, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        if is_first_iteration and history_ids is not None:
            inputs["history_ids"] = history_ids
        return inputs

    def adjust_generation_fn(self, generation_config, *args, **kwargs) -> None:
        """Called by `from_pretrained`. The generation config of a whole Bark is not a stage's."""
        super().adjust_generation_fn(generation_config, *args, **kwargs)
        if hasattr(self.generation_config, "semantic_config"):
            self.generation_config = GenerationConfig.from_model_config(self.config)


class SemanticGenerationMixin(CausalStageGenerationMixin):
    def generate(
        self,
        input_ids: Tensor | None = None,
        semantic_generation_config: GenerationConfig | dict[str, Any] | None = None,
        history_prompt: Any = None,
        attention_mask: Tensor | None = None,
        **kwargs,
    ) -> Any:
        """Tokenizer ids (B, L) -> semantic ids (B, S) int64; a row that ends early is padded with its EOS id.

        Args:
            input_ids: The tokenizer's ids. Without `semantic_generation_config`, ids of the network itself.
            semantic_generation_config: The stage's constants and sampling settings, such as
                `model.generation_config.semantic_config`. None runs transformers' own `generate` over the network,
                with that method's keywords and defaults.
            history_prompt: A voice for all rows, or a list with one or None for each.
            attention_mask: (B, L), 1 where `input_ids` is text. Without it, trailing zeros are padding.
            **kwargs: As in `BarkModel.generate_semantic`: `do_sample`, `temperature`, `seed` and others.

        Returns:
            (B, S), or what transformers' `generate` returns.

        Raises:
            ValueError: For input that cannot be spoken, or a voice without `semantic_generation_config`."""
        if semantic_generation_config is None:
            return _plain(self, super().generate, input_ids, history_prompt, attention_mask=attention_mask, **kwargs)
        config = BarkGenerationConfig(semantic_config=semantic_generation_config)
        semantic = config.semantic_config
        config.coarse_acoustics_config.coarse_rate_hz = semantic.semantic_rate_hz  # as of `_semantic_voice`
        if isinstance(history_prompt, list | tuple):
            history_prompt = [_semantic_voice(voice, semantic) for voice in history_prompt]
        else:
            history_prompt = _semantic_voice(history_prompt, semantic)
        host = SingleStage(config, semantic=self)
        rows = host.generate_semantic(input_ids, attention_mask, history_prompt, **kwargs)
        return nn.utils.rnn.pad_sequence(rows, True, semantic.eos_token_id)


class CoarseGenerationMixin(CausalStageGenerationMixin):
    def generate(
        self,
        semantic_output: Tensor | list[Tensor] | None = None,
        semantic_generation_config: GenerationConfig | dict[str, Any] | None = None,
        coarse_generation_config: GenerationConfig | dict[str, Any] | None = None,
        codebook_size: int = 1024,
        history_prompt: Any = None,
        return_output_lengths: bool | None = None,
        **kwargs,
    ) -> Any:
        """Semantic ids (B, S) -> coarse ids (B, n) int64, both codebooks frame by frame in one vocabulary.

        Args:
            semantic_output: What `BarkSemanticModel.generate` returns; a row ends at its first pad. Without
                generation configs, ids of the network itself.
            semantic_generation_config: The semantic stage's constants, `model.generation_config.semantic_config`.
            coarse_generation_config: This stage's constants and sampling settings. None for both runs transformers'
                own `generate` over the network, with that method's keywords and defaults.
            codebook_size: Codes in each codebook.
            history_prompt: A voice for all rows, or a list with one or None for each.
            return_output_lengths: Also return how many ids of each row count.
            **kwargs: As in `BarkModel.generate_coarse`: `do_sample`, `temperature`, `seed` and others.

        Returns:
            (B, n), shorter rows padded with `coarse_semantic_pad_token`; with `return_output_lengths` a tuple of it
            and the lengths (B,). Or what transformers' `generate` returns.

        Raises:
            ValueError: For ids that are not semantic ids, or where one of the two configs is missing."""
        if semantic_generation_config is None and coarse_generation_config is None:
            return _plain(self, super().generate, semantic_output, history_prompt, **kwargs)
        config = _both(semantic_generation_config, coarse_generation_config, codebook_size)
        host, vocabulary = SingleStage(config, coarse_acoustics=self), Vocabulary.of(config)
        rows = _rows(semantic_output, vocabulary.semantic_vocab_size, "semantic_output")
        codes = host.generate_coarse(rows, history_prompt, **kwargs)
        ids = [vocabulary.flatten_codes(row) for row in codes]
        lengths = torch.tensor([len(row) for row in ids], device=ids[0].device)
        padded = nn.utils.rnn.pad_sequence(ids, True, vocabulary.coarse_semantic_pad_token)
        return (padded, lengths) if return_output_lengths else padded


class FineStageGenerate:
    def generate(
        self,
        coarse_output: Tensor | list[Tensor],
        semantic_generation_config: GenerationConfig | dict[str, Any] | None = None,
        coarse_generation_config: GenerationConfig | dict[str, Any] | None = None,
        fine_generation_config: GenerationConfig | dict[str, Any] | None = None,
        codebook_size: int = 1024,
        history_prompt: Any = None,
        **kwargs,
    ) -> Tensor:
        """Coarse ids (B, n) -> codes (B, 8, T) int64.

        Args:
            coarse_output: What `BarkCoarseModel.generate` returns; a row ends at its first pad.
            semantic_generation_config: The semantic stage's constants, `model.generation_config.semantic_config`.
            coarse_generation_config: The coarse stage's constants.
            fine_generation_config: This stage's constants and sampling settings.
            codebook_size: Codes in each codebook.
            history_prompt: A voice for all rows, or a list with one or None for each.
            **kwargs: As in `BarkModel.generate_fine`: `do_sample`, `temperature`, `seed` and others.

        Returns:
            (B, 8, T), shorter rows padded with `codebook_size`, which is no code.

        Raises:
            ValueError: For ids that are not coarse ids, or where one of the three configs is missing."""
        if fine_generation_config is None:
            raise ValueError("Pass `fine_generation_config`, such as `model.generation_config.fine_acoustics_config`.")
        config = _both(semantic_generation_config, coarse_generation_config, codebook_size, fine_generation_config)
        host, vocabulary = SingleStage(config, fine_acoustics=self), Vocabulary.of(config)
        _, end = vocabulary.coarse_range(vocabulary.n_coarse_codebooks - 1)
        rows = _rows(coarse_output, end, "coarse_output")
        for row, ids in enumerate(rows):
            if len(ids) % vocabulary.n_coarse_codebooks:
                raise ValueError(f"Row {row} of `coarse_output` has {len(ids)} ids, which are no whole frames.")
        codes = host.generate_fine([vocabulary.unflatten_ids(row) for row in rows], history_prompt, **kwargs)
        frames = nn.utils.rnn.pad_sequence([row.t() for row in codes], True, codebook_size)
        return frames.transpose(1, 2)


def _plain(stage, generate, input_ids, history_prompt, /, **kwargs):
    """transformers' own loop. Its first argument has other names than ours, and None is not the same as absent."""
    if history_prompt is not None:
        raise ValueError(
            f"`history_prompt` needs the stage's generation config: without one, {type(stage).__name__}.generate is "
            "transformers' own loop over the network, which knows no voices."
        )
    given = {"inputs": input_ids, **kwargs}
    return generate(**{name: value for name, value in given.items() if value is not None})


def _semantic_voice(voice: Any, config) -> Voice | None:
    """A voice of the same semantic ids, which are all that the stage reads of it, with a blank frame for each: the
    rates and sizes of its codes belong to configs that the semantic stage is not given."""
    if voice is None:
        return None
    if not hasattr(voice, "keys") or "semantic_prompt" not in voice:
        raise ValueError(f"A voice is a mapping with `semantic_prompt` (S,); got {type(voice).__name__}.")
    frames = len(voice["semantic_prompt"])
    coarse, fine = (np.zeros((codebooks, frames), np.int64) for codebooks in (2, 8))
    return Voice(voice["semantic_prompt"], coarse, fine, (config.semantic_rate_hz, config.semantic_rate_hz))


def _both(semantic, coarse, codebook_size: int, fine=None) -> BarkGenerationConfig:
    for name, config in (("semantic_generation_config", semantic), ("coarse_generation_config", coarse)):
        if config is None:
            section = "semantic_config" if name.startswith("semantic") else "coarse_acoustics_config"
            raise ValueError(f"Pass `{name}`, such as `model.generation_config.{section}`.")
    return BarkGenerationConfig(semantic, coarse, fine, codebook_size=codebook_size)


def _rows(ids: Tensor | list[Tensor] | None, end: int, name: str) -> list[Tensor]:
    """(B, n) ids or a list of (n_i,) -> the rows up to their first pad, an id from `end` on."""
    rows = list(ids) if isinstance(ids, list | tuple | Tensor) else []
    if not rows or any(not isinstance(row, Tensor) or row.dim() != 1 for row in rows):
        raise ValueError(f"`{name}` must be a tensor of ids (B, n) or a list of tensors (n,).")
    return [row[: int((row >= end).long().cumsum(0).eq(0).sum())] for row in rows]
