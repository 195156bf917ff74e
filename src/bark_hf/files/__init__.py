"""Files that appear whole or not at all, the files of a checkpoint, and errors that say which of them is damaged.

Knows nothing of what is in them."""

from .atomic import whole_file, whole_folder

__all__ = ["whole_file", "whole_folder"]
