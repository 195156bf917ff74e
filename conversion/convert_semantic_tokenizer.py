"""A community quantizer (.pth) and a HuBERT to a folder for `BarkSemanticTokenizer.from_pretrained`."""

import argparse
import sys
from pathlib import Path

from bark_hf.convert import convert_semantic_tokenizer

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python convert_semantic_tokenizer.py quantifier_V1_hubert_base_ls960_23.pth "
        "facebook/hubert-base-ls960 semantic-tokenizer",
    )
    parser.add_argument("quantizer", type=Path, help="the quantizer's .pth file, e.g. of GitMylo/bark-voice-cloning")
    parser.add_argument("hubert", help="a HuBERT checkpoint in transformers' layout: a folder or hub id")
    parser.add_argument("output", type=Path, help="the folder to write; must be new or empty")
    parser.add_argument("--feature-layer", type=int, default=9, help="HuBERT's layer that is quantized (%(default)s)")
    parser.add_argument("--normalize", action="store_true", help="bring audio to mean 0, variance 1 (HuBERT large)")
    arguments = parser.parse_args()
    try:
        convert_semantic_tokenizer(**vars(arguments), report=lambda line: print(line, file=sys.stderr))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
