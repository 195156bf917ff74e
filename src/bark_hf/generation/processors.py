"""A stage's options as transformers' own logits processors and stopping criteria.

Knows nothing of networks or of the loop that calls them: each gets one row's ids, or rows that are equally far."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TopHLogitsWarper,
    TypicalLogitsWarper,
)
from transformers.generation.stopping_criteria import MaxTimeCriteria, StoppingCriteriaList

Processor = Callable[[Tensor, Tensor], Tensor]  # (generated ids (n, L), scores (n, V)) -> scores (n, V)


def sequence_processor(options, own: Processor | None, eos: int | None = None) -> Processor | None:
    """The semantic or coarse stage's processor: penalties and forbidden ids, the caller's `own`, then the filters.

    None where there is nothing to do. Without keywords it is `own` itself. `eos`: where the stage has one."""
    rules: list[Processor] = []
    if options.repetition_penalty not in (None, 1):
        rules.append(RepetitionPenaltyLogitsProcessor(float(options.repetition_penalty)))
    if options.no_repeat_ngram_size:
        rules.append(NoRepeatNGramLogitsProcessor(options.no_repeat_ngram_size))
    if options.bad_words_ids:
        rules.append(NoBadWordsLogitsProcessor(options.bad_words_ids))
    if eos is not None and options.min_new_tokens:
        rules.append(_MinNewTokens(0, options.min_new_tokens, eos))
    rules += _suppressed(options)
    if options.begin_suppress_tokens:
        rules.append(SuppressTokensAtBeginLogitsProcessor(options.begin_suppress_tokens, 0))
    return _chain(rules, own, _filters(options))


def frame_processor(options, own: Processor | None) -> Processor | None:
    """The fine stage's, whose rows are frames."""
    return _chain(_suppressed(options), own, _filters(options))


def stopping_criteria(options) -> StoppingCriteriaList | None:
    """One row's criteria, whose clock starts now; None where there are none."""
    own = options.stopping_criteria
    criteria: list[Any] = [] if own is None else list(own) if isinstance(own, list) else [own]
    if options.max_time is not None:
        criteria.append(MaxTimeCriteria(options.max_time))
    return StoppingCriteriaList(criteria) if criteria else None


def check_named_ids(options, stage: str, first: int, end: int) -> None:
    """Raises ValueError for a list that names an id which the stage, whose ids lie in [first, end), cannot sample."""
    named = {"suppress_tokens": options.suppress_tokens or []}
    if stage != "fine":
        named["begin_suppress_tokens"] = options.begin_suppress_tokens or []
        named["bad_words_ids"] = [one for word in options.bad_words_ids or [] for one in word]
    for name, ids in named.items():
        for one in ids:
            if not first <= one < end:
                raise ValueError(f"`{name}` names id {one}; the {stage} stage's ids are {first} to {end - 1}.")


class _MinNewTokens(MinNewTokensLengthLogitsProcessor):
    """Follows the scores to their device, which an offloaded stage's parameters do not tell beforehand."""

    eos_token_id: Tensor

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.eos_token_id = self.eos_token_id.to(scores.device)
        return super().__call__(input_ids, scores)


def _suppressed(options) -> list[Processor]:
    return [SuppressTokensLogitsProcessor(options.suppress_tokens)] if options.suppress_tokens else []


def _filters(options) -> list[Processor]:
    """What cuts a distribution, in transformers' order; argmax needs none of them."""
    if options.greedy:
        return []
    filters: list[Processor] = []
    if options.top_h is not None:
        filters.append(TopHLogitsWarper(options.top_h))
    if options.min_p is not None:
        filters.append(MinPLogitsWarper(options.min_p))
    if options.typical_p is not None and options.typical_p < 1:
        filters.append(TypicalLogitsWarper(options.typical_p))
    if options.epsilon_cutoff:
        filters.append(EpsilonLogitsWarper(options.epsilon_cutoff))
    if options.eta_cutoff:
        filters.append(EtaLogitsWarper(options.eta_cutoff))
    return filters


def _chain(before: list[Processor], own: Processor | None, after: list[Processor]) -> Processor | None:
    if not before and not after:
        return own
    steps = [*before, *([] if own is None else [own]), *after]

    def processor(ids: Tensor, scores: Tensor) -> Tensor:
        for step in steps:
            scores = step(ids, scores)
        return scores

    return processor
