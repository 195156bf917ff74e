"""Configurations of Bark's networks: sizes, vocabularies, dtypes.

Knows nothing of generation: token ids, rates, windows and sampling live in `generation_configuration_bark`."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, EncodecConfig, PreTrainedConfig

from .files.errors import ConfigErrors


@strict
class BarkSubModelConfig(ConfigErrors, PreTrainedConfig):
    """What the three stages share: a GPT-2-like stack of `num_layers` pre-norm blocks over learned positions.

    Field names are those of the hub's `config.json` files. `bias` covers the linear layers and, in the causal
    stages, the LayerNorms; the fine stage's LayerNorms always have one."""

    keys_to_ignore_at_inference = ["cache", "past_key_values"]
    attribute_map = {
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "vocab_size": "input_vocab_size",
        "max_position_embeddings": "block_size",
        "window_size": "block_size",
    }

    block_size: int = 1024
    input_vocab_size: int = 10_048
    output_vocab_size: int = 10_048
    num_layers: int = 12
    num_heads: int = 12
    hidden_size: int = 768
    dropout: float | int = 0.0
    bias: bool = True
    initializer_range: float = 0.02
    use_cache: bool = True

    def validate_architecture(self):
        for name in ("block_size", "input_vocab_size", "output_vocab_size", "num_layers", "num_heads", "hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` ({getattr(self, name)}) must be at least 1.")
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be a multiple of `num_heads` ({self.num_heads})."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` ({self.dropout}) must be at least 0 and below 1.")


@strict
class BarkSemanticConfig(BarkSubModelConfig):
    """Text to semantic tokens: 129 600 input ids (text, semantic history, specials), 10 048 output ids."""

    model_type = "semantic"
    base_config_key = "semantic_config"

    input_vocab_size: int = 129_600


@strict
class BarkCoarseConfig(BarkSubModelConfig):
    """Semantic tokens to the first two EnCodec codebooks: one vocabulary of 12 096 ids for both ends."""

    model_type = "coarse_acoustics"
    base_config_key = "coarse_acoustics_config"

    input_vocab_size: int = 12_096
    output_vocab_size: int = 12_096


@strict
class BarkFineConfig(BarkSubModelConfig):
    """Two codebooks to eight: `n_codes_total` embedding tables, `n_codes_total - n_codes_given` heads, not causal."""

    model_type = "fine_acoustics"
    base_config_key = "fine_acoustics_config"

    input_vocab_size: int = 1_056
    output_vocab_size: int = 1_056
    tie_word_embeddings: bool = True
    n_codes_total: int = 8
    n_codes_given: int = 1

    def validate_architecture(self):
        super().validate_architecture()
        if not 1 <= self.n_codes_given < self.n_codes_total:
            raise ValueError(
                f"`n_codes_given` ({self.n_codes_given}) must be at least 1 and below "
                f"`n_codes_total` ({self.n_codes_total})."
            )
        if self.tie_word_embeddings and self.input_vocab_size != self.output_vocab_size:
            raise ValueError(
                f"Tied heads need `input_vocab_size` ({self.input_vocab_size}) and `output_vocab_size` "
                f"({self.output_vocab_size}) to be equal; or set `tie_word_embeddings=False`."
            )


_STAGES = {
    "semantic_config": BarkSemanticConfig,
    "coarse_acoustics_config": BarkCoarseConfig,
    "fine_acoustics_config": BarkFineConfig,
    "codec_config": EncodecConfig,
}


@strict
class BarkConfig(ConfigErrors, PreTrainedConfig):
    """The whole cascade: three stages and the EnCodec decoder, each a config of its own or a dict of its fields."""

    model_type = "bark"
    sub_configs = {**_STAGES, "codec_config": AutoConfig}

    semantic_config: dict[str, Any] | PreTrainedConfig | None = None
    coarse_acoustics_config: dict[str, Any] | PreTrainedConfig | None = None
    fine_acoustics_config: dict[str, Any] | PreTrainedConfig | None = None
    codec_config: dict[str, Any] | PreTrainedConfig | None = None
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        for name, config_class in _STAGES.items():
            value = getattr(self, name)
            if value is None or isinstance(value, dict):
                setattr(self, name, config_class(**(value or {})))
            elif isinstance(value, PreTrainedConfig) and value.model_type != config_class.model_type:
                raise ValueError(f"`{name}` must be a {config_class.__name__}, got {type(value).__name__}.")
        super().__post_init__(**kwargs)

    def update(self, config_dict: dict[str, Any]) -> None:
        """Changes fields in place. Sections of a generation config are left out: the stock text-to-speech pipeline of
        older transformers writes them here, over the networks' configs, which have the same names."""
        ours = {k: v for k, v in config_dict.items() if not (k in _STAGES and isinstance(v, dict))}
        super().update(ours)

    @classmethod
    def from_sub_model_configs(
        cls,
        semantic_config: PreTrainedConfig,
        coarse_acoustics_config: PreTrainedConfig,
        fine_acoustics_config: PreTrainedConfig,
        codec_config: PreTrainedConfig,
        **kwargs,
    ) -> "BarkConfig":
        """One composite of four configs; each is copied, so that changing one later does not reach the composite."""
        return cls(
            semantic_config=semantic_config.to_dict(),
            coarse_acoustics_config=coarse_acoustics_config.to_dict(),
            fine_acoustics_config=fine_acoustics_config.to_dict(),
            codec_config=codec_config.to_dict(),
            **kwargs,
        )
