"""The trained model as one folder to bundle: voices, defaults of sampling, float16 weights, a card: `model/`."""

import json
import sys
from pathlib import Path

import soundfile
import torch
from recipe import Work, opened, parser, say

from bark_hf import BarkModel, BarkProcessor, Voice
from bark_hf.audio import read_audio
from bark_hf.cloning import BarkSemanticTokenizer, encode_voice
from bark_hf.files import whole_folder
from bark_hf.training.corpus import load_corpus

MOST_BYTES = 24_000_000  # of what a wheel may carry
CARD = Path(__file__).with_name("card.md")


def voices(work: Work, model: BarkModel) -> dict[str, Voice]:
    """Two presets of each voice of the corpus, of the recordings whose lengths are nearest to those wanted."""
    units = BarkSemanticTokenizer.from_pretrained(work.folder / "units").eval()
    recordings: dict[str, list[tuple[float, str, list[int]]]] = {}
    for row in load_corpus(work.folder / "train"):
        path = row["audio"]["path"]
        recordings.setdefault(row["speaker"], []).append((soundfile.info(path).duration, path, row["semantic_ids"]))
    made = {}
    for speaker, found in recordings.items():
        for name, suffix in (("long", ""), ("short", "_short")):
            wanted = work.settings["voices"][name]
            _, path, ids = min(found, key=lambda one, wanted=wanted: (abs(one[0] - wanted), one[1]))
            voice = encode_voice(*read_audio(path), units, model.codec_model, model.generation_config, ids)
            made[f"en_speaker_{speaker}{suffix}"] = voice
    return made


def smallest(model: BarkModel) -> dict[str, torch.Tensor]:
    """Its weights; of those that must stay in float32, the codec's, in float16 what float16 holds exactly."""
    halves = {name: weight.half() for name, weight in model.state_dict().items()}
    return {
        name: halves[name] if torch.equal(halves[name].to(weight), weight) else weight
        for name, weight in model.state_dict().items()
    }


def card(work: Work, model: BarkModel, quality: Path | None) -> str:
    """The model card, from the template beside this file and what the steps noted."""
    data = work.settings["data"]
    done = json.loads((work.folder / "trained" / "model" / "training.json").read_text(encoding="utf-8"))
    steps = ["| step | minutes | on |", "|---|---|---|"]
    steps += [f"| {step} | {one['seconds'] / 60:.0f} | {one['on']} |" for step, one in work.steps().items()]
    results = ["Not measured."]
    if quality is not None:
        found = json.loads(quality.read_text(encoding="utf-8"))["results"]
        results = ["| voice | sentences | WER, flite | WER | CER, flite | CER | own voice nearest | wrong length |"]
        results += ["|---" * 8 + "|"]
        results += [
            f"| {voice} | {one['sentences']} | {one['teacher']['wer']:.2f} | {one['model']['wer']:.2f} | "
            f"{one['teacher']['cer']:.2f} | {one['model']['cer']:.2f} | {one['nearest_is_own']:.0%} | "
            f"{one['wrong_length']:.1%} |"
            for voice, one in found.items()
        ]
    return CARD.read_text(encoding="utf-8").format(
        weights=f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.1f}",
        rate=model.generation_config.sample_rate,
        hours=f"{done['hours']:.1f}",
        utterances=", ".join(f"{count} of {voice}" for voice, count in data["utterances"].items()),
        passages=data["passages"],
        versions=f"bark_hf {done['bark_hf']} and torch {done['torch']}",
        steps="\n".join(steps),
        results="\n".join(results),
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--quality", type=Path, help="what benchmarks/quality.py --output wrote, for the card")
    given = options.parse_args()
    work = opened(given.work)
    source = work.folder / "trained" / "model"
    model, processor = BarkModel.from_pretrained(source, dtype=torch.float32), BarkProcessor.from_pretrained(source)
    for name, voice in voices(work, model).items():
        processor.add_voice(name, voice)
    for stage, defaults in work.settings["generation"].items():
        for name, value in defaults.items():
            setattr(getattr(model.generation_config, stage), name, value)
    folder = work.folder / "model"
    with whole_folder(folder, replace=True) as made:
        model.save_pretrained(made, state_dict=smallest(model.half()))
        processor.save_pretrained(made)
        (made / "README.md").write_text(card(work, model, given.quality), encoding="utf-8")
        size = sum(path.stat().st_size for path in made.rglob("*"))
        if size > MOST_BYTES:
            raise ValueError(f"It has {size / 1e6:.1f} MB, {MOST_BYTES / 1e6:.0f} at most: make stages smaller.")
    say(f"{size / 1e6:.1f} MB, voices {', '.join(processor.available_voice_presets)}: {folder}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
