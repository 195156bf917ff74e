"""A script for the original bark, its import changed: original_api.py FIRST.wav SECOND.wav VOICE.npz [PRESET].

One text becomes FIRST.wav and VOICE.npz; that voice then speaks another text, stage by stage, into SECOND.wav."""

import sys

import soundfile

from bark_hf.compat import (  # was: from bark import ...; from bark.generation import ...
    SAMPLE_RATE,
    codec_decode,
    generate_audio,
    generate_coarse,
    generate_fine,
    generate_text_semantic,
    preload_models,
    save_as_prompt,
)


def main(first: str, second: str, voice: str, preset: str | None = None) -> None:
    preload_models()
    full_generation, audio_array = generate_audio("Hello, my dog is cute.", history_prompt=preset, output_full=True)
    soundfile.write(first, audio_array, SAMPLE_RATE)
    save_as_prompt(voice, full_generation)

    semantic = generate_text_semantic("And mine can sing.", history_prompt=voice, temp=0.6, min_eos_p=0.05)
    coarse = generate_coarse(semantic, history_prompt=voice, temp=0.7, use_kv_caching=True)
    fine = generate_fine(coarse, history_prompt=voice, temp=0.5)
    soundfile.write(second, codec_decode(fine), SAMPLE_RATE)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
