"""Several texts, a voice and a seed for each, one WAV file each: batch_of_voices.py MODEL FOLDER [VOICE ...]."""

import sys
from pathlib import Path

from bark_hf import BarkModel, BarkProcessor
from bark_hf.audio import write_audio

TEXTS = ["Hello, my dog is cute.", "And mine can sing. ♪", "[laughs] They should meet."]


def main(source: str, folder: str, *voices: str) -> None:
    processor = BarkProcessor.from_pretrained(source)
    model = BarkModel.from_pretrained(source, dtype="auto").eval()
    chosen = [voices[i % len(voices)] if voices else None for i in range(len(TEXTS))]
    out = model.generate(**processor(TEXTS, voice_preset=chosen), seed=7, return_dict_in_generate=True)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for i, length in enumerate(out.audio_lengths.tolist()):
        path = Path(folder) / f"{i}.wav"
        write_audio(path, out.audio[i, :length].cpu().numpy(), out.sampling_rate)
        print(f"{path}: {length / out.sampling_rate:.2f} s, seed {out.seeds[i]}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
