"""Figures that say how good speech is: speaker similarity.

Knows nothing of Bark or of files."""

from .similarity import median_pitch, nearest_speaker, speaker_finder, speaker_similarity

__all__ = ["median_pitch", "nearest_speaker", "speaker_finder", "speaker_similarity"]
