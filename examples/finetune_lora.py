"""Fine-tunes all three stages by LoRA, one after another: finetune_lora.py MODEL DATA FOLDER [STEPS].

DATA is what `python -m bark_hf.training.dataset` writes. The additions are merged: FOLDER/model is an ordinary
checkpoint. `bark-hf train --lora_rank 16` does the same and resumes."""

import sys
from pathlib import Path

from datasets import load_from_disk
from transformers import TrainingArguments

from bark_hf import BarkModel, BarkProcessor
from bark_hf.training.run import train_stage
from bark_hf.training.stages import STAGES, Stage, save_composite
from bark_hf.training.utterances import Utterances


def main(source: str, data: str, folder: str, steps: str = "500") -> None:
    bark = BarkModel.from_pretrained(source)
    rows = load_from_disk(data).train_test_split(test_size=0.1, seed=0)
    for name in STAGES:
        stage = Stage(name, bark)
        train, test = (Utterances(rows[part], stage.vocabulary) for part in ("train", "test"))
        arguments = TrainingArguments(
            str(Path(folder) / name), max_steps=int(steps), learning_rate=1e-4, per_device_train_batch_size=4
        )
        metrics = train_stage(stage, train, test, arguments, lora_rank=16)
        print(f"{name}: evaluation loss {metrics['eval_loss']:.3f}, token accuracy {metrics['eval_top1']:.1%}")
    print(save_composite(bark, BarkProcessor.from_pretrained(source), Path(folder) / "model"))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
