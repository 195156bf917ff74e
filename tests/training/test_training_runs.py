"""Runs of `bark-hf train`: from a checkpoint and a tokenized dataset to a composite that speaks, whatever happens."""

import json
import math
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from peft import PeftModel
from runs import assert_close, prepared, run_python, tiny_bark
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

import bark_hf
from bark_hf.training import run
from bark_hf.training.run import DataArguments, _tables, last_checkpoint, main
from bark_hf.training.samples import asr_recognizer
from bark_hf.training.stages import ATTRIBUTES, STAGES


@pytest.fixture(scope="module")
def tiny(small):
    return tiny_bark(small)


def changed_stages(before: Path, after: Path) -> set[str]:
    models = [bark_hf.BarkModel.from_pretrained(folder) for folder in (before, after)]
    found = set()
    for name, attribute in ATTRIBUTES.items():
        a, b = (getattr(model, attribute).state_dict() for model in models)
        found |= {name} if any(not torch.equal(a[key], b[key]) for key in a) else set()
    return found


def test_a_run_over_all_stages_leaves_a_composite_that_speaks(tiny, small, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("Hello\n\nHello, my dog is cute.\n")
    voice = next(iter(small.processor.voices))
    options = ["--sample_texts", str(texts), "--sample_voice", voice, "--lora_rank", "2"]
    tiny.config.codec_config.name_or_path = str(tmp_path / "codec")
    result = main([*prepared(tiny, small, tmp_path), *options])
    assert changed_stages(tmp_path / "start", result) == set(STAGES)
    report = json.loads((tmp_path / "out" / "model" / "training.json").read_text())
    assert set(report["stages"]) == set(STAGES)
    assert all(metrics["eval_loss"] > 0 and "eval_top10" in metrics for metrics in report["stages"].values())
    card = (result / "README.md").read_text()
    assert ModelCard(card).data.pipeline_tag == "text-to-speech"
    assert "| semantic |" in card
    assert "LoRA of rank 2" in card
    assert "from `start` on `rows`" in card
    assert not [path for path in result.glob("*.*") if str(tmp_path).encode() in path.read_bytes()]
    assert "[samples/0.wav](samples/0.wav), [samples/1.wav](samples/1.wav)." in card
    assert {path.name for path in (result / "samples").iterdir()} == {"0.wav", "1.wav"}
    samples = tmp_path / "out" / "fine" / "samples"
    assert {path.name for path in samples.glob("6/*")} == {"0.wav", "1.wav"}
    assert [json.loads(line)["step"] for line in (samples / "scores.jsonl").read_text().splitlines()] == [2, 4, 6]
    model, processor = bark_hf.BarkModel.from_pretrained(result), bark_hf.BarkProcessor.from_pretrained(result)
    assert len(model.generate(**processor("Hello", voice_preset=voice), seed=1)[0])
    again = main([*prepared(tiny, small, tmp_path), *options])  # all is finished: nothing is trained anew
    assert json.loads((tmp_path / "out" / "model" / "training.json").read_text()) == report
    assert again == result
    for option, value, before in (("lora_rank", 4, 2), ("data", tmp_path, "rows"), ("model", result, "start")):
        with pytest.raises(ValueError, match=f"was trained with --{option} {before}, not"):
            main([*prepared(tiny, small, tmp_path), *options, f"--{option}", str(value)])


def test_a_stage_that_ends_during_another_run_is_kept(tiny, small, tmp_path, monkeypatch):
    """Two machines train a stage each into one folder: the later must not bring untrained weights back."""
    options, train_stage = prepared(tiny, small, tmp_path), run.train_stage

    def beside(stage, *args, **kwargs):
        if stage.name == "coarse":
            main([*options, "--stage", "semantic"])
        return train_stage(stage, *args, **kwargs)

    monkeypatch.setattr(run, "train_stage", beside)
    result = main([*options, "--stage", "coarse"])
    assert changed_stages(tmp_path / "start", result) == {"semantic", "coarse"}
    assert set(json.loads((result / "training.json").read_text())["stages"]) == {"semantic", "coarse"}


def test_a_run_of_one_stage_leaves_the_others_alone(tiny, small, tmp_path):
    result = main([*prepared(tiny, small, tmp_path), "--stage", "coarse", "--eval_strategy", "no"])
    assert changed_stages(tmp_path / "start", result) == {"coarse"}


# `bark-hf train` that is killed, or on CPUs where accelerate shards networks on accelerators only
RUN = """
import os, signal, sys
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from bark_hf import BarkProcessor
from bark_hf.training import run

torch.set_num_threads(1)
how, saved = sys.argv[1].split(","), []
made, save = AcceleratorState.__init__, BarkProcessor.save_pretrained

def as_on_accelerators(self, *given, **options):
    if PartialState().distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    made(self, *given, **options)

def on_step_end(self, args, state, control, model, **kwargs):
    if "sharded" in how:
        parts = [part for part in model.parameters() if part.requires_grad]
        assert parts and all(isinstance(part, DTensor) for part in parts)
        assert sum(part.to_local().numel() for part in parts) < 0.6 * sum(part.numel() for part in parts)
    if "step" in how and state.global_step == 3:
        os.kill(os.getpid(), signal.SIGTERM)

def save_pretrained(self, folder):
    saved.append(folder)
    if "composite" in how and len(saved) == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    save(self, folder)

if "sharded" in how:
    AcceleratorState.__init__ = as_on_accelerators
TrainerCallback.on_step_end, BarkProcessor.save_pretrained = on_step_end, save_pretrained
run.main(sys.argv[2:])
"""


def weights(composite: Path) -> dict[str, torch.Tensor]:
    return load_file(composite / "model.safetensors")


LORA = ["--lora_rank", "2", "--lora_dropout", "0.1"]


@pytest.mark.parametrize(
    ("moment", "lora"), [("step", []), ("step", LORA), ("composite", [])], ids=["step", "step, lora", "composite"]
)
def test_a_killed_run_goes_on_from_its_last_checkpoint(tiny, small, tmp_path, moment, lora):
    """SIGTERM in the middle of a stage, and while the second stage's composite is written: what is left loads, and
    the resumed run ends where an uninterrupted one does."""
    arguments = [*prepared(tiny, small, tmp_path), "--stage", "semantic,coarse", "--save_total_limit", "4", *lora]
    whole = main([*arguments, "--output_dir", str(tmp_path / "whole")])
    killed = run_python("-c", RUN, moment, *arguments)
    assert killed.returncode == -signal.SIGTERM, killed.stderr
    output = tmp_path / "out"
    checkpoint = last_checkpoint(output / ("semantic" if moment == "step" else "coarse"))
    written = (checkpoint / "trainer_state.json").stat().st_mtime_ns
    if moment == "step":
        assert not (output / "model").exists()
        assert checkpoint.name == "checkpoint-2"
        if lora:
            network = PeftModel.from_pretrained(tiny_bark(small).semantic, checkpoint)
            trained = [tensor for name, tensor in network.state_dict().items() if "lora_B" in name]
            assert all(tensor.any() for tensor in trained)
        else:
            bark_hf.BarkSemanticModel.from_pretrained(checkpoint)
        (output / "semantic" / "checkpoint-9").mkdir()  # as if it had been killed while it saved
    else:
        assert changed_stages(tmp_path / "start", output / "model") == {"semantic"}
        assert list(json.loads((output / "model" / "training.json").read_text())["stages"]) == ["semantic"]
    assert_close(weights(main(arguments)), weights(whole))
    assert (checkpoint / "trainer_state.json").stat().st_mtime_ns == written  # what was done was not done again
    assert changed_stages(tmp_path / "start", whole) == {"semantic", "coarse"}


SHARDED = ["-m", "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy",
           "TRANSFORMER_BASED_WRAP", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
           "--dynamo_backend", "no"]  # fmt: skip


@pytest.mark.parametrize(
    ("stages", "lora"), [("semantic,fine", []), ("semantic", ["--lora_rank", "2"])], ids=["all weights", "lora"]
)
def test_sharded_processes_equal_one_with_twice_the_batch(tiny, small, tmp_path, stages, lora):
    """FSDP, all weights killed once: the best of the checkpoints, samples that were spoken, a whole composite.

    Guards against tables that are heads elsewhere, gradients of tables that only one process used, processes that
    load different best checkpoints, and one that speaks while the others wait."""
    (tmp_path / "run.py").write_text(RUN)
    (tmp_path / "texts.txt").write_text("Hello.")
    # plain gradient descent: Adam would go on moving tables that no row of a batch has used
    options = {"stage": stages, "eval_data": tmp_path / "rows", "optim": "sgd",
               "learning_rate": 0.1, "weight_decay": 0, "train_sampling_strategy": "sequential", "save_total_limit": 4,
               "sample_texts": tmp_path / "texts.txt", "sample_steps": 5}  # fmt: skip
    arguments = prepared(tiny, small, tmp_path) + [part for k, v in options.items() for part in (f"--{k}", str(v))]
    arguments += lora
    one = main([*arguments, "--output_dir", str(tmp_path / "one"), "--per_device_train_batch_size", "2"])
    written = set()
    for how in ["sharded"] if lora else ["step,sharded", "sharded"]:
        done = run_python(*SHARDED, str(tmp_path / "run.py"), how, *arguments, "--per_device_train_batch_size", "1")
        assert (done.returncode == 0) == (how == "sharded"), done.stderr
        assert last_checkpoint(tmp_path / "out" / "semantic").name == f"checkpoint-{2 if 'step' in how else 6}"
        written.add((tmp_path / "out" / "semantic" / "checkpoint-2" / "trainer_state.json").stat().st_mtime_ns)
    assert len(written) == 1  # the killed one's
    two = tmp_path / "out" / "model"
    assert_close(weights(two), weights(one), tolerance=1e-5)
    assert changed_stages(tmp_path / "start", two) == {*stages.split(",")}
    assert (two / "samples" / "0.wav").read_bytes() == (one / "samples" / "0.wav").read_bytes()


def test_bfloat16_trains_and_leaves_a_float32_composite(tiny, small, tmp_path):
    """Autocast: what is multiplied is bfloat16, what is kept is not."""
    options = ["--stage", "semantic", "--bf16", "true", "--max_steps", "40", "--logging_steps", "10"]
    result = main([*prepared(tiny, small, tmp_path), *options, "--learning_rate", "5e-3"])
    state = json.loads((last_checkpoint(tmp_path / "out" / "semantic") / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    with safe_open(result / "model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F32"}  # noqa: SIM118
    model = bark_hf.BarkModel.from_pretrained(result, dtype="auto")
    assert model.dtype == torch.float32
    inputs = bark_hf.BarkProcessor.from_pretrained(result)("Hello")
    assert torch.isfinite(model.generate(**inputs, seed=1)).all()


@pytest.fixture(scope="module")
def listener(tmp_path_factory):
    """A random speech recognizer's folder: it hears letters."""
    folder = tmp_path_factory.mktemp("asr")
    letters = ["<pad>", "<unk>", "|", *"abcdefgh"]
    (folder / "vocab.json").write_text(json.dumps({letter: number for number, letter in enumerate(letters)}))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(letters), conv_dim=(8, 8), conv_kernel=(10, 8), conv_stride=(5, 64),
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, **sizes,
    )  # fmt: skip
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    tokenizer = Wav2Vec2CTCTokenizer(folder / "vocab.json", pad_token="<pad>", unk_token="<unk>", bos_token=None)
    tokenizer.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=16_000).save_pretrained(folder)
    return folder


def test_samples_are_scored_by_a_recognizer_of_transformers(tiny, small, tmp_path, listener):
    """Guards against the pipeline's own resampling, which needs torchaudio."""
    (tmp_path / "texts.txt").write_text("Hello the music.\nHello.")
    options = ["--stage", "semantic", "--sample_texts", str(tmp_path / "texts.txt"), "--asr", str(listener)]
    result = main([*prepared(tiny, small, tmp_path), *options, "--save_steps", "3"])
    folder = tmp_path / "out" / "semantic"
    scores = [json.loads(line) for line in (folder / "samples" / "scores.jsonl").read_text().splitlines()]
    assert [score["step"] for score in scores] == [3, 6]
    assert all(score["wer"] > 0 and math.isfinite(score["wer"]) for score in scores)
    state = json.loads((last_checkpoint(folder) / "trainer_state.json").read_text())
    assert scores[0]["wer"] in [entry.get("samples_wer") for entry in state["log_history"]]
    assert f'"wer": {scores[1]["wer"]}' in (result / "README.md").read_text()


def test_a_recognizer_hears_the_shortest_sounds(listener):
    heard = asr_recognizer(str(listener))
    assert isinstance(heard(torch.randn(20).numpy(), 24_000), str)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["--stage", "codec"], "--stage takes semantic, coarse, fine"),
        (["--lora_rank", "-1"], "--lora_rank must be 0"),
        (["--model", "/nowhere"], "There is no folder /nowhere"),
        (["--eval_share", "1"], "--eval_share must be"),
        (["--eval_share", "0"], "nothing to evaluate on"),
        (["--data", "/nowhere"], "no tokenized dataset"),
        (["--early_stopping_patience", "2", "--eval_strategy", "no"], "patience 2 counts evaluations"),
    ],
)
def test_wrong_arguments_are_said_in_a_sentence(tiny, small, tmp_path, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        main([*prepared(tiny, small, tmp_path), *wrong])


def test_the_script_says_a_wrong_value_in_a_line():
    done = run_python("-m", "bark_hf.training.run", "--model", "/nowhere", "--data", "x")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("error: There is no folder /nowhere")
    assert "Traceback" not in done.stderr


def test_what_is_kept_for_evaluation_is_drawn_by_the_data_seed_if_there_is_one(tiny, small, tmp_path):
    """Guards against a data seed of 0 that counts as none."""
    prepared(tiny, small, tmp_path)

    def kept(data_seed, seed):
        given = SimpleNamespace(eval_strategy="steps", data_seed=data_seed, seed=seed)
        data = DataArguments(str(tmp_path / "rows"), eval_share=0.5)
        return _tables(data, tiny, small.processor, given)[1]["semantic_ids"][:]

    assert kept(0, 7) == kept(None, 0) != kept(None, 7)


def test_losses_go_to_tensorboard_and_training_stops_early(tiny, small, tmp_path):
    options = ["--stage", "semantic", "--report_to", "tensorboard", "--early_stopping_patience", "1"]
    main([*prepared(tiny, small, tmp_path), *options, "--learning_rate", "1", "--max_steps", "20"])
    assert list((tmp_path / "out").rglob("events.out.tfevents.*"))
    last = last_checkpoint(tmp_path / "out" / "semantic")
    state = json.loads((last / "trainer_state.json").read_text())
    assert state["global_step"] < 20  # a rate of 1 ruins it at once


def test_the_composite_is_published_with_its_card(tiny, small, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(HfApi, "create_repo", lambda self, name, **options: SimpleNamespace(repo_id=f"me/{name}"))
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **options: calls.append(options))
    options = ["--stage", "semantic", "--push_to_hub", "true", "--hub_model_id", "mine", "--eval_strategy", "no"]
    result = main([*prepared(tiny, small, tmp_path), *options])
    (call,) = calls
    assert (call["repo_id"], Path(call["folder_path"])) == ("me/mine", result)
    assert (result / "README.md").is_file()
