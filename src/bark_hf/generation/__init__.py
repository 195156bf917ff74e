"""Bark's algorithm on plain tensors: options, inputs, the stages' prompts, windows and histories, runs and streams.

Knows nothing of checkpoints or audio files; networks come in as arguments."""
