"""The original's checkpoints to a folder in hub layout: the same as `bark-hf convert`."""

import sys

from bark_hf.cli.main import main

if __name__ == "__main__":
    main(["convert", *sys.argv[1:]])
