"""Generation configs: every token id, rate, window and sampling default of Bark, one home each, and their JSON.

Knows nothing of networks or of one call's options (`generation.options`); it reads what transformers writes."""

import difflib
from typing import Any, ClassVar

import numpy as np
from transformers import GenerationConfig

MARKER = "bark_hf_format"  # stands in every file that we write: its sampling values are meant, not filled in
# transformers' own rules, off unless somebody sets them: those that look at one id's probability,
_FILTERS = dict.fromkeys(("min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h", "suppress_tokens"))
# and those that need a sequence
_SEQUENCE_RULES = dict.fromkeys(
    ("repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "begin_suppress_tokens", "max_time")
)
_WRITTEN_IF_SET = {*_FILTERS, *_SEQUENCE_RULES, "min_new_tokens", "num_return_sequences"}
_ID_LISTS = {"suppress_tokens", "bad_words_ids", "begin_suppress_tokens"}
_FILLED_IN_BY_TRANSFORMERS = {
    "top_k": 50, "top_p": 1.0, "do_sample": False, "temperature": 1.0, "min_eos_p": None, "repetition_penalty": 1.0,
    "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "no_repeat_ngram_size": 0,
}  # fmt: skip
_NULLABLE = {"temperature", "top_k", "top_p", "min_eos_p", "max_duration", "max_new_tokens", *_WRITTEN_IF_SET}
_CHANGE_NOTHING = {  # fields of transformers that its own Bark configs carry, or that name no choice of Bark's
    "renormalize_logits", "output_scores", "output_logits", "output_attentions", "output_hidden_states",
    "return_dict_in_generate", "use_cache", "pad_token_id", "bos_token_id", "transformers_version",
    "_from_model_config", "model_type", MARKER,
}  # fmt: skip
_POSITIVE = {
    "semantic_vocab_size", "semantic_rate_hz", "coarse_rate_hz", "max_input_semantic_length",
    "max_coarse_input_length", "max_fine_input_length", "n_coarse_codebooks", "n_fine_codebooks", "sliding_window_len",
}  # fmt: skip


_REAL = {
    "temperature", "top_p", "max_duration", "coarse_rate_hz", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff",
    "top_h", "repetition_penalty", "max_time",
}  # fmt: skip
_TOP = ("sample_rate", "codebook_size", "num_return_sequences")


class BarkStageGenerationConfig(GenerationConfig):
    """One stage's constants and sampling defaults. `defaults` names every field; any other keyword is an error, but
    for fields of `GenerationConfig` at their default or without effect here."""

    model_type: ClassVar[str] = ""
    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, **kwargs):
        kwargs = {
            name: plain(value) for name, value in kwargs.items() if name in self.defaults or not _ignored(name, value)
        }
        for name in kwargs:
            if name not in self.defaults:
                near = difflib.get_close_matches(name, self.defaults, 1)
                hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(sorted(self.defaults))}."
                raise ValueError(f"{type(self).__name__} has no field {name!r}.{hint}")
        super().__init__(**{**self.defaults, **kwargs})
        self._given = frozenset(kwargs)

    def given(self) -> dict[str, Any]:
        """The fields that somebody set: passed to the constructor, read from a file, or changed since."""
        return {name: value for name, value in self._fields() if name in self._given or value != self.defaults[name]}

    def unread(self) -> dict[str, Any]:
        """What somebody set on this object although nothing reads it."""
        return _unread(self, self.defaults)

    def _fields(self) -> list[tuple[str, Any]]:
        return [(name, plain(getattr(self, name))) for name in self.defaults]

    def validate(self, *args, **kwargs):
        for name, default in self.defaults.items():
            value = plain(getattr(self, name))
            if value is None and name in _NULLABLE:
                continue
            wanted = _type_of(name, default)
            if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
                kind = " or ".join(t.__name__ for t in wanted) if isinstance(wanted, tuple) else wanted.__name__
                raise ValueError(f"`{name}` must be {kind}, got {value!r}.")
            if isinstance(value, int | float) and not value >= 0:
                raise ValueError(f"`{name}` ({value}) must not be negative.")
            if name in _POSITIVE and not value > 0:
                raise ValueError(f"`{name}` ({value}) must be above 0.")

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in self._fields() if value is not None or name not in _WRITTEN_IF_SET}

    def keys(self):
        """With `__getitem__`: `BarkSemanticGenerationConfig(**model.generation_config.semantic_config)` copies one."""
        return self.to_dict().keys()

    def __getitem__(self, name: str) -> Any:
        return self.to_dict()[name]

    def to_diff_dict(self) -> dict[str, Any]:
        return self.to_dict()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Reads a file's dict: fields that are missing, or null where a value is needed, keep Bark's defaults, fields
        that Bark lacks are dropped."""
        known = {k: v for k, v in config_dict.items() if k in cls.defaults and (v is not None or k in _NULLABLE)}
        return _from_dict(cls, known, kwargs)


class BarkSemanticGenerationConfig(BarkStageGenerationConfig):
    """Text to semantic tokens. `eos_token_id` is also the pad of the semantic history."""

    model_type = "semantic"
    defaults = {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": None,
        "top_p": None,
        "min_eos_p": 0.2,
        "allow_early_stop": True,
        "max_duration": None,
        "max_new_tokens": 768,
        "min_new_tokens": None,
        **_FILTERS,
        **_SEQUENCE_RULES,
        "eos_token_id": 10_000,
        "semantic_vocab_size": 10_000,
        "text_encoding_offset": 10_048,
        "text_pad_token": 129_595,
        "semantic_infer_token": 129_599,
        "max_input_semantic_length": 256,
        "semantic_rate_hz": 49.9,
    }


class BarkCoarseGenerationConfig(BarkStageGenerationConfig):
    """Semantic tokens to the first codebooks, in sliding windows."""

    model_type = "coarse_acoustics"
    defaults = {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": None,
        "top_p": None,
        "max_new_tokens": None,
        **_FILTERS,
        **_SEQUENCE_RULES,
        "coarse_semantic_pad_token": 12_048,
        "coarse_infer_token": 12_050,
        "coarse_rate_hz": 75,
        "n_coarse_codebooks": 2,
        "max_coarse_input_length": 256,
        "max_coarse_history": 630,
        "sliding_window_len": 60,
    }


class BarkFineGenerationConfig(BarkStageGenerationConfig):
    """The remaining codebooks, in windows of `max_fine_input_length` frames. `temperature=None` is argmax."""

    model_type = "fine_acoustics"
    defaults = {
        "do_sample": True,
        "temperature": 0.5,
        "top_k": None,
        "top_p": None,
        **_FILTERS,
        "max_fine_history_length": 512,
        "max_fine_input_length": 1024,
        "n_fine_codebooks": 8,
    }

    def validate(self, *args, **kwargs):
        super().validate(*args, **kwargs)
        if self.max_fine_history_length >= self.max_fine_input_length:
            raise ValueError(
                f"`max_fine_history_length` ({self.max_fine_history_length}) must be below `max_fine_input_length` "
                f"({self.max_fine_input_length}), or the windows would not advance."
            )


STAGES = {
    "semantic_config": BarkSemanticGenerationConfig,
    "coarse_acoustics_config": BarkCoarseGenerationConfig,
    "fine_acoustics_config": BarkFineGenerationConfig,
}


class BarkGenerationConfig(GenerationConfig):
    """The three stages' generation configs, the sample rate (Hz), the codebook size, and how many samples `generate`
    makes of each text (`num_return_sequences`, None: one).

    Each stage is a config, a dict of its fields, or None for Suno's values. A `generation_config.json` without our
    marker was written by transformers, which fills sampling fields with its own defaults: those count as unset."""

    model_type = "bark"
    semantic_config: BarkSemanticGenerationConfig
    coarse_acoustics_config: BarkCoarseGenerationConfig
    fine_acoustics_config: BarkFineGenerationConfig

    def __init__(
        self,
        semantic_config: dict[str, Any] | GenerationConfig | None = None,
        coarse_acoustics_config: dict[str, Any] | GenerationConfig | None = None,
        fine_acoustics_config: dict[str, Any] | GenerationConfig | None = None,
        sample_rate: int = 24_000,
        codebook_size: int = 1024,
        num_return_sequences: int | None = None,
        **kwargs,
    ):
        stages = (semantic_config, coarse_acoustics_config, fine_acoustics_config)
        for (name, stage_class), stage in zip(STAGES.items(), stages, strict=True):
            setattr(self, name, _stage(stage_class, name, stage))
        self.sample_rate = plain(sample_rate)
        self.codebook_size = plain(codebook_size)
        ignored = {name: value for name, value in kwargs.items() if _ignored(name, value)}
        super().__init__(num_return_sequences=plain(num_return_sequences), **ignored)
        unknown = [name for name, value in kwargs.items() if not _ignored(name, value)]
        if unknown:
            known = ", ".join([*STAGES, *_TOP])
            raise ValueError(f"BarkGenerationConfig has no field {unknown[0]!r}. Known: {known}.")

    def unread(self) -> dict[str, Any]:
        """What somebody set on this object or its sections although nothing reads it; of sections `section.name`."""
        found = _unread(self, (*STAGES, *_TOP))
        for name in STAGES:
            found |= {f"{name}.{key}": value for key, value in getattr(self, name).unread().items()}
        return found

    def validate(self, *args, **kwargs):
        for name in STAGES:
            getattr(self, name).validate()
        for name in _TOP:
            value = plain(getattr(self, name))
            if value is None and name in _NULLABLE:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")

    def to_dict(self) -> dict[str, Any]:
        stages = {name: getattr(self, name).to_dict() for name in STAGES}
        rest = {name: plain(getattr(self, name)) for name in _TOP}
        rest = {name: value for name, value in rest.items() if value is not None or name not in _WRITTEN_IF_SET}
        return {**stages, **rest, "model_type": self.model_type, MARKER: 1}

    def to_diff_dict(self) -> dict[str, Any]:
        return self.to_dict()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Reads a file's dict, ours or one that transformers wrote: nested dicts, missing fields, filled ones.

        Raises ValueError for values that are of the wrong type or out of range."""
        if not isinstance(config_dict, dict):
            raise ValueError(f"A {cls.__name__} is a JSON object, got {type(config_dict).__name__}.")
        own: dict[str, Any] = {k: v for k, v in config_dict.items() if k in _TOP}
        for name, stage_class in STAGES.items():
            stage = config_dict.get(name) or {}
            if not isinstance(stage, dict):
                raise ValueError(f"`{name}` must be a dict, got {type(stage).__name__}.")
            if MARKER not in config_dict:
                stage = without_filled_in_defaults(stage)
            own[name] = stage_class.from_dict(stage)
        return _from_dict(cls, own, kwargs)

    @classmethod
    def from_model_config(cls, model_config) -> "BarkGenerationConfig":
        """Suno's values; a model with other ids needs a generation config that says so."""
        return cls()


def plain(value: Any) -> Any:
    """NumPy's scalars, also in lists, as the numbers that they are: they are written to files, and reach torch."""
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def without_filled_in_defaults(stage: dict[str, Any]) -> dict[str, Any]:
    """Drops the sampling values that only repeat what transformers writes for fields that nobody set."""
    return {
        name: value
        for name, value in stage.items()
        if value is not None and (name not in _FILLED_IN_BY_TRANSFORMERS or value != _FILLED_IN_BY_TRANSFORMERS[name])
    }


def _stage(stage_class, name: str, value):
    if value is None:
        return stage_class()
    if isinstance(value, dict):
        return stage_class(**value)
    if isinstance(value, GenerationConfig):
        return value if isinstance(value, stage_class) else stage_class.from_dict(value.to_dict())
    raise ValueError(f"`{name}` must be a dict or a {stage_class.__name__}, got {type(value).__name__}.")


def _from_dict(cls, fields: dict[str, Any], kwargs: dict[str, Any]):
    kwargs = {k: v for k, v in kwargs.items() if not k.startswith("_")}
    wants_unused = kwargs.pop("return_unused_kwargs", False)
    config = cls(**fields)
    unused = config.update(**kwargs)
    return (config, unused) if wants_unused else config


def _type_of(name: str, default: Any):
    if isinstance(default, bool):
        return bool
    if name in _ID_LISTS:
        return list
    return (int, float) if isinstance(default, float) or name in _REAL else int


def _unread(config: GenerationConfig, read) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(config).items()
        if name not in read and not name.startswith("_") and not _ignored(name, value)
    }


def _ignored(name: str, value: Any) -> bool:
    """Whether a field of transformers' generation config says nothing: None, its default, or without effect here."""
    default = _TRANSFORMERS.get(name)
    unset = value is None or (type(value) is type(default) and value == default)
    return name in _CHANGE_NOTHING or (name in _TRANSFORMERS and unset)


_TRANSFORMERS = vars(GenerationConfig())
