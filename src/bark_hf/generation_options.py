"""One frozen options object per stage, and the one door where a caller's flat keywords become them.

Knows nothing of tensors or networks: it merges the caller's keywords, the caller's generation config and the
model's, in that order, and refuses what no stage understands."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from transformers import GenerationConfig

_HARMLESS: dict[str, Any] = {  # keywords that callers of transformers pass, and the values that change nothing here
    "pad_token_id": ...,
    "bos_token_id": ...,
    "token_type_ids": ...,
    "use_cache": ...,
    "synced_gpus": ...,
    "return_dict": ...,
    "renormalize_logits": ...,
    "num_beams": (1, None),
    "num_beam_groups": (1, None),
    "num_return_sequences": (1, None),
    "assistant_model": (None,),
    "output_scores": (False, None),
    "output_logits": (False, None),
    "output_attentions": (False, None),
    "output_hidden_states": (False, None),
}
_PIPELINES = ("max_new_tokens", "return_dict_in_generate", "transformers_version")  # stand in a config unasked
_REQUIRED = ("do_sample", "max_coarse_history", "sliding_window_len", "allow_early_stop")  # None leaves these unset


_RULES = {  # field: what a value must be, and how to say so
    "do_sample": (lambda v: isinstance(v, bool), "True or False"),
    "temperature": (lambda v: _number(v) and 0 <= v <= 1e6, "0 to 1e6, or None for off"),
    "top_k": (lambda v: _integer(v) and v >= 0, "an integer of at least 1, or None for off"),
    "top_p": (lambda v: _number(v) and 0 < v <= 1, "above 0 and at most 1, or None for off"),
    "max_new_tokens": (lambda v: _integer(v) and v >= 1, "an integer of at least 1"),
    "min_eos_p": (lambda v: _number(v) and 0 <= v <= 1, "0 to 1, or None for off"),
    "allow_early_stop": (lambda v: isinstance(v, bool), "True or False"),
    "max_duration": (lambda v: _number(v) and 0 < v <= 1e4, "seconds above 0 and up to 10000, or None for off"),
    "max_coarse_history": (lambda v: _integer(v) and 60 <= v <= 630, "an integer from 60 to 630"),
    "sliding_window_len": (lambda v: _integer(v) and v >= 1, "an integer of at least 1"),
}


@dataclass(frozen=True)
class SamplingOptions:
    """How ids are drawn. `do_sample=False` or a temperature of 0 is argmax; None switches a setting off.

    So is a temperature below 1e-6: dividing by less overflows float32 and draws nothing else."""

    do_sample: bool = True
    temperature: float | None = 0.7
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            valid, allowed = _RULES[field.name]
            if not (valid(value) or (value is None and field.name not in _REQUIRED)):
                raise ValueError(f"`{field.name}` must be {allowed}, got {value!r}.")

    @property
    def greedy(self) -> bool:
        return not self.do_sample or (self.temperature is not None and self.temperature < 1e-6)


@dataclass(frozen=True)
class SemanticOptions(SamplingOptions):
    """`min_eos_p` stops where p(EOS) reaches it; `max_duration` is in seconds; `max_new_tokens` counts ids."""

    max_new_tokens: int | None = 768
    min_eos_p: float | None = 0.2
    allow_early_stop: bool = True
    max_duration: float | None = None


@dataclass(frozen=True)
class CoarseOptions(SamplingOptions):
    """History and window are counted in coarse ids; `max_new_tokens` cuts the result to that many, whole frames."""

    max_new_tokens: int | None = None
    max_coarse_history: int = 630
    sliding_window_len: int = 60

    def __post_init__(self):
        super().__post_init__()
        total = self.max_coarse_history + self.sliding_window_len
        if total > 768:
            raise ValueError(
                f"`max_coarse_history` ({self.max_coarse_history}) + `sliding_window_len` "
                f"({self.sliding_window_len}) must be at most 768, got {total}."
            )


@dataclass(frozen=True)
class FineOptions(SamplingOptions):
    """`temperature=None` is argmax, as in the original."""

    temperature: float | None = 0.5

    @property
    def greedy(self) -> bool:
        return super().greedy or self.temperature is None


STAGES = {
    "semantic": ("semantic_config", SemanticOptions),
    "coarse": ("coarse_acoustics_config", CoarseOptions),
    "fine": ("fine_acoustics_config", FineOptions),
}
_UNPREFIXED = {  # what a keyword without a stage's name means in `generate`
    "do_sample": ("semantic", "coarse", "fine"),
    "temperature": ("semantic", "coarse"),
    "top_k": ("semantic", "coarse"),
    "top_p": ("semantic", "coarse"),
    **dict.fromkeys(("max_new_tokens", "min_eos_p", "allow_early_stop", "max_duration"), ("semantic",)),
    **dict.fromkeys(("max_coarse_history", "sliding_window_len"), ("coarse",)),
}


def stage_options(stage: str, model_config, generation_config, keywords: Mapping[str, Any]):
    """Options of one stage from its own, unprefixed keywords (`generate_semantic` and its siblings)."""
    names = _names(stage)
    known = {name: name for name in names}
    _refuse_unknown(keywords, known)
    given = {name: keywords[name] for name in names if name in keywords}
    return _merge(stage, model_config, generation_config, given)


def all_options(model_config, generation_config, keywords: Mapping[str, Any]):
    """(SemanticOptions, CoarseOptions, FineOptions) from the flat keywords of `generate`.

    `semantic_temperature` reaches one stage; `temperature` the stages that `_UNPREFIXED` lists; the prefixed wins."""
    prefixed = {f"{stage}_{name}": (stage, name) for stage in STAGES for name in _names(stage)}
    _refuse_unknown(keywords, {**prefixed, **_UNPREFIXED})
    given: dict[str, dict[str, Any]] = {stage: {} for stage in STAGES}
    for name, value in keywords.items():
        for stage in _UNPREFIXED.get(name, ()):
            given[stage][name] = value
    for name, value in keywords.items():
        if name in prefixed:
            stage, field = prefixed[name]
            given[stage][field] = value
    return tuple(_merge(stage, model_config, generation_config, given[stage]) for stage in STAGES)


def _merge(stage: str, model_config, caller_config, given: Mapping[str, Any]):
    section, options_class = STAGES[stage]
    names = _names(stage)
    values = {name: getattr(getattr(model_config, section), name) for name in names}
    for layer in (_from_config(stage, section, caller_config, type(model_config)), given):
        values.update({k: v for k, v in layer.items() if k in names and not (v is None and k in _REQUIRED)})
    return options_class(**values)


def _from_config(stage: str, section: str, config, bark_class) -> dict[str, Any]:
    """What a caller's generation config says of a stage: a plain config's flat fields, and what its section sets."""
    if config is None:
        return {}
    if not isinstance(config, GenerationConfig):
        raise TypeError(f"`generation_config` must be a GenerationConfig, got {type(config).__name__}.")
    _refuse_unknown({name: getattr(config, name, None) for name in _HARMLESS}, {})
    plain = not hasattr(config, "model_type")
    _refuse_unused(config, _UNPREFIXED if plain else ())
    flat = {name for name, stages in _UNPREFIXED.items() if plain and stage in stages}
    values = {name: getattr(config, name) for name in flat if getattr(config, name, None) is not None}
    return {**values, **getattr(_with_sections(config, plain, bark_class), section).given()}


def _with_sections(config, plain: bool, bark_class):
    """The config as Bark's own, whose sections know what somebody set."""
    sections = {section: getattr(config, section, None) for section, _ in STAGES.values()}
    if all(hasattr(section, "given") for section in sections.values()):
        return config
    # transformers' own class, and what it reads from a file, hold values that nobody set; `from_dict` knows them
    return bark_class(**sections) if plain else bark_class.from_dict(config.to_dict())


def _refuse_unused(config, known: Iterable[str]) -> None:
    """Raises ValueError for what a config sets and no stage would read."""
    for name, default in vars(GenerationConfig()).items():
        value = getattr(config, name, None)
        unset = value is None or (type(value) is type(default) and value == default)
        if not unset and name not in {*known, *_HARMLESS, *_PIPELINES} and not name.startswith("_"):
            raise ValueError(
                f"`generation_config` sets `{name}` ({value!r}), which is not used. A GenerationConfig may set "
                f"{', '.join(_UNPREFIXED)}; a BarkGenerationConfig sets them in its sections "
                f"({', '.join(section for section, _ in STAGES.values())})."
            )


def _names(stage: str) -> tuple[str, ...]:
    return tuple(field.name for field in fields(STAGES[stage][1]))


def _refuse_unknown(keywords: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for name, value in keywords.items():
        if name in known:
            continue
        if name in _HARMLESS:
            if _HARMLESS[name] is not ... and not any(value is ok for ok in _HARMLESS[name]):
                raise ValueError(f"`{name}={value!r}` is not implemented for Bark; leave it out.")
            continue
        near = difflib.get_close_matches(name, known, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(sorted(known))}."
        raise TypeError(f"Unknown keyword {name!r}. {hint}")


def _number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _integer(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
