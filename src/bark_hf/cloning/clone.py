"""A recording of somebody to a Bark voice: speech trimmed, cut and leveled, then ids and codes that end together.

Knows nothing of files, checkpoints or text: what was said need not be known."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..audio.files import resample, to_mono
from ..codec.encodec import BarkCodec
from ..generation_configuration_bark import BarkGenerationConfig
from ..vocabulary import Vocabulary
from ..voices.voice import Voice
from .modeling_semantic_tokenizer import BarkSemanticTokenizer

READ_SECONDS = 60.0  # what is worth reading of a long recording: enough to find the part that is kept
_LEAST, _MOST = 1.0, 15.0  # seconds of a voice; Bark never speaks longer than the latter
_ADVISED = 4.0, 12.0
_FRAMES_PER_SECOND = 100  # of the levels by which speech is found; the next two count such frames
_MARGIN = 10  # silence that stays on either side of speech
_PAUSE = 15  # a shorter silence is a plosive's
_QUIET = 5  # percent of a recording that are no louder than its noise
_SILENT, _LEVEL, _PEAK = -60.0, -20.0, -1.0  # dBFS: what counts as silent; the speech's RMS and peak aimed at


@dataclass(frozen=True)
class CloneReport:
    """A recording and what was kept of it. Levels are RMS before leveling, in dBFS: 0 is a square wave at full scale.

    level: of the speech that is kept. noise_floor: what a twentieth of the recording stays below. clipped: the share
    of samples at full scale. ends_in_speech: the kept part has no silence at its end."""

    seconds_given: float
    seconds_kept: float
    sampling_rate: int
    level: float
    noise_floor: float
    clipped: float
    ends_in_speech: bool

    @property
    def advice(self) -> tuple[str, ...]:
        """Sentences that say how to get a better voice; none for a good recording."""
        least, most = _ADVISED
        above_noise = self.level - self.noise_floor
        found = [
            (
                self.seconds_kept < least,
                f"Only {self.seconds_kept:.1f} s are left without silence: {least:.0f} to {most:.0f} s are better.",
            ),
            (
                self.seconds_kept > most or self.seconds_given > 2 * _MOST,
                f"{self.seconds_kept:.1f} of {self.seconds_given:.1f} s are kept, and of a voice Bark hears the last "
                f"7 s: pass the best {least:.0f} to {most:.0f} s.",
            ),
            (
                self.ends_in_speech,
                "It ends without a pause, as if in the middle of speech, where Bark goes on: end after a sentence.",
            ),
            (self.clipped > 0.001, f"{self.clipped:.1%} of the samples are clipped: record at a lower level."),
            (self.level < -40, f"The speech is quiet ({self.level:.0f} dBFS): come closer to the microphone."),
            (
                above_noise < 20,
                f"The quietest moments are only {above_noise:.0f} dB below the speech: record in a quiet room.",
            ),
            (
                self.sampling_rate < 16_000,
                f"{self.sampling_rate} Hz is telephone quality, and so is the voice: record at 24000 Hz or more.",
            ),
        ]
        return tuple(sentence for holds, sentence in found if holds)


def clone_voice(
    audio: np.ndarray,
    sampling_rate: int,
    tokenizer: BarkSemanticTokenizer,
    codec: BarkCodec,
    generation_config: BarkGenerationConfig | None = None,
) -> Voice:
    """(N,) or (N, channels) float samples at any rate -> a voice, the same each time.

    `prepare_reference`, then `encode_voice`. Best are 4 to 12 seconds of one person in a quiet room that end after a
    sentence: warns with the report's advice. Raises ValueError for what holds less than a second of speech.
    Clone only people who agreed to it."""
    samples, report = prepare_reference(audio, sampling_rate)
    for sentence in report.advice:
        warnings.warn(sentence, stacklevel=2)
    return encode_voice(samples, sampling_rate, tokenizer, codec, generation_config)


def prepare_reference(audio: np.ndarray, sampling_rate: int) -> tuple[np.ndarray, CloneReport]:
    """(N,) or (N, channels) float samples -> the speech to clone, (M,) float32 at the same rate, and a report.

    Silence goes from both ends, all but 0.1 s. Of more than 15 s the beginning stays, up to the last pause between 7.5
    and 15 s, or 15 s where there is none: Bark goes on from a voice's end and hears 7 s before it at most, so a clean
    end matters and length does not. The speech's RMS becomes -20 dBFS, less where its peak would pass -1 dBFS.
    Raises ValueError for integers, NaN, a rate below 8 kHz, silence, and less than 1 s of speech."""
    audio = np.asarray(audio)
    if audio.dtype.kind != "f" or not np.isfinite(audio).all():
        raise ValueError(f"A recording is finite floats of -1..1; this is {audio.dtype}, or holds NaN or infinity.")
    if sampling_rate < 8000:
        raise ValueError(f"A recording needs 8000 Hz at least, better 24000; this has {sampling_rate} Hz.")
    mono = to_mono(audio)
    if len(mono) < _LEAST * sampling_rate:
        raise ValueError(
            f"The recording lasts {len(mono) / sampling_rate:.2f} s; a voice needs {_LEAST:.0f} s at least."
        )
    mono = mono - mono.mean()  # without the microphone's offset
    hop = round(sampling_rate / _FRAMES_PER_SECOND)
    power = np.square(mono[: len(mono) // hop * hop].reshape(-1, hop), dtype=np.float64).mean(axis=1)
    speech = _speech(_decibels(power))
    start, end = _kept(speech)
    spoken = speech[start:end]
    if spoken.sum() < _LEAST * _FRAMES_PER_SECOND:
        seconds = spoken.sum() / _FRAMES_PER_SECOND
        raise ValueError(f"The recording holds {seconds:.2f} s of speech; a voice needs {_LEAST:.0f} s at least.")
    kept = mono[start * hop : end * hop]
    level = float(_decibels(power[start:end][spoken].mean()))
    gain = min(_LEVEL - level, _PEAK - float(_decibels(np.square(kept).max())))
    report = CloneReport(
        seconds_given=len(mono) / sampling_rate,
        seconds_kept=len(kept) / sampling_rate,
        sampling_rate=sampling_rate,
        level=level,
        noise_floor=float(_decibels(np.percentile(power, _QUIET))),
        clipped=float(np.mean(np.abs(audio) >= 0.999)),
        ends_in_speech=bool(spoken[-_MARGIN // 2 :].any()),
    )
    return kept * np.float32(10 ** (gain / 20)), report


def encode_voice(
    samples: np.ndarray,
    sampling_rate: int,
    tokenizer: BarkSemanticTokenizer,
    codec: BarkCodec,
    generation_config: BarkGenerationConfig | None = None,
    semantic_ids: Sequence[int] | None = None,
) -> Voice:
    """(N,) float samples, all of them -> a voice of the ids of one stretch; they end together, to within 1/75 s.

    `generation_config` is the model's, for its rates, codebooks and vocabularies; Suno's by default. `semantic_ids`,
    where they are known, spare the tokenizer its guess; their rate is its own. Raises ValueError where tokenizer or
    codec give what that model does not know, or the samples are too short."""
    vocabulary = Vocabulary.of(generation_config or BarkGenerationConfig())
    if semantic_ids is None:
        semantic = tokenizer.encode([resample(samples, sampling_rate, tokenizer.sampling_rate)])[0]
    else:
        semantic = torch.tensor(semantic_ids)
    wave = torch.tensor(resample(samples, sampling_rate, codec.config.sampling_rate))
    codes = codec.encode_all([wave], vocabulary.n_fine_codebooks)[0]
    ids, frames = aligned(len(semantic), codes.shape[1], tokenizer.frame_rate, vocabulary)
    fine = codes[:, frames].cpu().numpy()
    voice = Voice(semantic[ids].cpu().numpy(), fine[: vocabulary.n_coarse_codebooks], fine, vocabulary.rates)
    voice.check_against(vocabulary)
    return voice


def aligned(n_semantic: int, n_frames: int, frame_rate: float, vocabulary: Vocabulary) -> tuple[slice, slice]:
    """Which of the tokenizer's ids, `frame_rate` a second, and which of the codec's frames make a voice.

    Both end where the shorter one does; then as many are counted back as Bark takes for one stretch, 75 frames for
    49.9 ids. The tokenizer's 50 a second so drift from the frames by 2 ms a second, towards the beginning."""
    seconds = min(n_semantic / frame_rate, n_frames / vocabulary.coarse_rate_hz)
    ids_end = round(seconds * frame_rate)
    frames_end = min(n_frames, round(ids_end / frame_rate * vocabulary.coarse_rate_hz))
    ids = ids_end
    while (frames := vocabulary.coarse_length(ids) // vocabulary.n_coarse_codebooks) > frames_end:
        ids -= 1
    return slice(ids_end - ids, ids_end), slice(frames_end - frames, frames_end)


def _speech(levels: np.ndarray) -> np.ndarray:
    """(F,) levels in dBFS -> (F,) where there is speech: where most of the 9 frames around are loud enough.

    That is a quarter of the way from the noise floor to the loudest 0.2 s, but 6 to 40 dB below the latter."""
    loudest, floor = np.sort(levels)[-20], np.percentile(levels, _QUIET)
    if loudest < _SILENT:
        raise ValueError(f"The recording is silent: it reaches {loudest:.0f} dBFS. Check the microphone and the file.")
    enough = np.clip(floor + (loudest - floor) / 4, loudest - 40, loudest - 6)
    return np.convolve(levels > enough, np.ones(9), "same") > 4.5


def _kept(speech: np.ndarray) -> tuple[int, int]:
    """(F,) -> the first frame that is kept and the end: speech with its margins, up to the last pause in time."""
    spoken = np.flatnonzero(speech)
    if not len(spoken):
        return 0, 0
    start, end = max(0, spoken[0] - _MARGIN), min(len(speech), spoken[-1] + 1 + _MARGIN)
    most = round(_MOST * _FRAMES_PER_SECOND)
    if end - start > most:
        end = start + most
        pauses = np.flatnonzero(np.convolve(speech[start:end], np.ones(_PAUSE), "valid") == 0)
        if len(pauses) and pauses[-1] >= most // 2:
            end = spoken[spoken < start + pauses[-1]][-1] + 1 + _MARGIN
    return start, end


def _decibels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, 1e-12))
