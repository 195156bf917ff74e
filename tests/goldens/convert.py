"""Converts the small goldens (the original's formats, random weights) into a checkpoint folder: convert.py OUTPUT."""

import json
import sys
import tempfile
from pathlib import Path

from bark_hf.convert import convert_checkpoint

HERE = Path(__file__).parent

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        constants = Path(work) / "constants.json"
        constants.write_text(json.dumps(json.loads((HERE / "manifest.json").read_text())["constants"]))
        convert_checkpoint(
            text=HERE / "text.pt",
            coarse=HERE / "coarse.pt",
            fine=HERE / "fine.pt",
            codec=HERE / "codec.th",
            tokenizer=HERE / "vocab.txt",
            voices=HERE / "presets",
            generation_config=constants,
            output=Path(sys.argv[1]),
            report=lambda line: print(line, file=sys.stderr),
        )
