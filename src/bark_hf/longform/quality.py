"""The off-script guard: is a piece of speech what its text asks for, and if not, why.

Knows nothing of networks. It looks at semantic ids, samples and, where there is a recognizer, at what that hears."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from transformers import AutomaticSpeechRecognitionPipeline

from ..audio.files import FRAME, frame_levels, heard, resample
from ..generation_bark import BarkGenerateOutput
from .sentences import seconds_of

STUCK = 1.2  # s: readers rest about 1 s between sentences at most; the longest loop in four of Suno's presets is 0.8 s
_SAME = 0.9  # of a loop's ids equal those before: a sampled loop is not exact, and speech never says so much twice
_LONGEST_LAG = 2.0  # s: what comes again after more is caught by its length
LENGTH = 1.6  # times or part of what is predicted: readers differ by 1.26 (IReST, two deviations), predictions by 1.25
_LENGTH_SLACK = 1.0  # s: the breath, hum or rest around a short text
CLIPPED = 0.001  # of the samples: one peak a word; a clipped word has hundreds in a hundred thousand
COLLAPSE = 20.0  # dB: a window of 2 s has 0.8 s of speech at least (4 dB), and a lively reader spans 12 (flite 6)
_WINDOW = 2.0  # s
SILENT = -50.0  # dBFS: the speech's level in a file that must be turned up by 30 dB to be heard
_QUIETER = -30.0  # dB under the loudest is silence: rooms and codecs hum there
_LOUDEST = 20  # frames
_TAG = re.compile(r"\[[^\]]*\]")
_CHARACTER = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")  # kana and Han, written without spaces
_APOSTROPHE = "\u2019"
_WORST = 100.0  # times what is allowed; more is not told apart, and JSON has no infinity
MAX_WER = 0.5  # wrong words beyond which a text was not read: recognizers reach 0.3 on good synthetic speech

Recognizer = Callable[[np.ndarray, int], str]  # (N,) float32 samples and their rate -> what they say


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a chunk and how much. `measures` are parts of what is allowed: above 1 is a reason.

    score: the largest of them. wer and heard: the word error rate and the words, where a recognizer listened."""

    score: float
    reasons: tuple[str, ...] = ()
    measures: dict[str, float] = field(default_factory=dict)
    wer: float | None = None
    heard: str | None = None

    @property
    def key(self) -> tuple:
        """Smaller is better: those without a reason first, then by word error rate, then by score."""
        return bool(self.reasons), self.wer or 0.0, self.score


Judge = Callable[[BarkGenerateOutput, str], Verdict]


def judge(
    result: BarkGenerateOutput,
    text: str,
    *,
    language: str | None = None,
    limit: int | None = None,
    asr: Recognizer | AutomaticSpeechRecognitionPipeline | None = None,
    max_wer: float = MAX_WER,
) -> Verdict:
    """One row's result and its text -> a verdict. `limit`: the semantic ids at which generation was cut off."""
    ids, rate = result.semantic_tokens[0].cpu().numpy(), result.sampling_rate
    wave = result.audio[0, : int(result.audio_lengths[0])].float().cpu().numpy()
    if not len(wave):
        return Verdict(_WORST, ("There is no sound: the model ended at once.",), {"empty": _WORST})
    levels, _ = _between_edges(wave, rate)
    seconds, predicted = len(levels) * FRAME, seconds_of(text, language)
    length = (seconds + _LENGTH_SLACK) / (predicted + _LENGTH_SLACK)
    loop = longest_loop(ids, result.rates[0])
    silence, clipping = longest_silence(wave, rate), clipped(wave)
    drop, level = energy_drop(wave, rate), loudness(wave, rate)
    found = {
        "length": (
            max(length, 1 / length) / LENGTH,
            f"It lasts {seconds:.1f} s; {predicted:.1f} s are expected.",
        ),
        "unfinished": (2.0 if limit is not None and len(ids) >= limit else 0.0, "It was cut off at its longest."),
        "loop": (loop / STUCK, f"Its semantic ids go round for {loop:.1f} s."),
        "silence": (silence / STUCK, f"It is silent for {silence:.1f} s."),
        "clipping": (clipping / CLIPPED, f"{clipping:.1%} of its samples are clipped."),
        "collapse": (drop / COLLAPSE, f"Its level falls by {drop:.0f} dB."),
        "quiet": (10 ** ((SILENT - level) / 20), f"Its level is {level:.0f} dBFS."),
    }
    wer = words = None
    if asr is not None:
        words = recognizer(asr)(wave, rate)
        wer = word_error_rate(text, words)
        found["words"] = ((wer or 0.0) / max_wer, f"Of its words {wer or 0:.0%} are wrong: {words!r:.80} was heard.")
    measures = {name: round(float(min(amount, _WORST)), 4) for name, (amount, _) in found.items()}
    reasons = tuple(reason for amount, reason in found.values() if amount > 1)
    return Verdict(max(measures.values()), reasons, measures, wer, words)


def longest_loop(ids: np.ndarray, rate: float) -> float:
    """(S,) semantic ids, `rate` a second -> the seconds of the longest stretch that only repeats itself.

    One id held, or at least three rounds of up to 2 s, nine in ten ids equal to those one round before."""
    longest = 0
    for lag in range(1, min(round(_LONGEST_LAG * rate), len(ids) - 1) + 1):
        # the longest stretch with a share of _SAME: between two places of which the later is no lower
        height = np.concatenate([[0.0], np.cumsum((ids[lag:] == ids[:-lag]) - _SAME)])
        first = np.searchsorted(-np.minimum.accumulate(height), -height - 1e-9)
        repeated = int((np.arange(len(height)) - first).max())
        if repeated >= 2 * lag:
            longest = max(longest, repeated + lag)
    return longest / rate


def longest_silence(wave: np.ndarray, rate: int) -> float:
    """(N,) samples -> the seconds of the longest silence between the first and the last sound."""
    _, sounds = _between_edges(wave, rate)
    return float(np.diff(np.flatnonzero(sounds)).max(initial=1) - 1) * FRAME


def clipped(wave: np.ndarray) -> float:
    """(N,) samples -> the share at full scale or beyond."""
    return float(np.mean(np.abs(wave) >= 0.999))


def loudness(wave: np.ndarray, rate: int) -> float:
    """(N,) samples -> the level in dBFS that the loudest 0.2 s reach."""
    return float(np.sort(frame_levels(wave, rate))[-_LOUDEST:][0])


def energy_drop(wave: np.ndarray, rate: int) -> float:
    """(N,) samples -> dB between the loudest and the quietest 2 s from the first sound to the last; 0 for less."""
    levels, _ = _between_edges(wave, rate)
    width = round(_WINDOW / FRAME)
    if len(levels) < width:
        return 0.0
    power = np.convolve(10 ** (levels / 10), np.ones(width) / width, "valid")
    return float(10 * np.log10(power.max() / power.min()))


def word_error_rate(text: str | Sequence[str], heard: str | Sequence[str]) -> float | None:
    """Words wrong, missing or too many, over the text's words (for Chinese and Japanese: characters), by jiwer.

    Several texts, with what was heard of each, count together. Case, punctuation, tags and notes do not count
    (`spoken_words`). None where no text has words: there is nothing to hear."""
    try:
        import jiwer
    except ImportError as error:
        raise ImportError('Word error rates need jiwer: pip install "bark-hf[longform]".') from error
    texts = [text] if isinstance(text, str) else text
    found = [heard] if isinstance(heard, str) else heard
    wanted = {i: words for i, one in enumerate(texts) if (words := spoken_words(one))}
    return float(jiwer.wer([*wanted.values()], [spoken_words(found[i]) for i in wanted])) if wanted else None


def recognizer(asr: Recognizer | AutomaticSpeechRecognitionPipeline) -> Recognizer:
    """A function of (samples, rate) as it is; of a transformers pipeline one that resamples to the model's rate."""
    if not isinstance(asr, AutomaticSpeechRecognitionPipeline):
        return asr
    own = asr.feature_extractor.sampling_rate
    return lambda wave, rate: asr({"raw": resample(wave, rate, own), "sampling_rate": own})["text"]


def spoken_words(text: str) -> str:
    """What is compared of a text: its words, folded, without tags, notes and punctuation, one blank between them."""
    text = unicodedata.normalize("NFKC", _TAG.sub(" ", text)).casefold()
    kept = "".join(
        c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in text.replace(_APOSTROPHE, "'")
    )
    return " ".join(_CHARACTER.sub(r" \g<0> ", kept).split())


def _between_edges(wave: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,) samples -> levels (F,) from the first sound to the last, and where there is sound: in most of 0.09 s."""
    loud = heard(wave, rate, _QUIETER)
    sounds = np.convolve(np.pad(loud, 4), np.ones(9), "valid") > 4.5
    at = np.flatnonzero(sounds)
    kept = slice(at[0], at[-1] + 1) if len(at) else slice(0, 0)
    return frame_levels(wave, rate)[kept], sounds[kept]
