"""One engine in a process of its own: commands in, seconds out. So memory is its own and rounds can alternate.

Both ends of the pipe are here; knows nothing of rounds, medians or options' texts."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers.utils import logging

from .engines import ENGINES, Engine
from .machine import peak_memory, place_on, reset_peak_memory, synchronize
from .workload import Inputs, tokens_for, vocabulary_of


class WorkerError(RuntimeError):
    """The process said, in a sentence, why it cannot do what it was told, or died."""


class Worker:
    """The near end: starts the process, sends one command at a time, ends it on exit."""

    def __init__(self, threads: int):
        limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self.talk = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed with the worker
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.talk,
            text=True,
            env={**os.environ, **limits, "TOKENIZERS_PARALLELISM": "false"},
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.talk):
            try:
                stream.close()  # type: ignore[union-attr]
            except BrokenPipeError:
                continue

    def ask(self, do: str, report: Callable[[str], None] | None = None, **arguments) -> Any:
        """Sends a command and waits for its result; `report` gets what the process says on the way."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
            for line in self.process.stdout:
                answer = json.loads(line)
                if "result" in answer:
                    return answer["result"]
                if "error" in answer:
                    raise WorkerError(answer["error"])
                if report is not None:
                    report(answer["progress"])
        except BrokenPipeError:
            pass
        raise WorkerError(self._last_words())

    def _last_words(self) -> str:
        code = self.process.wait()
        self.talk.seek(0)
        lines = [line.strip() for line in self.talk if line.strip()]
        return f"Its process ended with code {code}" + (f": {lines[-1]:.300}" if lines else ", perhaps out of memory.")


class Far:
    """The far end: holds the engine and answers commands."""

    engine: Engine

    def __init__(self, say: Callable[[str], None]):
        self.say = say

    def build(self, engine: str, source: str, dtype: str, device: str, threads: int, seconds: float) -> float:
        """Loads the engine; returns its seconds."""
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.set_grad_enabled(False)
        self.place = place_on(device, threads)
        vocabulary = vocabulary_of(source)
        self.tokens = tokens_for(seconds, vocabulary)
        self.inputs = Inputs(vocabulary, self.tokens)
        self.window = vocabulary.coarse_length(len(self.inputs.one_window))
        self.frame = vocabulary.coarse_length(len(self.inputs.one_frame))
        self.engine, spent = self._clock(lambda: ENGINES[engine](source, dtype, self.place, vocabulary))
        return spent

    def warm_up(self, batch: int, whole: bool) -> float:
        """A few ids of each stage, or a whole unmeasured round; returns its seconds, the first call's cost."""
        inputs, engine = self.inputs, self.engine

        def few() -> None:
            engine.semantic(inputs.text, 4, batch)
            engine.coarse(inputs.one_frame, batch)
            engine.coarse(inputs.one_frame, batch, inputs.voice)
            engine.fine(inputs.coarse[:, :8], batch)
            engine.decode(inputs.fine[:, :8], batch)

        _, spent = self._clock((lambda: self.round(batch)) if whole else few)
        return spent

    def round(self, batch: int) -> dict[str, float | int | None]:
        """The seconds of every stage, and of the short runs that prefill and step are derived from."""
        inputs, engine, tokens = self.inputs, self.engine, self.tokens
        hop = engine.decode(inputs.fine[:, :1], batch)  # samples of a frame
        calls: tuple[tuple[str, Callable[[], int], int], ...] = (
            ("semantic", lambda: engine.semantic(inputs.text, tokens.semantic, batch), tokens.semantic),
            ("semantic_one", lambda: engine.semantic(inputs.text, 1, batch), 1),
            ("coarse", lambda: engine.coarse(inputs.semantic, batch), tokens.coarse),
            ("coarse_first_window", lambda: engine.coarse(inputs.one_window, batch), self.window),
            ("coarse_voice_frame", lambda: engine.coarse(inputs.one_frame, batch, inputs.voice), self.frame),
            ("coarse_voice_window", lambda: engine.coarse(inputs.one_window, batch, inputs.voice), self.window),
            ("fine", lambda: engine.fine(inputs.coarse, batch), tokens.frames),
            ("codec", lambda: engine.decode(inputs.fine, batch), tokens.frames * hop),
        )
        reset_peak_memory(self.place)
        seconds: dict[str, float | int | None] = {}
        for name, call, wanted in calls:
            made, seconds[name] = self._clock(call)
            if made != wanted:
                raise ValueError(f"{name} made {made} instead of {wanted}: the numbers would not compare.")
            self.say(f"{name} {seconds[name]:.2f} s")
        seconds["coarse_voice_steps"] = self.window - self.frame
        seconds["coarse_voice_prefill_steps"] = self.frame - 1
        seconds["peak_memory_bytes"] = peak_memory(self.place)
        return seconds

    def _clock(self, call: Callable[[], Any]) -> tuple[Any, float]:
        """The call's result and its seconds, to the end of what it left running on the device."""
        synchronize(self.place)
        start = time.perf_counter()
        result = call()
        synchronize(self.place)
        return result, time.perf_counter() - start


def serve() -> None:
    """Reads commands from stdin until it closes; whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**what) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    far = Far(lambda sentence: answer(progress=sentence))
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer(result=getattr(far, command.pop("do"))(**command))
        except Exception as error:  # said to the near end, which reports it
            reason = " ".join(str(error).split()) or type(error).__name__
            answer(error=reason[:300] if isinstance(error, ValueError) else f"{type(error).__name__}: {reason:.300}")
