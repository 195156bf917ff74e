"""A text of any length, sentence by sentence, in the first one's voice: go_on_in_one_voice.py MODEL OUT.wav < TEXT."""

import re
import sys

import numpy as np

from bark_hf import BarkModel, BarkProcessor
from bark_hf.audio import write_audio


def main(source: str, output: str, text: str) -> None:
    processor = BarkProcessor.from_pretrained(source)
    model = BarkModel.from_pretrained(source, dtype="auto").eval()
    sentences = [one for one in re.split(r"(?<=[.!?])\s+", text.strip()) if one]
    voice, parts = None, []
    for number, sentence in enumerate(sentences):
        inputs = processor(sentence, voice_preset=voice)
        out = model.generate(**inputs, seed=number, return_dict_in_generate=True)
        parts.append(out.audio[0].cpu().numpy())
        if voice is None:
            voice = out.voice(0)  # a fixed voice: looping the last one back degrades slowly
        print(f"{number + 1}/{len(sentences)}: {sentence}", file=sys.stderr)
    write_audio(output, np.concatenate(parts), model.generation_config.sample_rate)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], sys.stdin.read())
