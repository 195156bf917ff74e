"""Training runs: a composite checkpoint and a tokenized dataset in, a composite with trained stages out.

The stock Trainer does the work; here are its arguments, what it is given, and what becomes of its result. Knows
nothing of windows or labels (`collators`), of audio files (`dataset`) or of how speech is judged (`samples`)."""

import copy
import json
import sys
from argparse import RawDescriptionHelpFormatter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from torch.utils.data import SequentialSampler
from transformers import EarlyStoppingCallback, HfArgumentParser, Trainer, TrainingArguments, set_seed
from transformers.trainer_pt_utils import LengthGroupedSampler

from ..modeling_bark import BarkModel
from ..processing_bark import BarkProcessor
from ..version import __version__
from ..vocabulary import Vocabulary
from .card import model_card, public_name
from .metrics import ranks
from .optimizers import MuonAdamW
from .samples import SpeakCallback, asr_recognizer, last_samples
from .sharding import gather, make_shardable
from .stages import LABELS, STAGES, Stage, add_lora, save_composite
from .utterances import TAUGHT, EpochCallback, Utterances, of_use

MODEL = "model"  # the folder of the result, in the output folder
REPORT = "training.json"  # in that folder, so that weights and report are of one moment
DATA = "data"  # the tokenized corpus, in the output folder


@dataclass
class ModelArguments:
    """What is trained."""

    model: str = field(metadata={"help": "A composite checkpoint to start from: a folder or a hub id."})
    stage: str = field(default="all", metadata={"help": f"{', '.join(STAGES)}, several with commas, or all."})
    lora_rank: int = field(default=0, metadata={"help": "Above 0: train additions of that rank only; 16 is usual."})
    lora_alpha: int | None = field(default=None, metadata={"help": "Their scale; by default twice the rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before them."})

    def __post_init__(self):
        self.stages = STAGES if self.stage == "all" else tuple(self.stage.replace(",", " ").split())
        if not self.stages or not {*self.stages} <= {*STAGES}:
            raise ValueError(f"--stage takes {', '.join(STAGES)} or all, got {self.stage!r}.")
        if self.model.startswith((".", "/", "~")) and not Path(self.model).is_dir():
            raise ValueError(f"There is no folder {self.model}. Pass a checkpoint's folder or a hub id.")
        if self.lora_rank < 0:
            raise ValueError(f"--lora_rank must be 0 (off) or more, got {self.lora_rank}.")


@dataclass
class DataArguments:
    """What it is trained on."""

    data: str = field(
        metadata={"help": "A folder that `python -m bark_hf.training.dataset` wrote, or a corpus that it reads."}
    )
    semantic_tokenizer: str | None = field(
        default=None, metadata={"help": "For a corpus: the folder or hub id of the audio's semantic tokenizer."}
    )
    eval_data: str | None = field(default=None, metadata={"help": "A tokenized folder; else a share of --data."})
    eval_share: float = field(default=0.02, metadata={"help": "Share of --data kept for evaluation, at least a row."})
    history_share: float = field(
        default=0.5, metadata={"help": "Share of examples with a piece of the same speaker as history."}
    )
    num_proc: int = field(default=1, metadata={"help": "Processes that tokenize a corpus."})
    full_length: bool = field(default=False, metadata={"help": "Pad every batch to the longest there can be."})

    def __post_init__(self):
        if not 0 <= self.eval_share < 1:
            raise ValueError(f"--eval_share must be at least 0 and below 1, got {self.eval_share}.")


@dataclass
class SampleArguments:
    """What is spoken, and judged, while training."""

    sample_texts: str | None = field(default=None, metadata={"help": "A file with a sentence a line to speak."})
    sample_voice: str | None = field(default=None, metadata={"help": "The preset that speaks them."})
    sample_steps: int = field(default=0, metadata={"help": "Every how many steps; 0: with every checkpoint."})
    asr: str | None = field(
        default=None, metadata={"help": "A speech recognizer (hub id or folder) for the samples' word error rate."}
    )


@dataclass
class StageTrainingArguments(TrainingArguments):
    """The Trainer's own arguments, with defaults that suit Bark."""

    output_dir: str = field(default="bark-trained", metadata={"help": "Stages' checkpoints and the result go here."})
    learning_rate: float = field(default=1e-4, metadata={"help": "1e-4 for LoRA, 1e-5 to 5e-5 for all weights."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "The schedule."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps, or below 1 a share of all."})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's."})
    muon: float = field(
        default=0.0,
        metadata={
            "help": "Above 0: matrices of the blocks learn by Muon, at so many times --learning_rate; 3 is for "
            "training from nothing."
        },
    )
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "group_by_length pads least; random; sequential."}
    )
    eval_strategy: str = field(default="steps", metadata={"help": "no, steps or epoch."})
    eval_steps: float | None = field(default=None, metadata={"help": "By default --save_steps."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept for each stage."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "The result is the best checkpoint."})
    metric_for_best_model: str | None = field(default="loss", metadata={"help": "What is best."})
    early_stopping_patience: int = field(default=0, metadata={"help": "Stop after so many evaluations without gain."})
    report_to: str = field(default="tensorboard", metadata={"help": "Where losses go; none, tensorboard, wandb, ..."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Leave it off: collators need all columns."})
    resume: bool = field(default=True, metadata={"help": "Go on from the last whole checkpoint of --output_dir."})

    def __post_init__(self):
        if not 0 <= self.muon < float("inf"):
            raise ValueError(f"--muon must be 0 (off) or more, got {self.muon:g}.")
        if self.eval_steps is None:
            self.eval_steps = self.save_steps
        if self.eval_strategy == "no":
            self.load_best_model_at_end = False
            if self.early_stopping_patience:
                raise ValueError(
                    f"--early_stopping_patience {self.early_stopping_patience} counts evaluations; --eval_strategy no "
                    "makes none. Pass --eval_strategy steps or epoch, or no patience."
                )
        if torch.get_device_module() is torch.cpu:  # no accelerator
            self.use_cpu, self.dataloader_pin_memory = True, False
        super().__post_init__()


class ByLength(LengthGroupedSampler):
    """Rows of about the same length together, in an order that depends on the utterances' (seed, epoch) alone: the
    same on every process, and for a run that goes on."""

    def __init__(self, utterances: Utterances, batch_size: int):
        super().__init__(batch_size, lengths=utterances.lengths, generator=torch.Generator())
        self.utterances = utterances

    def __iter__(self):
        seed = np.random.SeedSequence((self.utterances.seed, int(self.utterances.epoch)))
        self.generator.manual_seed(int(seed.generate_state(1)[0]))
        return super().__iter__()


class StageTrainer(Trainer):
    """The stock Trainer over `Utterances`, whose lengths it cannot see by itself, and with Muon."""

    optimizer: Any

    def _get_train_sampler(self, train_dataset=None):
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        return ByLength(self.train_dataset, self.args.train_batch_size * self.args.gradient_accumulation_steps)

    def _get_eval_sampler(self, eval_dataset):
        return SequentialSampler(eval_dataset)

    def create_optimizer(self, model=None):
        scale = getattr(self.args, "muon", 0.0)
        if self.optimizer is not None or not scale:
            return super().create_optimizer(model)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("--muon needs whole matrices; FSDP and DeepSpeed cut them up. Pass --muon 0.")
        network = self.model if model is None else model
        decaying = self.get_decay_parameter_names(network)
        learning = [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]
        groups = [
            {"params": [weight for name, weight in learning if (name in decaying) == decays], "weight_decay": decay}
            for decays, decay in ((True, self.args.weight_decay), (False, 0.0))
        ]
        betas = self.args.adam_beta1, self.args.adam_beta2
        self.optimizer = MuonAdamW(
            network, self.args.learning_rate, scale, groups, betas=betas, eps=self.args.adam_epsilon
        )
        return self.optimizer

    def save_model(self, output_dir=None, _internal_call=False):
        # the Trainer looks for the best checkpoint's folder before FSDP writes its parts: some processes missed it
        Path(output_dir or self.args.output_dir).mkdir(parents=True, exist_ok=True)
        super().save_model(output_dir, _internal_call)


def train_stage(
    stage: Stage,
    train: Utterances,
    evaluation: Utterances | None,
    arguments: TrainingArguments,
    *,
    lora_rank: int = 0,
    lora_alpha: int | None = None,
    lora_dropout: float = 0.0,
    full_length: bool = False,
    resume: bool = True,
    callbacks: list | None = None,
) -> dict[str, float]:
    """Trains one stage of a composite in place and returns its metrics; checkpoints go to `arguments.output_dir`.

    With `resume`, the run goes on from the last whole checkpoint there. With a LoRA rank the additions are merged at
    the end. Whatever happens, the composite holds a network without additions afterwards."""
    network = stage.network
    arguments.label_names = LABELS[stage.name]
    arguments.remove_unused_columns = False
    # a step of the fine stage leaves the tables and heads of other codebooks alone
    arguments.ddp_find_unused_parameters = not stage.is_causal
    model: Any = add_lora(network, lora_rank, lora_alpha, lora_dropout) if lora_rank else network
    whole = model
    try:
        trainer = StageTrainer(
            model=model,
            args=arguments,
            train_dataset=train,
            eval_dataset=evaluation,
            data_collator=stage.collator(full_length),
            compute_metrics=stage.metrics(),
            preprocess_logits_for_metrics=lambda logits, labels: ranks(logits, labels, stage.is_causal),
            callbacks=[EpochCallback(train), *(callbacks or [])],
        )
        if trainer.is_fsdp_enabled:  # the composite gets a network of its own, which speaks and is saved
            whole = copy.deepcopy(model)
            stage.replace(whole.get_base_model() if lora_rank else whole)
            make_shardable(network)

        def bring_together() -> None:
            if whole is not model:
                gather(trainer.model, whole)

        for callback in callbacks or []:
            if isinstance(callback, SpeakCallback):
                callback.log, callback.prepare = trainer.log, bring_together
        checkpoint = last_checkpoint(Path(arguments.output_dir)) if resume else None
        result = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        metrics = dict(result.metrics)
        if evaluation is not None:
            metrics |= trainer.evaluate()
        bring_together()
    finally:
        trained = extract_model_from_parallel(whole, keep_fp32_wrapper=False)
        stage.replace(trained.merge_and_unload().requires_grad_(True) if lora_rank else trained)
        stage.network.eval()
    return metrics


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end: the Trainer writes its state last."""
    found = {}
    for path in folder.glob("checkpoint-*"):
        number = path.name.rpartition("-")[2]
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if number.isdigit():
            found[int(number)] = path
    return found[max(found)] if found else None


def train(
    model: ModelArguments, data: DataArguments, samples: SampleArguments, arguments: StageTrainingArguments
) -> Path:
    """Trains the stages in turn and writes `<output_dir>/model`, a composite to load or publish; returns it.

    A stage that `<output_dir>/model/training.json` calls finished is not trained again when a run is resumed. Raises
    ValueError where that run had another model, data or LoRA rank."""
    output = Path(arguments.output_dir)
    set_seed(arguments.seed)
    processor = BarkProcessor.from_pretrained(model.model)
    done = _finished(output, model, data) if arguments.resume else {}
    bark = BarkModel.from_pretrained(output / MODEL if done else model.model, dtype=torch.float32)
    train_rows, eval_rows = _tables(data, bark, processor, arguments)
    speak = _speaker(samples, bark, processor)
    if speak is not None:
        bark.to(arguments.device)  # all stages speak where one trains
    for name in model.stages:
        if name in done:
            continue
        stage = Stage(name, bark)
        own = _for_stage(arguments, output / name)
        share = data.history_share
        callbacks: list = []
        if speak is not None:
            callbacks.append(speak)
        if arguments.early_stopping_patience:
            callbacks.append(EarlyStoppingCallback(arguments.early_stopping_patience))
        learned, *judged = (
            Utterances(of_use(rows, name), stage.vocabulary, share, arguments.seed)
            for rows in (train_rows, eval_rows)
            if rows is not None
        )
        metrics = train_stage(
            stage,
            learned,
            judged[0] if judged else None,
            own,
            lora_rank=model.lora_rank,
            lora_alpha=model.lora_alpha,
            lora_dropout=model.lora_dropout,
            full_length=data.full_length,
            resume=arguments.resume,
            callbacks=callbacks,
        )
        done[name] = metrics
        if arguments.resume:
            done |= _take_over(bark, output, _finished(output, model, data), done)
        if own.should_save:
            report = _report(done, model, data, train_rows)
            files = {f"samples/{path.name}": path.read_bytes() for path in last_samples(output / name)}
            files["README.md"] = model_card(report, output, sorted(files)).encode()
            files[REPORT] = (json.dumps(report, indent=2) + "\n").encode()
            save_composite(bark, processor, output / MODEL, files)
    if arguments.push_to_hub and arguments.should_save:
        _publish(output / MODEL, arguments)
    return output / MODEL


def _for_stage(arguments: StageTrainingArguments, folder: Path) -> StageTrainingArguments:
    """The same arguments with the stage's own folder."""
    own = copy.copy(arguments)
    own.output_dir, own.push_to_hub = str(folder), False  # the composite is published, not its stages' checkpoints
    return own


def _speaker(samples: SampleArguments, bark: BarkModel, processor: BarkProcessor) -> SpeakCallback | None:
    if samples.sample_texts is None:
        return None
    texts = [line for line in Path(samples.sample_texts).read_text(encoding="utf-8").splitlines() if line.strip()]
    recognizer = None if samples.asr is None else asr_recognizer(samples.asr)
    return SpeakCallback(bark, processor, texts, samples.sample_voice, samples.sample_steps, recognizer)


def _publish(folder: Path, arguments: StageTrainingArguments) -> None:
    from huggingface_hub import HfApi

    api = HfApi(token=arguments.hub_token)
    name = api.create_repo(
        arguments.hub_model_id or Path(arguments.output_dir).name, private=arguments.hub_private_repo, exist_ok=True
    ).repo_id
    api.upload_folder(repo_id=name, folder_path=folder)


def _tables(data: DataArguments, bark: BarkModel, processor: BarkProcessor, arguments: StageTrainingArguments):
    """The training rows and the rows kept for evaluation, or None."""
    from datasets import load_from_disk

    rows = _tokenized(data, bark, processor, arguments)
    if arguments.eval_strategy == "no":
        return rows, None
    if data.eval_data is not None:
        evaluation = load_from_disk(data.eval_data)
        if (TAUGHT in rows.column_names) != (TAUGHT in evaluation.column_names):
            raise ValueError(
                f"Of --data and --eval_data one has {TAUGHT}, a teacher's, and one has not: they must agree."
            )
        return rows, evaluation
    if len(rows) < 2 or not data.eval_share:
        raise ValueError("There is nothing to evaluate on: pass --eval_data, --eval_share or --eval_strategy no.")
    size = min(max(1, round(len(rows) * data.eval_share)), len(rows) - 1)
    seed = arguments.seed if arguments.data_seed is None else arguments.data_seed
    split = rows.train_test_split(test_size=size, seed=seed)
    return split["train"], split["test"]


def _tokenized(data: DataArguments, bark: BarkModel, processor: BarkProcessor, arguments: StageTrainingArguments):
    from datasets import load_from_disk

    if (Path(data.data) / "dataset_info.json").is_file():
        rows = load_from_disk(data.data)
        if "semantic_ids" in rows.column_names:
            return rows
    if data.semantic_tokenizer is None:
        raise ValueError(
            f"{data.data} is no tokenized dataset. If it is a corpus of recordings and texts, pass "
            "--semantic_tokenizer to have it tokenized."
        )
    from ..cloning.modeling_semantic_tokenizer import BarkSemanticTokenizer
    from .corpus import load_corpus
    from .dataset import tokenize_corpus

    with arguments.main_process_first(desc="tokenizing the corpus"):
        rows, _ = tokenize_corpus(
            load_corpus(data.data),
            processor,
            BarkSemanticTokenizer.from_pretrained(data.semantic_tokenizer).eval(),
            bark.codec_model,
            vocabulary=Vocabulary.of(bark.generation_config),
            output=Path(arguments.output_dir) / DATA,
            num_proc=data.num_proc,
        )
    return rows


def _report(done: dict[str, dict], model: ModelArguments, data: DataArguments, rows) -> dict[str, Any]:
    """What was done: for a resumed run, and for whoever asks what the model was made of."""
    return {
        "stages": done,
        **_settings(model, data),
        "utterances": len(rows),
        "hours": round(sum(rows["seconds"]) / 3600, 3) if "seconds" in rows.column_names else None,
        "bark_hf": __version__,
        "torch": torch.__version__,
    }


def _settings(model: ModelArguments, data: DataArguments) -> dict[str, Any]:
    """What all stages of a result share, as it may be published."""
    return {"model": public_name(model.model), "lora_rank": model.lora_rank, "data": public_name(data.data)}


def _finished(output: Path, model: ModelArguments, data: DataArguments) -> dict[str, dict]:
    """The stages that an earlier run finished, with their metrics. Raises ValueError where its settings differ."""
    path = output / MODEL / REPORT
    if not path.is_file():
        return {}
    report = json.loads(path.read_text(encoding="utf-8"))
    for name, now in _settings(model, data).items():
        before = report[name] if name == "lora_rank" else public_name(report[name])
        if before != now:
            raise ValueError(
                f"{output / MODEL} was trained with --{name} {before}, not {now}. Pass that, name another "
                "--output_dir, or train anew (--resume false)."
            )
    return report["stages"]


def _take_over(bark: BarkModel, output: Path, finished: dict[str, dict], done: dict[str, dict]) -> dict[str, dict]:
    """Puts in the networks of stages that another run finished in the meantime; returns their metrics."""
    others = {name: metrics for name, metrics in finished.items() if name not in done}
    if others:
        theirs = BarkModel.from_pretrained(output / MODEL, dtype=torch.float32)
        for name in others:
            Stage(name, bark).network.load_state_dict(Stage(name, theirs).network.state_dict())
    return others


_EXAMPLES = """examples:
  bark-hf train --model suno/bark-small --data my-corpus --semantic_tokenizer my-tokenizer --output_dir my-bark \\
      --lora_rank 16 --num_train_epochs 5 --per_device_train_batch_size 8
  bark-hf train --model suno/bark-small --data my-bark/data --output_dir my-bark --stage semantic --bf16 true \\
      --learning_rate 2e-5 --save_steps 200 --sample_texts sentences.txt --asr openai/whisper-base
The same command goes on after an interruption. For several GPUs: accelerate launch -m bark_hf.training.run ...
(--use_fsdp --fsdp_version 2 before -m spreads the weights over them)."""


def main(arguments: list[str] | None = None) -> Path:
    """From a command line; see `--help`. Returns the folder of the result."""
    parser = HfArgumentParser(
        (ModelArguments, DataArguments, SampleArguments, StageTrainingArguments),
        prog="bark-hf train",
        usage="bark-hf train --model MODEL --data DATA [--semantic_tokenizer TOKENIZER] [options]",
        description="Trains Bark's stages with transformers' Trainer, all of whose arguments are options here.",
        epilog=_EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    return train(*parser.parse_args_into_dataclasses(arguments))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
