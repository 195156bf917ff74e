"""Fine-tunes all weights of one stage with the stock Trainer: finetune_full.py MODEL DATA FOLDER [STAGE [STEPS]].

DATA is what `python -m bark_hf.training.dataset` writes; STAGE is semantic (the default), coarse or fine."""

import sys
from pathlib import Path

from datasets import load_from_disk
from transformers import Trainer, TrainingArguments

from bark_hf import BarkModel, BarkProcessor
from bark_hf.training.stages import LABELS, Stage, save_composite
from bark_hf.training.utterances import EpochCallback, Utterances


def main(source: str, data: str, folder: str, name: str = "semantic", steps: str = "1000") -> None:
    bark = BarkModel.from_pretrained(source)
    stage = Stage(name, bark)
    rows = load_from_disk(data).train_test_split(test_size=0.1, seed=0)
    train, test = (Utterances(rows[part], stage.vocabulary) for part in ("train", "test"))
    trainer = Trainer(
        model=stage.network,
        args=TrainingArguments(
            folder,
            max_steps=int(steps),
            learning_rate=2e-5,
            warmup_steps=0.05,
            per_device_train_batch_size=4,
            label_names=LABELS[name],
            remove_unused_columns=False,
            save_total_limit=2,
        ),
        train_dataset=train,
        eval_dataset=test,
        data_collator=stage.collator(),
        callbacks=[EpochCallback(train)],
    )
    trainer.train()
    print(f"evaluation loss {trainer.evaluate()['eval_loss']:.3f}")
    bark.eval()
    print(save_composite(bark, BarkProcessor.from_pretrained(source), Path(folder) / "model"))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
