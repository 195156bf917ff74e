"""Trains semantic, coarse and fine stage on `teacher/taught`: `trained/model`. Resumable; finished stages stay.

The same as `bark-hf train --model start --data teacher/taught --output_dir trained --stage ...`."""

import sys

from recipe import opened, parser, say

from bark_hf.training.run import DataArguments, ModelArguments, SampleArguments, StageTrainingArguments, train
from bark_hf.training.stages import STAGES
from bark_hf.training.teacher import TAUGHT_DATA

OF_DATA = ("eval_share", "history_share")  # settings that are no Trainer's


def main() -> None:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--stage", choices=STAGES, help="this one alone; by default all that are not finished")
    given = options.parse_args()
    work = opened(given.work)
    if not (taught := work.folder / "teacher" / TAUGHT_DATA).is_dir():
        raise FileNotFoundError(f"{taught} is not there; run train_teacher.py {given.work} before.")
    for stage in STAGES if given.stage is None else [given.stage]:
        settings = {**work.settings["training"], **work.settings["stages"][stage]["training"]}
        data = {name: settings.pop(name) for name in OF_DATA if name in settings}
        with work.timed(stage):
            made = train(
                ModelArguments(str(work.folder / "start"), stage=stage),
                DataArguments(str(taught), **data),
                SampleArguments(),
                StageTrainingArguments(str(work.folder / "trained"), **settings),
            )
        say(f"{stage}: {made}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
