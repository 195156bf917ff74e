"""Measures this port beside transformers' Bark and the original: the same as `bark-hf bench`; see its --help."""

import sys

from bark_hf.cli.main import main

if __name__ == "__main__":
    main(["bench", *sys.argv[1:]])
