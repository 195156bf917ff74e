"""Tokenizes `train/`, and has a small network say its codes anew for the stages to learn: `teacher/taught`. Resumable.

The same as `python -m bark_hf.training.dataset --data train --model start --semantic_tokenizer units --output_dir ids`
and then `python -m bark_hf.training.teacher --model start --data ids --output_dir teacher ...`; but the network also
learns when flite's phones end and, where the codec is a vocoder, frames as they are measured, not as its encoder hears
them."""

import sys
from pathlib import Path

import torch
from datasets import Dataset
from datasets.fingerprint import generate_random_fingerprint
from phones import FRAME_RATE, timed_ids
from recipe import opened, parser, say

from bark_hf.codec import BarkCodec
from bark_hf.files import whole_folder
from bark_hf.training.codec_vocoder import Loudness
from bark_hf.training.corpus import load_corpus
from bark_hf.training.dataset import tokenize_corpus
from bark_hf.training.quantizer import heard
from bark_hf.training.teacher import ENDS, FRAMES, TeacherArguments, TeacherTrainingArguments, train
from bark_hf.training.tokenizing import Tokenizers, load_codec

MEASURED = 200  # recordings that tell where the codec's frames lie


def with_frames(table: Dataset, train: Path, codec: BarkCodec) -> Dataset:
    """The dataset with a column of frames (T, D): loudness as it is measured, and the pitch that the encoder heard."""

    def wave(row) -> torch.Tensor:
        return torch.from_numpy(heard(train / row["speaker"] / row["source"], codec.config.sampling_rate))

    loudness = Loudness.of(
        codec, [wave(row) for row in table.select(range(0, len(table), -(-len(table) // MEASURED)))]
    )

    def measured(row) -> dict:
        pitch = codec.quantizer.decode(torch.tensor(row["codes"])[:, None])[0, -1:].T
        cosines = loudness.cosines(wave(row))[: len(pitch)]
        return {FRAMES: torch.cat([cosines, pitch[: len(cosines)]], 1).numpy()}

    return table.map(measured, new_fingerprint=generate_random_fingerprint(), desc="Measuring")


def with_ends(table: Dataset, train: Path) -> Dataset:
    """The dataset with a column of when the phone of each semantic id ends (S,), in ids, as flite told."""

    def ends(row) -> dict:
        said = (train / row["speaker"] / row["source"]).with_suffix(".lab").read_text(encoding="utf-8")
        seconds = (len(row["semantic_ids"]) + 0.5) / FRAME_RATE
        return {ENDS: [end for _, end in timed_ids(said, seconds)]}

    return table.map(ends, new_fingerprint=generate_random_fingerprint(), desc="Timing")


def main() -> None:
    work = opened(parser(__doc__.partition("\n")[0]).parse_args().work)
    start, train_data, ids = work.folder / "start", work.folder / "train", work.folder / "ids"
    settings, num_proc = work.settings["teacher"], work.settings["num_proc"]
    with work.timed("codes"):
        table, _ = tokenize_corpus(
            load_corpus(train_data),
            **Tokenizers.load(str(start), str(work.folder / "units"))._asdict(),
            output=ids,
            num_proc=num_proc,
        )
    with work.timed("teacher"):
        told, codec = ids / "told", work.settings["codec"]["training"]  # it goes where ids are made anew
        if not told.is_dir():
            timed = with_ends(table, train_data)
            if codec["start"] == "vocoder" and not codec["max_steps"]:
                timed = with_frames(timed, train_data, load_codec(str(start)))
            with whole_folder(told) as made:
                timed.save_to_disk(str(made))
            table.cleanup_cache_files()
        made = train(
            TeacherArguments(str(start), str(told), **settings["config"]),
            TeacherTrainingArguments(str(work.folder / "teacher"), **settings["training"]),
        )
    say(f"{made}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
