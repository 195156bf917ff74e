"""One frozen options object per stage, and the one door where a caller's flat keywords become them.

Knows nothing of tensors or networks: it merges the caller's keywords, the caller's generation config and the
model's, in that order, and refuses what no stage understands."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from transformers import GenerationConfig

from ..generation_configuration_bark import plain

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
_TRANSFORMERS = {  # its keywords that are no field of a GenerationConfig; None is harmless for these and the fields
    *vars(GenerationConfig()), "streamer", "progress", "prefix_allowed_tokens_fn", "negative_prompt_ids",
    "negative_prompt_attention_mask", "custom_generate", "assistant_tokenizer", "tokenizer", "use_model_defaults",
    "stopping_criteria",
}  # fmt: skip
_IN_ONE_STAGE = "Within one stage transformers' own loop has it: model.semantic.generate(input_ids, {}=...)."
_ONE_TEXT = "It follows one text: use it in `generate`, `stream`, `generate_semantic` or `generate_coarse`"
_INSTEAD = {  # what to use in place of keywords that the three stages cannot have
    **dict.fromkeys(
        ("num_beams", "num_beam_groups", "early_stopping", "length_penalty", "diversity_penalty", "constraints",
         "force_words_ids", "penalty_alpha", "dola_layers"),
        "A beam would have to be scored over three stages. Pass `num_return_sequences` and choose among the samples. "
        + _IN_ONE_STAGE,
    ),
    **dict.fromkeys(
        ("assistant_model", "assistant_tokenizer", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp",
         "num_assistant_tokens"),
        "An assistant drafts ids of one model, and these are three. " + _IN_ONE_STAGE,
    ),
    **dict.fromkeys(
        ("output_scores", "output_logits", "output_attentions", "output_hidden_states"),
        _IN_ONE_STAGE,
    ),
    "max_length": "Prompts have a fixed length: use `max_new_tokens`, or `max_duration` in seconds.",
    "min_length": "Prompts have a fixed length: use `min_new_tokens`.",
    "stop_strings": "No stage makes text: use `stopping_criteria`, or `max_duration` in seconds.",
    "num_return_sequences": "Here each text has one sample: pass a text several times, with other seeds.",
    "streamer": _ONE_TEXT + "; `progress` takes any number.",
    "progress": "It is for `generate`, `stream` and single stages; here results come as they are done.",
    **dict.fromkeys(
        ("sequence_bias", "prefix_allowed_tokens_fn", "guidance_scale", "exponential_decay_length_penalty",
         "forced_bos_token_id", "forced_eos_token_id", "watermarking_config", "remove_invalid_values",
         "encoder_repetition_penalty", "encoder_no_repeat_ngram_size"),
        "Pass transformers' class for it in `logits_processor`, a LogitsProcessorList.",
    ),
}  # fmt: skip
_A_FRAME = "Its ids are the codes of one frame, drawn codebook by codebook, and no sequence in time"
_NOT_OF_A_STAGE = {  # keywords that some stages have and others cannot
    "fine": {
        **dict.fromkeys(
            ("repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "begin_suppress_tokens", "min_new_tokens"),
            f"{_A_FRAME}: use `suppress_tokens`, or the keyword of the coarse stage.",
        ),
        **dict.fromkeys(
            ("max_time", "stopping_criteria", "max_new_tokens"),
            "It fills as many frames as there are, all of them at once: stop the semantic or the coarse stage.",
        ),
        "streamer": "It fills all frames at once: use `progress`.",
    },
    "coarse": {
        "min_new_tokens": "Its length follows from the semantic ids: use the semantic stage's `min_new_tokens`.",
    },
}


def _probability_below_1(value) -> bool:
    return _number(value) and 0 <= value < 1


def _ids(value) -> bool:
    return isinstance(value, list) and all(_integer(one) and one >= 0 for one in value)


def _words(value) -> bool:
    return isinstance(value, list) and bool(value) and all(_ids(one) and one for one in value)


def _criteria(value) -> bool:
    return callable(value) or (isinstance(value, list) and all(map(callable, value)))


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {  # field: what a value must be, and how to say so
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
    "min_p": (lambda v: _number(v) and 0 <= v <= 1, "0 to 1, or None for off"),
    "typical_p": (lambda v: _number(v) and 0 < v <= 1, "above 0 and at most 1, or None for off"),
    "epsilon_cutoff": (_probability_below_1, "0 to below 1, or None for off"),
    "eta_cutoff": (_probability_below_1, "0 to below 1, or None for off"),
    "top_h": (lambda v: _number(v) and 0 < v <= 1, "above 0 and at most 1, or None for off"),
    "suppress_tokens": (_ids, "a list of ids, or None for off"),
    "begin_suppress_tokens": (_ids, "a list of ids, or None for off"),
    "bad_words_ids": (_words, "a list of lists of ids, or None for off"),
    "repetition_penalty": (lambda v: _number(v) and 0 < v <= 1e6, "above 0 and up to 1e6, or None for off"),
    "no_repeat_ngram_size": (lambda v: _integer(v) and v >= 0, "an integer of at least 1, or None for off"),
    "min_new_tokens": (lambda v: _integer(v) and v >= 0, "an integer of at least 0, or None for off"),
    "max_time": (lambda v: _number(v) and v > 0, "seconds above 0, or None for off"),
    "stopping_criteria": (_criteria, "a StoppingCriteriaList, or None"),
}


@dataclass(frozen=True)
class SamplingOptions:
    """How ids are drawn. `do_sample=False` or a temperature of 0 is argmax; None switches a setting off.

    So is a temperature below 1e-6: dividing by less overflows float32 and draws nothing else."""

    do_sample: bool = True
    temperature: float | None = 0.7
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    top_h: float | None = None
    suppress_tokens: list[int] | None = None

    def __post_init__(self):
        for name in (one.name for one in fields(self)):
            value = plain(getattr(self, name))
            object.__setattr__(self, name, value)
            valid, allowed = _RULES[name]
            if not (valid(value) or (value is None and name not in _REQUIRED)):
                raise ValueError(f"`{name}` must be {allowed}, got {value!r}.")

    @property
    def greedy(self) -> bool:
        return not self.do_sample or (self.temperature is not None and self.temperature < 1e-6)


@dataclass(frozen=True)
class SequenceOptions(SamplingOptions):
    """What needs ids that follow each other: the semantic and the coarse stage's. `max_time` is in seconds."""

    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    bad_words_ids: list[list[int]] | None = None
    begin_suppress_tokens: list[int] | None = None
    max_time: float | None = None
    stopping_criteria: Any = field(default=None, repr=False)  # an object's address says nothing of what it does

    @property
    def has_criteria(self) -> bool:
        """Whether a row may end after any id, so that each must be looked at."""
        return self.max_time is not None or self.stopping_criteria is not None


@dataclass(frozen=True)
class SemanticOptions(SequenceOptions):
    """`min_eos_p` stops where p(EOS) reaches it, but not before `min_new_tokens` ids; `max_duration` is in seconds;
    `max_new_tokens` counts ids."""

    max_new_tokens: int | None = 768
    min_eos_p: float | None = 0.2
    allow_early_stop: bool = True
    max_duration: float | None = None
    min_new_tokens: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if (self.min_new_tokens or 0) > (self.max_new_tokens or math.inf):
            raise ValueError(
                f"`min_new_tokens` ({self.min_new_tokens}) must be at most `max_new_tokens` ({self.max_new_tokens})."
            )


@dataclass(frozen=True)
class CoarseOptions(SequenceOptions):
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
    **dict.fromkeys(
        ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h",
         "repetition_penalty", "no_repeat_ngram_size"),
        ("semantic", "coarse"),
    ),
    **dict.fromkeys(  # when to stop, and ids, which mean something else in each stage
        ("max_new_tokens", "min_eos_p", "allow_early_stop", "max_duration", "min_new_tokens", "max_time",
         "stopping_criteria", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids"),
        ("semantic",),
    ),
    **dict.fromkeys(("max_coarse_history", "sliding_window_len"), ("coarse",)),
}  # fmt: skip


def stage_options(stage: str, model_config, generation_config, keywords: Mapping[str, Any]):
    """Options of one stage from its own, unprefixed keywords (`generate_semantic` and its siblings)."""
    names = _names(stage)
    _refuse_unknown(keywords, names, stage)
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
            stage, option = prefixed[name]
            given[stage][option] = value
    return tuple(_merge(stage, model_config, generation_config, given[stage]) for stage in STAGES)


def return_sequences(model_config, generation_config, value: int | None) -> int:
    """How many samples of each text: the keyword's number, else the caller's config's, else the model's, else 1."""
    for count in (value, getattr(generation_config, "num_return_sequences", None), model_config.num_return_sequences):
        if count is not None:
            count = plain(count)
            if not _integer(count) or count < 1:
                raise ValueError(f"`num_return_sequences` must be an integer of at least 1, got {count!r}.")
            return count
    return 1


def refuse_unread(config, name: str, but: Iterable[str] = ()) -> None:
    """Raises ValueError for what a BarkGenerationConfig, `name` to its owner, sets and no stage reads."""
    for unread, value in config.unread().items():
        if unread not in but:
            _raise_unread(name, unread, value)


def _merge(stage: str, model_config, caller_config, given: Mapping[str, Any]):
    section, options_class = STAGES[stage]
    names = _names(stage)
    own = getattr(model_config, section)
    values = {name: getattr(own, name) for name in names if name in own.defaults}
    for layer in (_from_config(stage, section, caller_config, type(model_config)), given):
        values.update({k: v for k, v in layer.items() if k in names and not (v is None and k in _REQUIRED)})
    return options_class(**values)


def _from_config(stage: str, section: str, config, bark_class) -> dict[str, Any]:
    """What a caller's generation config says of a stage: a plain config's flat fields, and what its section sets."""
    if config is None:
        return {}
    if not isinstance(config, GenerationConfig):
        raise TypeError(f"`generation_config` must be a GenerationConfig, got {type(config).__name__}.")
    if hasattr(config, "unread"):
        refuse_unread(config, "generation_config", but=_PIPELINES)
        return getattr(config, section).given()
    plain_config = not hasattr(config, "model_type")
    known = _UNPREFIXED if plain_config else ()
    _refuse_unused(config, known)
    flat = {name for name, stages in _UNPREFIXED.items() if plain_config and stage in stages}
    values = {name: getattr(config, name) for name in flat if getattr(config, name, None) is not None}
    return {**values, **getattr(_with_sections(config, plain_config, bark_class), section).given()}


def _with_sections(config, plain_config: bool, bark_class):
    """The config as Bark's own, whose sections know what somebody set."""
    sections = {section: getattr(config, section, None) for section, _ in STAGES.values()}
    # transformers' own class, and what it reads from a file, hold values that nobody set; `from_dict` knows them
    return bark_class(**sections) if plain_config else bark_class.from_dict(config.to_dict())


def _refuse_unused(config, known: Iterable[str]) -> None:
    """Raises ValueError for what a config of transformers' sets and no stage would read."""
    _refuse_unknown({name: getattr(config, name, None) for name in _HARMLESS if name != "num_return_sequences"}, {})
    for name, default in vars(GenerationConfig()).items():
        value = getattr(config, name, None)
        unset = value is None or (type(value) is type(default) and value == default)
        if not unset and name not in {*known, *_HARMLESS, *_PIPELINES} and not name.startswith("_"):
            _raise_unread("generation_config", name, value)


def _raise_unread(config: str, name: str, value) -> None:
    raise ValueError(
        f"`{config}` sets `{name}` ({value!r}), which is not used. {_instead(name.rpartition('.')[2])}A plain "
        f"GenerationConfig may set {', '.join(_UNPREFIXED)}; a BarkGenerationConfig sets them in its sections "
        f"({', '.join(section for section, _ in STAGES.values())})."
    )


def _names(stage: str) -> tuple[str, ...]:
    return tuple(one.name for one in fields(STAGES[stage][1]))


def _instead(name: str) -> str:
    return _INSTEAD[name].format(name) + " " if name in _INSTEAD else ""


def _refuse_unknown(keywords: Mapping[str, Any], known: Iterable[str], stage: str | None = None) -> None:
    """Raises for keywords that are not `known`; `stage` is the one that they are for where they have no prefix."""
    for name, value in keywords.items():
        if name in known:
            continue
        value = plain(value)
        prefix, _, rest = name.partition("_")
        whose, option = (prefix, rest) if stage is None and prefix in STAGES else (stage, name)
        if option in _HARMLESS and (_HARMLESS[option] is ... or any(value is ok for ok in _HARMLESS[option])):
            continue
        if value is None and option in _TRANSFORMERS:
            continue
        why = _NOT_OF_A_STAGE.get(whose or "", {}).get(option)
        if why is not None:
            raise ValueError(f"The {whose} stage has no `{option}`. {why}")
        if option in _TRANSFORMERS or option in _HARMLESS:
            raise ValueError(
                f"`{name}={value!r}` is not implemented here. {_instead(option) or 'Leave it out.'}".strip()
            )
        near = difflib.get_close_matches(name, known, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(sorted(known))}."
        raise TypeError(f"Unknown keyword {name!r}. {hint}")


def _number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _integer(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
