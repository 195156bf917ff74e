"""Trains semantic, coarse and fine stage on `teacher/taught`: `trained/model`. Resumable; finished stages stay.

The same as `bark-hf train --model start --data teacher/taught/learned --output_dir trained --stage ...`, on the taught
data and, for the semantic stage alone, on `unread/`: texts of which there are phones and no recordings."""

import json
import sys
from pathlib import Path

from datasets import Dataset, concatenate_datasets, load_from_disk
from recipe import opened, parser, say

from bark_hf import BarkProcessor
from bark_hf.files import whole_folder
from bark_hf.training.run import DataArguments, ModelArguments, SampleArguments, StageTrainingArguments, train
from bark_hf.training.stages import STAGES
from bark_hf.training.teacher import TAUGHT_DATA
from bark_hf.training.utterances import TAUGHT

OF_DATA = ("eval_share", "history_share")  # settings that are no Trainer's


def with_unread(taught: Path, processor: BarkProcessor, unread: Path, most: int) -> Path:
    """The taught data and, without codes, what `unread` says of texts of at most `most` ids: a folder in that of the
    taught data, to go with it."""
    if not (learned := taught / "learned").is_dir():
        table = load_from_disk(str(taught))
        texts = [json.loads(line) for line in (unread / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
        no_codes: list[list[int]] = [[] for _ in table[0]["codes"]]
        rows = [
            {
                **row,
                "text_ids": ids,
                "codes": no_codes,
                TAUGHT: no_codes,
                "seconds": 0.0,
                "length": len(row["semantic_ids"]),
                "source": "",
            }
            for row in texts
            if len(ids := processor.tokenizer(row["text"], add_special_tokens=False)["input_ids"]) <= most
        ]
        with whole_folder(learned) as made:
            silent = Dataset.from_list(rows, features=table.features)
            concatenate_datasets([table, silent]).save_to_disk(str(made))
    return learned


def main() -> None:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--stage", choices=STAGES, help="this one alone; by default all that are not finished")
    given = options.parse_args()
    work = opened(given.work)
    if not (taught := work.folder / "teacher" / TAUGHT_DATA).is_dir():
        raise FileNotFoundError(f"{taught} is not there; run train_teacher.py {given.work} before.")
    processor = BarkProcessor.from_pretrained(work.folder / "start")
    learned = with_unread(taught, processor, work.folder / "unread", work.settings["windows"]["text"])
    for stage in STAGES if given.stage is None else [given.stage]:
        settings = {**work.settings["training"], **work.settings["stages"][stage]["training"]}
        data = {name: settings.pop(name) for name in OF_DATA if name in settings}
        with work.timed(stage):
            made = train(
                ModelArguments(str(work.folder / "start"), stage=stage),
                DataArguments(str(learned), **data),
                SampleArguments(),
                StageTrainingArguments(str(work.folder / "trained"), **settings),
            )
        say(f"{stage}: {made}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
