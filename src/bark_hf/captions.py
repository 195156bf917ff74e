"""`bark_hf.longform.captions` under its former name."""

from .longform.captions import Cue, Word, align_words, cues, to_json, to_srt, to_vtt, words_from_asr

__all__ = ["Cue", "Word", "align_words", "cues", "to_json", "to_srt", "to_vtt", "words_from_asr"]
