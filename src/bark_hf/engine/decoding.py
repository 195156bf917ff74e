"""The one autoregressive loop: jobs in, each with its prompts and draws; finished jobs out, in the order they end.

Knows nothing of text, codebooks or audio: only a causal model, a cache with a length per row, legal id ranges."""

import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..sampling import draw, probabilities, uniforms_device
from .static_step import StaticStep
from .step import FastStep, fast_step


def on_device(numbers: list[int], device: torch.device) -> Tensor:
    """(n,) int64 on the device; CUDA copies them from pinned memory, for which the host does not wait."""
    pinned = device.type == "cuda"
    return torch.tensor(numbers, device="cpu", pin_memory=pinned).to(device, non_blocking=pinned)


class RowCache:
    """Keys and values of every layer, (slots, heads, capacity, head_dim), allocated once, with a length for each row.

    They are kept in `dtype`, by default as they come. The session says which rows a forward is for (`rows`), where it
    writes (`positions`, or `start` where all rows write at one place), how much is read (`limit`) and what each row
    may see (`mask`, None: all that is causal)."""

    def __init__(self, slots: int, capacity: int, dtype: torch.dtype | None = None):
        self.slots, self.capacity, self.dtype = slots, capacity, dtype
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.rows = slice(0, 0)
        self.start: int | None = 0
        self.positions = torch.empty(0, device="cpu")
        self.limit = 0
        self.mask: Tensor | None = None

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if layer_idx not in self.layers:
            shape = (self.slots, key.shape[1], self.capacity, key.shape[3])
            self.layers[layer_idx] = key.new_zeros(shape, dtype=self.dtype), key.new_zeros(shape, dtype=self.dtype)
        keys, values = self.layers[layer_idx]
        keys, values = keys[self.rows], values[self.rows]
        if self.start is not None:
            span = slice(self.start, self.start + key.shape[2])
            keys[:, :, span] = key
            values[:, :, span] = value
            if self.start == 0:  # there is nothing before
                return key, value
        else:
            index = self.positions.to(key.device)[:, None, :, None].expand_as(key)
            keys.scatter_(2, index, key)
            values.scatter_(2, index, value)
        return keys[:, :, : self.limit], values[:, :, : self.limit]

    def convert(self, dtype: torch.dtype) -> None:
        """Keeps keys and values in `dtype` from here on."""
        self.dtype = dtype
        self.layers = {i: (keys.to(dtype), values.to(dtype)) for i, (keys, values) in self.layers.items()}

    def move(self, source: int, target: int) -> None:
        """Copies one row over another."""
        for keys, values in self.layers.values():
            keys[target].copy_(keys[source])
            values[target].copy_(values[source])


class DecodeSession:
    """A model's decoding state: a cache of `slots` rows and how many positions of each are filled.

    Rows may have prompts of different lengths: a shorter one is padded on the right, causality keeps its real
    positions from seeing the pad, and the row's own steps then overwrite it. Not shared between calls or threads."""

    def __init__(self, model, slots: int, capacity: int, cache_dtype: torch.dtype | None = None):
        self.model: Any = model
        self.cache = RowCache(slots, min(capacity, model.config.block_size), cache_dtype)
        self.lengths = [0] * slots
        self.fast: FastStep | None = None
        self.static: StaticStep | None = None

    def prefill(self, first: int, prompts: list[dict[str, Tensor]], legal: tuple[int, int] | None) -> Tensor:
        """Starts the rows from number `first` on anew with a prompt each -> (n, V) logits after each prompt.

        A prompt is `input_ids` (Q,) and other inputs of the model's forward; `legal` cuts the logits to a range."""
        device = self.model.device
        lengths = [len(prompt["input_ids"]) for prompt in prompts]
        width = max(lengths)
        inputs = {
            name: nn.utils.rnn.pad_sequence([prompt[name] for prompt in prompts], batch_first=True).to(device)
            for name in prompts[0]
        }
        self.lengths[first : first + len(prompts)] = lengths
        cache = self.cache
        cache.rows, cache.start, cache.limit = slice(first, first + len(prompts)), 0, width
        cache.positions = torch.arange(width, device=device).expand(len(prompts), -1)
        cache.mask = None  # from position 0 on causality says it all
        if min(lengths) == width:
            return self._forward(legal, 1, **inputs)
        return self._forward(legal, on_device(lengths, device)[:, None] - 1, **inputs)

    def step(self, ids: Tensor, legal: tuple[int, int] | None) -> Tensor:
        """(n,) ids for the first n rows, each appended to its row -> (n, V) logits for the next ones."""
        count = len(ids)
        lengths = self.lengths[:count]
        self.lengths[:count] = [length + 1 for length in lengths]
        if self.static is not None and self.fast is not None:
            self.static.step = self.fast
            return self.static(ids, on_device(lengths, ids.device)[:, None], max(lengths) + 1, legal)
        cache, longest = self.cache, max(lengths) + 1
        even = longest == min(lengths) + 1
        cache.rows, cache.limit = slice(0, count), longest
        cache.start = longest - 1 if even else None
        cache.mask = None
        if self.fast is None or not even:
            cache.positions = on_device(lengths, ids.device)[:, None]
        if not even:
            visible = torch.arange(longest, device=ids.device) <= cache.positions
            cache.mask = visible[:, None, None]
        if self.fast is not None:
            return self.fast(ids, cache, legal)
        return self._forward(legal, 0, input_ids=ids[:, None])

    def move(self, source: int, target: int) -> None:
        """Makes row `target` what row `source` is; `source` is free then."""
        self.cache.move(source, target)
        self.lengths[target] = self.lengths[source]

    def _forward(self, legal: tuple[int, int] | None, logits_to_keep, **inputs) -> Tensor:
        output = self.model(
            position_ids=self.cache.positions,
            cache=self.cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
            logits_range=legal,
            return_dict=True,
            **inputs,
        )
        return output.logits[:, -1]


class SessionPool:
    """Sessions that are kept between calls, so that caches are allocated once. Two calls at a time never share one.

    Copies and pickles of a pool are empty. `clear` drops what is free; what is in use goes when it comes back.
    What is free does not keep its model in memory, and goes when the model has gone."""

    KEPT = 4

    def __init__(self, static: bool = False):
        self.static = static  # steps of fixed shapes, captured as graphs on CUDA
        self._free: list[tuple[tuple, DecodeSession]] = []
        self._lock = threading.Lock()
        self._age = 0

    @contextmanager
    def session(self, model, slots: int, capacity: int) -> Iterator[DecodeSession]:
        # other parameters (an adapter) need a new session, and so do other addresses, where graphs hold them
        weights = hash(tuple((id(w), w.data_ptr() if self.static else 0) for w in model.parameters()))
        # caches made in inference mode cannot be written outside it, and autocast gives them its own type
        kind = model.device.type
        mode = torch.is_inference_mode_enabled(), torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
        fast = fast_step(model)
        cache_dtype = None if fast is None else fast.cache_dtype(slots)
        plain = fast is None  # keys and values may then come in another type, as from a forward with autocast inside
        key = (weakref.ref(model), weights, slots, capacity, model.device, model.dtype, cache_dtype, plain, mode)
        with self._lock:
            self._free = [one for one in self._free if one[0][0]() is not None]
            found = [i for i, (other, _) in enumerate(self._free) if other == key]
            session = self._free.pop(found[0])[1] if found else DecodeSession(model, slots, capacity, cache_dtype)
            age = self._age
            if not found and self.static:
                session.static = StaticStep(session.cache)
        session.model, session.fast = model, fast
        yield session
        session.model = session.fast = None
        if session.static is not None:
            session.static.step = None
        with self._lock:  # a session that an error interrupted is not kept
            if age == self._age:
                self._free = [*self._free, (key, session)][-self.KEPT :]

    def clear(self) -> None:
        with self._lock:
            self._free.clear()
            self._age += 1

    def __deepcopy__(self, memo) -> "SessionPool":
        return SessionPool(self.static)

    def __reduce__(self):
        return SessionPool, (self.static,)


class Job(Protocol):
    """One row's work: what to put into the cache, which ids are legal, and what becomes of the ids drawn."""

    drawn: int  # how many ids were drawn so far
    total: int  # how many there can be at most
    noise: Tensor  # (total,) float64 uniforms of the row's own stream; draw number i uses noise[i]
    stale: bool  # the cache does not hold what the next draw needs: `prompt` does
    done: bool
    ids: Tensor  # all ids drawn so far, for logits processors

    def prompt(self) -> dict[str, Tensor]:
        """The model's inputs (Q, ...) after which the next ids are drawn; the job is no longer stale."""

    def budget(self) -> int:
        """How many draws until the job is stale or done."""

    def legal(self, draw: int) -> tuple[int, int]:
        """First and past-the-last id that draw number `draw` may give; the width is one for all jobs and draws."""

    def take(self, ids: Tensor, stopped: Tensor) -> None:
        """The next (k,) ids, and where the row stopped: an id there and those after it are not the row's."""


class Draws(NamedTuple):
    ids: Tensor  # (n,) what each row drew; past its last legal id where the network gave NaN
    stopped: Tensor  # (n,) bool: the row ends here and this id is not part of it


def run_jobs(
    sessions: SessionPool,
    model,
    jobs: Iterable[Any],
    slots: int,
    capacity: int,
    options,
    *,
    eos: int | None = None,
    logits_processor=None,
    report=None,
    look_every: int | None = None,
    partial: bool = False,
) -> Iterator[Any]:
    """Runs jobs in `slots` rows and yields each as it ends; a freed row goes to the next job at once.

    `jobs` is read when a row is free. Rows are kept dense, so that a step costs what its running rows cost.
    `look_every`: how many steps at most go without looking at the ids; None: as many as the jobs' prompts allow. With
    `partial` each job also comes out unfinished, whenever it has new ids."""
    waiting = iter(jobs)
    active: list[Any] = []
    with sessions.session(model, slots, capacity) as session:
        last = torch.zeros(slots, dtype=torch.long, device=model.device)  # each row's id that no step has seen yet
        while True:
            while len(active) < slots and (job := next(waiting, None)) is not None:
                if job.done:
                    yield job
                else:
                    active.append(job)
            if not active:
                return
            for first, count in _runs([row for row, job in enumerate(active) if job.stale]):
                rows = slice(first, first + count)
                _start(session, first, active[rows], last[rows], options, eos, logits_processor)
                if report is not None:
                    report(active[rows], 0, last[rows])
            steps = 0 if any(job.done for job in active) else min(job.budget() for job in active)
            if look_every is not None:
                steps = min(steps, look_every)
            _advance(session, steps, active, last[: len(active)], options, eos, logits_processor, report)
            if partial:
                yield from [job for job in active if not job.done]
            for row in reversed(range(len(active))):
                if active[row].done:
                    end = len(active) - 1
                    job, active[row] = active[row], active[end]
                    active.pop()
                    if row != end:
                        session.move(end, row)
                        last[row] = last[end]
                    yield job


def _start(session, first: int, jobs: list[Any], last: Tensor, options, eos, logits_processor) -> None:
    """Fills the rows from `first` on with the jobs' prompts and draws one id for each, into `last` (n,)."""
    prompts = [job.prompt() for job in jobs]
    shown = _shown(jobs, 0, logits_processor)
    logits = session.prefill(first, prompts, shown)
    noise = torch.stack([job.noise[job.drawn] for job in jobs]).to(uniforms_device(last.device))
    draws = _draw(logits, jobs, 0, shown, options, noise, eos, logits_processor, [])
    _feed(jobs, 0, draws, last)
    _take(session.model, jobs, [draws])


def _advance(session, steps: int, jobs: list[Any], last: Tensor, options, eos, logits_processor, report) -> None:
    """Takes all rows `steps` draws on; nothing here waits for the device before the last one."""
    if not steps:
        return
    noise = torch.stack([job.noise[job.drawn : job.drawn + steps] for job in jobs]).to(uniforms_device(last.device))
    made: list[Draws] = []
    for step in range(steps):
        shown = _shown(jobs, step, logits_processor)
        logits = session.step(last, shown)
        made.append(_draw(logits, jobs, step, shown, options, noise[:, step], eos, logits_processor, made))
        _feed(jobs, step, made[-1], last)
        if report is not None:
            report(jobs, step + 1, made[-1].ids)
    _take(session.model, jobs, made)


def _feed(jobs: list[Any], ahead: int, draws: Draws, last: Tensor) -> None:
    """The next step's input, into `last` (n,); an id that is none must not reach the embedding before it is seen."""
    end = max(job.legal(job.drawn + ahead)[1] for job in jobs)
    torch.clamp(draws.ids, max=end - 1, out=last)


def _runs(rows: list[int]) -> Iterator[tuple[int, int]]:
    """Sorted row numbers -> (first, count) of each unbroken run."""
    start = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or rows[i] != rows[i - 1] + 1:
            yield rows[start], i - start
            start = i


def _shown(jobs: list[Any], ahead: int, logits_processor) -> tuple[int, int] | None:
    """The smallest id range that holds every job's legal ids; None for all ids, which a processor is shown."""
    if logits_processor is not None:
        return None
    ranges = [job.legal(job.drawn + ahead) for job in jobs]
    return min(first for first, _ in ranges), max(end for _, end in ranges)


def _draw(logits, jobs, ahead: int, shown, options, noise, eos, logits_processor, made: list[Draws]) -> Draws:
    """(n, V) logits of the `shown` ids -> one draw for each job, `ahead` draws after its last one."""
    scores = logits.float()
    ranges = [job.legal(job.drawn + ahead) for job in jobs]
    if logits_processor is not None:
        scores = _processed(scores, jobs, ranges, logits_processor, made)
    offset = 0 if shown is None else shown[0]
    firsts = [first for first, _ in ranges]
    width = ranges[0][1] - firsts[0]
    if len(set(firsts)) == 1:
        return choose(scores[:, firsts[0] - offset :][:, :width], firsts[0], options, noise, eos)
    origin = on_device(firsts, scores.device)
    scores = scores.gather(1, (origin - offset)[:, None] + torch.arange(width, device=scores.device))
    return choose(scores, origin, options, noise, eos)


def choose(scores: Tensor, origin, options, noise: Tensor, eos: int | None = None) -> Draws:
    """(n, V) scores of the legal ids from `origin` on -> a draw for each row, which stops at EOS or where its
    probability, after filters and temperature, reaches `options.min_eos_p`."""
    ids, p_eos = pick(scores, options, noise, None if eos is None else eos - origin)
    ids = ids + origin
    stopped = torch.zeros_like(ids, dtype=torch.bool) if eos is None else ids == eos
    if p_eos is not None and options.min_eos_p is not None:
        stopped = stopped | (p_eos >= options.min_eos_p)
    return Draws(ids, stopped)


def pick(scores: Tensor, options, uniforms: Tensor, watched: int | None = None) -> tuple[Tensor, Tensor | None]:
    """(..., V) scores -> (...) ids and the `watched` id's probability (...); argmax is the limit of temperature 0.

    Scores that are NaN or infinite give V, which is no id: whoever looks at the ids says so (`not_finite`)."""
    if options.greedy:
        ids = scores.argmax(-1)
        finite = scores.gather(-1, ids.unsqueeze(-1)).squeeze(-1).isfinite()
        ids = torch.where(finite, ids, scores.shape[-1])
        return ids, None if watched is None else (ids == watched).float()
    probs = probabilities(scores, options.temperature, options.top_k, options.top_p)
    return draw(probs, uniforms.to(uniforms_device(probs.device))), None if watched is None else probs[..., watched]


def not_finite(model, step: str) -> RuntimeError:
    """The error for a network whose logits nothing can be sampled from."""
    return RuntimeError(
        f"The network `{model.base_model_prefix}` gave NaN or infinite logits at {step}. Either its weights are "
        "broken (look for NaN in them), or numbers are too large for its type: float16 overflows, so pass "
        "dtype=torch.bfloat16 or torch.float32 to `from_pretrained`."
    )


def process(scores: Tensor, first: int, end: int, logits_processor, generated: Tensor | None) -> Tensor:
    """Runs a caller's logits processor over (N, V) scores whose ids outside [first, end) are -inf.

    Raises ValueError where it leaves a row nothing to draw from."""
    masked = torch.full_like(scores, -torch.inf)
    masked[:, first:end] = scores[:, first:end]
    if generated is None:
        generated = torch.zeros(len(scores), 0, dtype=torch.long, device=scores.device)
    processed = logits_processor(generated, masked)
    if not processed[:, first:end].amax(-1).isfinite().all():
        if not scores[:, first:end].amax(-1).isfinite().all():
            return scores  # not the processor's doing: sampling shows it
        raise ValueError(
            f"`logits_processor`, or keywords that forbid ids, left no id to draw: among the legal ids, {first} to "
            f"{end - 1}, every row needs a finite score, and none may be NaN or +inf. Forbid fewer ids."
        )
    return processed


def _processed(scores: Tensor, jobs: list[Any], ranges, logits_processor, made: list[Draws]) -> Tensor:
    """Rows that are equally far go through the processor together, others one by one."""
    generated = [
        torch.cat([job.ids.to(scores.device), *(draws.ids[row : row + 1] for draws in made)])
        for row, job in enumerate(jobs)
    ]
    if len({len(ids) for ids in generated}) == 1 and len(set(ranges)) == 1:
        first, end = ranges[0]
        return process(scores, first, end, logits_processor, torch.stack(generated))
    alone = scores.split(1)
    rows = zip(alone, ranges, generated, strict=True)
    return torch.cat([process(one, first, end, logits_processor, ids[None]) for one, (first, end), ids in rows])


def _take(model, jobs: list[Any], made: list[Draws]) -> None:
    ids, stopped = torch.stack([d.ids for d in made], dim=1).cpu(), torch.stack([d.stopped for d in made], dim=1).cpu()
    for job, one, stop in zip(jobs, ids, stopped, strict=True):
        for step, (number, stops) in enumerate(zip(one.tolist(), stop.tolist(), strict=True), start=job.drawn):
            if number >= job.legal(step)[1]:
                raise not_finite(model, f"step {step + 1}")
            if stops:
                break
        job.take(one, stop)
