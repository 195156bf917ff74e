"""A book or script of any length in one voice: audiobook.py MODEL BOOK.txt OUT.wav [VOICE]. Broken off, it goes on."""

import json
import sys
from pathlib import Path

import soundfile

from bark_hf import BarkModel, BarkProcessor
from bark_hf.audio import provenance
from bark_hf.files import whole_file
from bark_hf.longform import LongProgress, speak_long
from bark_hf.script import read_script


def main(source: str, book: str, output: str, voice: str | None = None) -> None:
    processor = BarkProcessor.from_pretrained(source)
    model = BarkModel.from_pretrained(source, dtype="auto").eval()
    speech = speak_long(
        model, processor, read_script(Path(book)), voice=voice, resume_folder=f"{output}.parts", progress=say
    )
    origin = provenance(model=Path(source).name, voice=", ".join(speech.given) or None, seed=speech.seed)
    with whole_file(output) as beside, soundfile.SoundFile(beside, "w", speech.sampling_rate, 1) as file:
        for field, note in origin.items():  # that it was made, with what
            setattr(file, field, note)
        for piece in speech:  # a player could begin with the first one
            file.write(piece.audio)
    Path(output).with_suffix(".json").write_text(json.dumps(speech.chunks, indent=2))  # texts, times, what was retried


def say(progress: LongProgress) -> None:
    chunks, of_chunks, seconds, of_seconds = progress
    print(f"{chunks}/{of_chunks} chunks, {seconds:.0f} of about {of_seconds:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
