"""A book or script of any length in one voice: audiobook.py MODEL BOOK.txt OUT.wav [VOICE]. Broken off, it goes on."""

import json
import sys
from pathlib import Path

from bark_hf import BarkModel, BarkProcessor
from bark_hf.audio import audio_writer, provenance
from bark_hf.longform import LongProgress, read_script, speak_long


def main(source: str, book: str, output: str, voice: str | None = None) -> None:
    processor = BarkProcessor.from_pretrained(source)
    model = BarkModel.from_pretrained(source, dtype="auto").eval()
    speech = speak_long(
        model, processor, read_script(Path(book)), voice=voice, resume_folder=f"{output}.parts", progress=say
    )
    origin = provenance(model=Path(source).name, voice=", ".join(speech.given) or None, seed=speech.seed)
    with audio_writer(output, speech.sampling_rate, origin) as write:  # which notes that it was made, with what
        for piece in speech:  # a player could begin with the first one
            write(piece.audio)
    Path(output).with_suffix(".json").write_text(json.dumps(speech.chunks, indent=2))  # texts, times, what was retried


def say(progress: LongProgress) -> None:
    chunks, of_chunks, seconds, of_seconds = progress
    print(f"{chunks}/{of_chunks} chunks, {seconds:.0f} of about {of_seconds:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
