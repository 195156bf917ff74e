"""`bark_hf.longform.script` under its former name."""

from .longform.script import Line, parse_script, read_script

__all__ = ["Line", "parse_script", "read_script"]
