"""The functions of Suno's own `bark` package over this port: its scripts run here with their import changed.

Knows nothing of how anything is made; it loads one model, calls its stages and gives NumPy arrays.

    from bark_hf.compat import SAMPLE_RATE, generate_audio, preload_models   # was: from bark import ...

Names, parameters, defaults, shapes and dtypes are the original's, from its `bark`, `bark.api` and `bark.generation`
alike. What differs:

- The environment is read when a model is loaded, not at import. `SUNO_USE_SMALL_MODELS`, `SUNO_ENABLE_MPS` and
  `SUNO_OFFLOAD_CPU` mean what they did. `BARK_HF_MODEL` is new: the hub id or folder of another model, for all stages.
- `seed=` is new: it repeats a result. Without it `torch.manual_seed` does; the ids are others than the original draws.
- Weights and arithmetic are float32 everywhere. Of `use_kv_caching` nothing is left to choose: keys are always kept.
- What the original asserts is a ValueError here. A voice is checked whole by every function that takes one, and
  `generate_fine` takes two codebooks, not one to seven. `temp=0` works: the likeliest id.
- A text that ends with its first id is a warning and empty arrays, where the original fails.
"""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .modeling_bark import BarkCoarseModel, BarkFineModel, BarkModel, BarkSemanticModel
from .processing_bark import BarkProcessor
from .voices.voice import Voice

SAMPLE_RATE = 24_000  # Hz; a constant of the original, so a model at another rate is refused
LARGE, SMALL = "suno/bark", "suno/bark-small"
STAGES = {"semantic": BarkSemanticModel, "coarse_acoustics": BarkCoarseModel, "fine_acoustics": BarkFineModel}


def preload_models(
    text_use_gpu: bool = True,
    text_use_small: bool = False,
    coarse_use_gpu: bool = True,
    coarse_use_small: bool = False,
    fine_use_gpu: bool = True,
    fine_use_small: bool = False,
    codec_use_gpu: bool = True,
    force_reload: bool = False,
) -> None:
    """Loads what the other functions use; without it the first of them loads the defaults.

    `*_use_small` takes that stage of suno/bark-small instead of suno/bark, `*_use_gpu=False` leaves it on the CPU. A
    later call loads again where it asks for something else, or by `force_reload`. `SUNO_OFFLOAD_CPU` is for CUDA: each
    stage moves there for its turn, whatever its own flag. Raises OSError for a model that is not there, ValueError for
    one whose audio is not at 24 kHz."""
    small = text_use_small, coarse_use_small, fine_use_small
    plan = _Plan(
        tuple(_source(one) for one in small),
        (*map(_device, (text_use_gpu, coarse_use_gpu, fine_use_gpu)), _device(codec_use_gpu, is_codec=True)),
        _is_on("SUNO_OFFLOAD_CPU"),
    )
    with _LOCK:
        if force_reload or plan not in _LOADED:
            _LOADED.clear()  # there is room for one
            _LOADED[plan] = plan.load()


def generate_audio(
    text: str, history_prompt: Any = None, text_temp: float = 0.7, waveform_temp: float = 0.7, silent: bool = False,
    output_full: bool = False, *, seed: int | None = None,
) -> Any:  # fmt: skip
    """Text -> (N,) float32 at 24 kHz; with `output_full` (a voice's arrays as a dict, that audio).

    history_prompt, of this and the others: a preset's name, a path that ends in .npz, or a mapping of a voice's
    arrays. silent: no progress bars. Raises ValueError for what cannot be spoken."""
    semantic = text_to_semantic(text, history_prompt, text_temp, silent, seed=seed)
    return semantic_to_waveform(semantic, history_prompt, waveform_temp, silent, output_full, seed=seed)


def text_to_semantic(
    text: str, history_prompt: Any = None, temp: float = 0.7, silent: bool = False, *, seed: int | None = None
) -> np.ndarray:
    """Text -> (S,) int64 semantic ids."""
    return generate_text_semantic(text, history_prompt, temp, silent=silent, seed=seed)


def semantic_to_waveform(
    semantic_tokens: Any, history_prompt: Any = None, temp: float = 0.7, silent: bool = False,
    output_full: bool = False, *, seed: int | None = None,
) -> Any:  # fmt: skip
    """(S,) semantic ids -> (N,) float32 audio, or (a voice's arrays, audio). `temp` is the coarse stage's."""
    coarse = generate_coarse(semantic_tokens, history_prompt, temp, silent=silent, seed=seed)
    fine = generate_fine(coarse, history_prompt, seed=seed)
    audio = codec_decode(fine)
    full = {"semantic_prompt": semantic_tokens, "coarse_prompt": coarse, "fine_prompt": fine}
    return (full, audio) if output_full else audio


def generate_text_semantic(
    text: str, history_prompt: Any = None, temp: float = 0.7, top_k: int | None = None, top_p: float | None = None,
    silent: bool = False, min_eos_p: float | None = 0.2, max_gen_duration_s: float | None = None,
    allow_early_stop: bool = True, use_kv_caching: bool = False, *, seed: int | None = None,
) -> np.ndarray:  # fmt: skip
    """Text -> (S,) int64 semantic ids, with the stage's options."""
    if not isinstance(text, str):
        raise ValueError(f"`text` must be one string, got {type(text).__name__}.")
    model, processor = _loaded()
    with _Bar() as bar:
        (ids,) = model.generate_semantic(
            **processor(text),
            history_prompt=_voice(processor, history_prompt),
            temperature=temp,
            top_k=top_k,
            top_p=top_p,
            min_eos_p=min_eos_p,
            max_duration=max_gen_duration_s,
            allow_early_stop=allow_early_stop,
            seed=seed,
            progress=None if silent else bar.put,
        )
    return ids.cpu().numpy()


def generate_coarse(
    x_semantic: Any, history_prompt: Any = None, temp: float = 0.7, top_k: int | None = None,
    top_p: float | None = None, silent: bool = False, max_coarse_history: int = 630, sliding_window_len: int = 60,
    use_kv_caching: bool = False, *, seed: int | None = None,
) -> np.ndarray:  # fmt: skip
    """(S,) semantic ids -> (2, T) int64 codes."""
    model, processor = _loaded()
    with _Bar() as bar:
        (codes,) = model.generate_coarse(
            [x_semantic],
            _voice(processor, history_prompt),
            temperature=temp,
            top_k=top_k,
            top_p=top_p,
            max_coarse_history=max_coarse_history,
            sliding_window_len=sliding_window_len,
            seed=seed,
            progress=None if silent else bar.put,
        )
    return codes.cpu().numpy()


def generate_fine(
    x_coarse_gen: Any, history_prompt: Any = None, temp: float | None = 0.5, silent: bool = True, *,
    seed: int | None = None,
) -> np.ndarray:  # fmt: skip
    """(2, T) codes -> (8, T) int32 codes; `temp=None` is argmax."""
    model, processor = _loaded()
    voice = _voice(processor, history_prompt)
    with _Bar() as bar:
        progress = None if silent else bar.put
        (codes,) = model.generate_fine([x_coarse_gen], voice, temperature=temp, seed=seed, progress=progress)
    return codes.cpu().numpy().astype(np.int32)


def codec_decode(fine_tokens: Any) -> np.ndarray:
    """(8, T) codes -> (320 T,) float32 at 24 kHz."""
    model, _ = _loaded()
    return model.decode_audio([fine_tokens])[0].cpu().numpy()


def save_as_prompt(filepath: str | Path, full_generation: Mapping[str, np.ndarray]) -> None:
    """Writes what `output_full` gives as an .npz, for `history_prompt`. Raises ValueError for what is no voice."""
    if Path(filepath).suffix != ".npz":
        raise ValueError(f"A prompt is saved as .npz, got {str(filepath)!r}.")
    Voice.of(full_generation).save(filepath)


@dataclass(frozen=True)
class _Plan:
    """What to load, and where to: a source for each stage; a device for each stage and the codec."""

    sources: tuple[str, ...]
    devices: tuple[str, ...]
    offload: bool

    def load(self) -> tuple[BarkModel, BarkProcessor]:
        source = SMALL if SMALL in self.sources else self.sources[0]  # of a mixture the whole that is smaller
        model = BarkModel.from_pretrained(source, dtype=torch.float32)
        if model.generation_config.sample_rate != SAMPLE_RATE:
            raise ValueError(
                f"{source} speaks at {model.generation_config.sample_rate} Hz, and scripts for the original write "
                f"{SAMPLE_RATE}. Use `BarkModel.from_pretrained`, whose results name their rate."
            )
        for (name, kind), own in zip(STAGES.items(), self.sources, strict=True):
            if own != source:
                setattr(model, name, kind.from_pretrained(own, dtype=torch.float32))
        if self.offload and "cuda" in self.devices:
            model.enable_cpu_offload(device="cuda")
        else:
            for name, device in zip((*STAGES, "codec_model"), self.devices, strict=True):
                getattr(model, name).to(device)
        return model, BarkProcessor.from_pretrained(source)


_LOCK = threading.RLock()
_LOADED: dict[_Plan, tuple[BarkModel, BarkProcessor]] = {}  # at most one: the original's interface has no handle


def _loaded() -> tuple[BarkModel, BarkProcessor]:
    with _LOCK:
        if not _LOADED:
            preload_models()
        return next(iter(_LOADED.values()))


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("true", "1", "t")


def _source(use_small: bool) -> str:
    small = use_small or _is_on("SUNO_USE_SMALL_MODELS")
    return os.environ.get("BARK_HF_MODEL") or (SMALL if small else LARGE)


def _device(use_gpu: bool, is_codec: bool = False) -> str:
    """CUDA before MPS; the original keeps its codec off MPS."""
    if use_gpu and torch.cuda.is_available():
        return "cuda"
    mps = use_gpu and not is_codec and _is_on("SUNO_ENABLE_MPS") and torch.backends.mps.is_available()
    return "mps" if mps else "cpu"


def _voice(processor: BarkProcessor, history_prompt: Any) -> Voice | None:
    if isinstance(history_prompt, str) and history_prompt.endswith(".npz"):
        return Voice.load(history_prompt)
    return processor.voice(history_prompt)


class _Bar:
    """Draws one stage's progress on stderr, from its first report on, for as long as a `with` lasts."""

    def __init__(self):
        self.bar: tqdm | None = None

    def put(self, progress) -> None:
        if self.bar is None:
            self.bar = tqdm(desc=progress.stage)
        self.bar.total = progress.total
        self.bar.update(progress.done - self.bar.n)

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        if self.bar is not None:
            self.bar.close()
