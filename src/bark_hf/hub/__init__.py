"""Bark for code that asks the hub: registered with transformers' Auto classes, or as code inside a checkpoint.

Knows nothing of how anything is computed."""
