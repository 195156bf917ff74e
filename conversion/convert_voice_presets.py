"""A folder of the original's voices (.npz) to one `voices.safetensors`, names from the paths."""

import argparse
import sys
from pathlib import Path

from bark_hf.convert import convert_voice_presets

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python convert_voice_presets.py assets/prompts voices.safetensors"
    )
    parser.add_argument("folder", type=Path, help="the folder of .npz files, e.g. assets/prompts of the original")
    parser.add_argument("output", type=Path, help="the file to write, voices.safetensors in a checkpoint's folder")
    arguments = parser.parse_args()
    try:
        voices = convert_voice_presets(arguments.folder, arguments.output)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{arguments.output}: {len(voices)} voices", file=sys.stderr)
