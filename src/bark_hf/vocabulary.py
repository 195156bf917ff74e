"""Bark's id spaces and the arithmetic between them: text, semantic, coarse and codebook ids, rates and lengths.

Knows nothing of networks, sampling or windows."""

from dataclasses import dataclass
from math import floor

import torch
from torch import Tensor


@dataclass(frozen=True)
class Vocabulary:
    """The ids and rates of one checkpoint, taken from its generation config (`Vocabulary.of`)."""

    semantic_vocab_size: int
    semantic_pad_token: int
    text_encoding_offset: int
    text_pad_token: int
    semantic_infer_token: int
    max_input_semantic_length: int
    semantic_rate_hz: float
    coarse_semantic_pad_token: int
    coarse_infer_token: int
    max_coarse_input_length: int
    coarse_rate_hz: float
    n_coarse_codebooks: int
    n_fine_codebooks: int
    max_fine_history_length: int
    max_fine_input_length: int
    codebook_size: int

    @classmethod
    def of(cls, generation_config) -> "Vocabulary":
        semantic = generation_config.semantic_config
        coarse = generation_config.coarse_acoustics_config
        fine = generation_config.fine_acoustics_config
        return cls(
            semantic_vocab_size=semantic.semantic_vocab_size,
            semantic_pad_token=semantic.eos_token_id,
            text_encoding_offset=semantic.text_encoding_offset,
            text_pad_token=semantic.text_pad_token,
            semantic_infer_token=semantic.semantic_infer_token,
            max_input_semantic_length=semantic.max_input_semantic_length,
            semantic_rate_hz=semantic.semantic_rate_hz,
            coarse_semantic_pad_token=coarse.coarse_semantic_pad_token,
            coarse_infer_token=coarse.coarse_infer_token,
            max_coarse_input_length=coarse.max_coarse_input_length,
            coarse_rate_hz=coarse.coarse_rate_hz,
            n_coarse_codebooks=coarse.n_coarse_codebooks,
            n_fine_codebooks=fine.n_fine_codebooks,
            max_fine_history_length=fine.max_fine_history_length,
            max_fine_input_length=fine.max_fine_input_length,
            codebook_size=generation_config.codebook_size,
        )

    @property
    def ratio(self) -> float:
        """Coarse ids per semantic id: 75 / 49.9 * 2 = 3.006..."""
        return self.coarse_rate_hz / self.semantic_rate_hz * self.n_coarse_codebooks

    @property
    def rates(self) -> tuple[float, float]:
        """Semantic ids and frames a second."""
        return float(self.semantic_rate_hz), float(self.coarse_rate_hz)

    @property
    def fine_pad(self) -> int:
        return self.codebook_size

    def coarse_length(self, semantic_length: int) -> int:
        """How many coarse ids (all codebooks) `semantic_length` semantic ids become: whole frames."""
        return floor(semantic_length * self.ratio / self.n_coarse_codebooks) * self.n_coarse_codebooks

    def max_semantic_history(self, max_coarse_history: int) -> int:
        return floor(max_coarse_history / self.ratio)

    def coarse_range(self, step: int) -> tuple[int, int]:
        """First and past-the-last coarse id that the utterance's new id number `step` may take."""
        first = self.semantic_vocab_size + (step % self.n_coarse_codebooks) * self.codebook_size
        return first, first + self.codebook_size

    def max_semantic_tokens(self, max_duration: float | None) -> int | None:
        """Steps until the running float64 sum of one token's seconds exceeds `max_duration`; that id is kept."""
        if max_duration is None:
            return None
        seconds, steps = 0.0, 0
        while seconds <= max_duration:
            seconds += 1 / self.semantic_rate_hz
            steps += 1
        return steps

    def encode_text(self, text_ids: Tensor) -> Tensor:
        """Tokenizer ids to the semantic stage's text ids."""
        return text_ids + self.text_encoding_offset

    def flatten_codes(self, codes: Tensor) -> Tensor:
        """(K, T) codes -> (T*K,) coarse ids, frame by frame; codebook k starts at 10 000 + k * 1024."""
        shift = self.semantic_vocab_size + self.codebook_size * torch.arange(codes.shape[0], device=codes.device)
        return (codes + shift[:, None]).t().flatten()

    def unflatten_ids(self, ids: Tensor) -> Tensor:
        """(T*K,) coarse ids that begin on a frame -> (K, T) codes."""
        frames = ids.view(-1, self.n_coarse_codebooks).t()
        shift = self.semantic_vocab_size + self.codebook_size * torch.arange(frames.shape[0], device=ids.device)
        return frames - shift[:, None]

    def check_against(self, semantic_config, coarse_config, fine_config, codec_config) -> None:
        """Every id must lie inside the networks' vocabularies, or the embedding would fail deep inside.

        Configs are the networks'; None where one is not there."""
        last_coarse = self.coarse_range(self.n_coarse_codebooks - 1)[1] - 1
        sections = (
            (semantic_config, "semantic_config", "input_vocab_size", "text_pad_token", self.text_pad_token),
            (semantic_config, "semantic_config", "input_vocab_size", "semantic_infer_token",
             self.semantic_infer_token),
            (semantic_config, "semantic_config", "output_vocab_size", "eos_token_id", self.semantic_pad_token),
            (semantic_config, "semantic_config", "block_size", "max_input_semantic_length",
             self.max_input_semantic_length),
            (coarse_config, "coarse_acoustics_config", "input_vocab_size", "coarse_semantic_pad_token",
             self.coarse_semantic_pad_token),
            (coarse_config, "coarse_acoustics_config", "input_vocab_size", "coarse_infer_token",
             self.coarse_infer_token),
            (coarse_config, "coarse_acoustics_config", "output_vocab_size", "the last coarse id", last_coarse),
            (coarse_config, "coarse_acoustics_config", "block_size", "max_coarse_input_length",
             self.max_coarse_input_length),
            (fine_config, "fine_acoustics_config", "input_vocab_size", "codebook_size", self.codebook_size),
            (fine_config, "fine_acoustics_config", "n_codes_total", "n_fine_codebooks - 1", self.n_fine_codebooks - 1),
            (fine_config, "fine_acoustics_config", "block_size", "max_fine_input_length - 1",
             self.max_fine_input_length - 1),
            (codec_config, "codec_config", "codebook_size", "codebook_size - 1", self.codebook_size - 1),
        )  # fmt: skip
        for config, section, field, name, value in sections:
            if config is not None and value >= getattr(config, field):
                raise ValueError(
                    f"The generation config's `{name}` ({value}) must be below `{section}.{field}` "
                    f"({getattr(config, field)}). A model with its own vocabularies needs a generation config with "
                    "its own ids: set `model.generation_config`."
                )
        if self.semantic_pad_token != self.semantic_vocab_size:
            raise ValueError(
                f"`eos_token_id` ({self.semantic_pad_token}) must follow the last semantic id "
                f"(`semantic_vocab_size` = {self.semantic_vocab_size})."
            )
