"""Tokenizes `train/`, and has a small network say its codes anew for the stages to learn: `teacher/data`. Resumable.

The same as `python -m bark_hf.training.dataset --data train --model start --semantic_tokenizer units --output_dir ids`
and then `python -m bark_hf.training.teacher --model start --data ids --output_dir teacher`; but where the codec is a
vocoder, the network learns frames as they are measured and not as its encoder hears them."""

import sys
from pathlib import Path

import torch
from datasets import Dataset
from recipe import opened, parser, say

from bark_hf.codec import BarkCodec
from bark_hf.files import whole_folder
from bark_hf.training.codec_vocoder import Loudness
from bark_hf.training.corpus import load_corpus
from bark_hf.training.dataset import tokenize_corpus
from bark_hf.training.quantizer import heard
from bark_hf.training.teacher import FRAMES, TeacherArguments, TeacherTrainingArguments, train
from bark_hf.training.tokenizing import Tokenizers

MEASURED = 200  # recordings that tell where the codec's frames lie


def with_frames(table: Dataset, train: Path, codec: BarkCodec, num_proc: int) -> Dataset:
    """The dataset with a column of frames (T, D): loudness as it is measured, and the pitch that the encoder heard."""

    def wave(row) -> torch.Tensor:
        return torch.from_numpy(heard(train / row["speaker"] / row["source"], codec.config.sampling_rate))

    loudness = Loudness.of(
        codec, [wave(row) for row in table.select(range(0, len(table), -(-len(table) // MEASURED)))]
    )

    def measured(row) -> dict:
        torch.set_num_threads(1)
        pitch = codec.quantizer.decode(torch.tensor(row["codes"])[:, None])[0, -1:].T
        cosines = loudness.cosines(wave(row))[: len(pitch)]
        return {FRAMES: torch.cat([cosines, pitch[: len(cosines)]], 1).numpy()}

    return table.map(measured, num_proc=num_proc, desc="Measuring")


def main() -> None:
    work = opened(parser(__doc__.partition("\n")[0]).parse_args().work)
    start, train_data, ids = work.folder / "start", work.folder / "train", work.folder / "ids"
    settings, num_proc = work.settings["teacher"], work.settings["num_proc"]
    with work.timed("codes"):
        table, _ = tokenize_corpus(
            load_corpus(train_data),
            **Tokenizers.load(str(start), str(work.folder / "units"), "cpu")._asdict(),
            output=ids,
            num_proc=num_proc,
        )
    with work.timed("teacher"):
        codec = work.settings["codec"]["training"]
        if codec["start"] == "vocoder" and not codec["max_steps"]:
            ids = work.folder / "measured"
            if not ids.is_dir():
                table = with_frames(table, train_data, BarkCodec.from_pretrained(start).eval(), num_proc)
                with whole_folder(ids) as made:
                    table.save_to_disk(str(made))
        made = train(
            TeacherArguments(str(start), str(ids), **settings["config"]),
            TeacherTrainingArguments(str(work.folder / "teacher"), **settings["training"]),
        )
    say(f"{made}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
