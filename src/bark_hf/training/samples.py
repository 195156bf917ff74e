"""Sample sentences spoken while a stage trains: files beside the checkpoints, and their scores.

Knows nothing of the network in training: it asks the composite to speak and others to listen."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback
from transformers.utils import logging

from ..audio.files import provenance, resample, write_audio
from ..evaluation.similarity import speaker_similarity
from ..longform.quality import Recognizer, word_error_rate
from ..modeling_bark import BarkModel
from ..processing_bark import BarkProcessor

logger = logging.get_logger(__name__)

_LEAST_SECONDS = 0.1  # what any recognizer can read


class SpeakCallback(TrainerCallback):
    """Speaks `texts` every `every` steps (0: with every checkpoint) into `<output_dir>/samples/<step>/`.

    With a recognizer the word error rate of all texts is logged, with a voice the mean similarity to it (0 for a
    sample without voiced speech); both go to `samples/scores.jsonl` and, through `log`, to the Trainer's loggers.
    The same seeds every time."""

    def __init__(
        self,
        bark: BarkModel,
        processor: BarkProcessor,
        texts: list[str],
        voice: Any = None,
        every: int = 0,
        recognizer: Recognizer | None = None,
        log: Callable[[dict[str, float]], None] | None = None,
    ):
        if not texts:
            raise ValueError("There are no sample texts: pass at least one.")
        self.prepare: Callable[[], None] = lambda: None  # by all processes, before the first one speaks
        self.bark, self.processor, self.texts = bark, processor, texts
        self.voice, self.every, self.recognizer, self.log = processor.voice(voice), every, recognizer, log

    def on_step_end(self, args, state, control, **kwargs):
        if self.every and state.global_step % self.every == 0:
            self.speak(Path(args.output_dir), state)

    def on_save(self, args, state, control, **kwargs):
        if not self.every:
            self.speak(Path(args.output_dir), state)

    def speak(self, output: Path, state) -> None:
        self.prepare()
        if not state.is_world_process_zero:
            return
        training = [module for module in self.bark.modules() if module.training]
        self.bark.eval()
        try:
            scores = self._spoken(output / "samples", state.global_step)
        finally:
            for module in training:
                module.training = True
            self.bark.sessions.clear()
        if self.log is not None and scores:
            self.log({f"samples_{name}": score for name, score in scores.items()})

    def _spoken(self, folder: Path, step: int) -> dict[str, float]:
        rate = self.bark.generation_config.sample_rate
        name = None if self.voice is None else self.voice.fingerprint
        waves = []
        (folder / str(step)).mkdir(parents=True, exist_ok=True)
        for number, text in enumerate(self.texts):
            wave = self.bark.generate(**self.processor(text, voice_preset=self.voice), seed=number)[0]
            waves.append(wave.float().cpu().numpy())
            source = provenance(model=f"step {step}", voice=name, seed=number)
            write_audio(folder / str(step) / f"{number}.wav", waves[-1], rate, source)
        scores = self._scores(waves, rate)
        line = {"step": step, "seconds": [round(len(wave) / rate, 2) for wave in waves], **scores}
        with open(folder / "scores.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return scores

    def _scores(self, waves: list[np.ndarray], rate: int) -> dict[str, float]:
        scores = {}
        if self.recognizer is not None:
            heard = [self.recognizer(wave, rate) if len(wave) else "" for wave in waves]
            if (wer := word_error_rate(self.texts, heard)) is not None:
                scores["wer"] = wer
        if self.voice is not None:
            (own,) = self.bark.decode_audio([torch.tensor(self.voice.fine_prompt)])
            wanted = own.cpu().numpy()
            scores["similarity"] = float(np.mean([_similarity(wave, wanted, rate) for wave in waves]))
        return scores


def last_samples(output: Path) -> list[Path]:
    """The recordings of the last step at which a stage's run in `output` spoke."""
    folders = [path for path in (output / "samples").glob("*") if path.name.isdigit()]
    return sorted(max(folders, key=lambda path: int(path.name)).glob("*.wav")) if folders else []


def _similarity(wave: np.ndarray, wanted: np.ndarray, rate: int) -> float:
    try:
        return speaker_similarity(wave, wanted, rate)
    except ValueError:  # too short or silent, as early samples are
        return 0.0


def asr_recognizer(model: str) -> Recognizer:
    """A transformers speech recognizer (hub id or folder) as a callable."""
    from transformers import pipeline

    recognize = pipeline("automatic-speech-recognition", model=model)
    own_rate = recognize.feature_extractor.sampling_rate

    def heard(samples: np.ndarray, rate: int) -> str:
        samples = resample(samples, rate, own_rate)  # the pipeline itself would want torchaudio
        missing = round(_LEAST_SECONDS * own_rate) - len(samples)
        return recognize({"raw": np.pad(samples, (0, max(0, missing))), "sampling_rate": own_rate})["text"]

    return heard
