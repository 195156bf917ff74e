"""Training with the stock Trainer: the loss is the cross entropy of what generation feeds, and runs can be repeated,
resumed, split over processes, checkpointed and merged."""

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import since_5_20
from datasets import Dataset
from huggingface_hub import HfApi, ModelCard
from transformers import TrainingArguments

import bark_hf
from bark_hf.audio import read_metadata
from bark_hf.training.metrics import ranks
from bark_hf.training.run import last_checkpoint, main, train_stage
from bark_hf.training.samples import SpeakCallback
from bark_hf.training.stages import ATTRIBUTES, LORA_LAYERS, STAGES, Stage, add_lora, save_composite
from bark_hf.training.utterances import Utterances
from bark_hf.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def tiny(small):
    """A composite with the small goldens' vocabularies and short windows, wide enough to learn things by heart."""
    config = copy.deepcopy(small.model.config)
    for name in ATTRIBUTES.values():
        part = getattr(config, f"{name}_config")
        part.num_layers, part.num_heads, part.hidden_size, part.dropout = 2, 4, 64, 0.0
    torch.manual_seed(0)
    model = bark_hf.BarkModel(config)
    model.generation_config = copy.deepcopy(small.model.generation_config)
    windows = model.generation_config
    windows.semantic_config.max_input_semantic_length = 32
    windows.coarse_acoustics_config.max_coarse_input_length = 64
    windows.fine_acoustics_config.max_fine_input_length = 128
    windows.fine_acoustics_config.max_fine_history_length = 64
    model.codec_model.load_state_dict(small.model.codec_model.state_dict())
    return model.eval()


@pytest.fixture
def bark(tiny):
    return copy.deepcopy(tiny)


def table(vocabulary: Vocabulary, count: int = 8, seed: int = 0) -> list[dict]:
    """Rows of a tokenized dataset: a text of 6 ids, and 10 to 24 semantic ids with codes."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        semantic = 10 + 2 * number % 16
        frames = vocabulary.coarse_length(semantic) // vocabulary.n_coarse_codebooks
        rows.append({
            "text_ids": random.integers(1, 300, 6).tolist(),
            "semantic_ids": random.integers(0, vocabulary.semantic_vocab_size, semantic).tolist(),
            "codes": random.integers(0, vocabulary.codebook_size, (8, frames)).tolist(),
            "speaker": "ab"[number % 2],
            "length": semantic,
        })  # fmt: skip
    return rows


def utterances(stage: Stage, **options) -> Utterances:
    return Utterances(table(stage.vocabulary), stage.vocabulary, **options)


def arguments(folder: Path, **options) -> TrainingArguments:
    defaults = {"max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "report_to": "none",
                "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_strategy": "no",
                "eval_strategy": "no"}  # fmt: skip
    return TrainingArguments(str(folder), **{**defaults, **options})


def weights(network) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_close(a: dict, b: dict, tolerance: float = 0.0) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", STAGES)
def test_a_stages_loss_is_the_cross_entropy_of_the_collators_labels(bark, name):
    """By hand, position by position: the causal stages are shifted once, the fine one is not."""
    stage = Stage(name, bark)
    data = utterances(stage)
    batch = stage.collator()([data[i] for i in range(4)])
    with torch.no_grad():
        output = stage.network(**batch)
    losses = []
    for row, labels in enumerate(batch["labels"]):
        for at, label in enumerate(labels.tolist()):
            if label != -100:
                logits = output.logits[row, at - 1 if stage.is_causal else at].double()
                losses.append(float(logits.logsumexp(-1) - logits[label]))
    assert len(losses) > 50
    assert output.loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_rows_of_a_fine_batch_have_codebooks_of_their_own(bark):
    network = bark.fine_acoustics
    ids = torch.randint(0, 64, (3, 1024, 8))
    codebooks = torch.tensor([2, 7, 4])
    with torch.no_grad():
        together = network(codebook_idx=codebooks, input_ids=ids).logits
        for row, codebook in enumerate(codebooks.tolist()):
            alone = network(codebook_idx=codebook, input_ids=ids[row : row + 1]).logits
            torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="codebook_idx"):
        network(codebook_idx=torch.tensor([2, 8, 3]), input_ids=ids)


@pytest.mark.parametrize("name", STAGES)
def test_an_overfitted_stage_gives_its_utterances_back(bark, name, tmp_path):
    """Eight utterances by heart, then `generate` says them greedily: both feed the network the same layout."""
    stage = Stage(name, bark)
    data = utterances(stage, history_share=0.0)
    options = {"learning_rate": 5e-3, "warmup_steps": 10, "lr_scheduler_type": "cosine"}
    options |= {"max_steps": 300 if name == "fine" else 150, "per_device_train_batch_size": 8}
    metrics = train_stage(stage, data, data, arguments(tmp_path, **options))
    assert metrics["eval_loss"] < 0.1
    assert metrics["eval_top1"] > 0.99
    for row in data.table:
        semantic, codes = torch.tensor(row["semantic_ids"]), torch.tensor(row["codes"])
        if name == "semantic":
            (made,) = bark.generate_semantic(torch.tensor([row["text_ids"]]), do_sample=False)
            assert torch.equal(made, semantic)
        elif name == "coarse":
            (made,) = bark.generate_coarse([semantic], do_sample=False)
            assert torch.equal(made, codes[:2])
        else:
            (made,) = bark.generate_fine([codes[:2]], temperature=None)
            assert (made == codes).float().mean() > 0.99


@pytest.mark.parametrize("name", STAGES)
def test_a_resumed_run_ends_with_the_same_weights(tiny, name, tmp_path):
    """Histories, windows and codebooks are drawn from (seed, epoch, example), so a new process draws the same."""
    results = []
    for folder, halts in (("whole", [6]), ("halved", [3, 6])):
        for halt in halts:
            stage = Stage(name, copy.deepcopy(tiny))
            options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "constant"}
            train_stage(stage, utterances(stage), None, arguments(tmp_path / folder, **{**options, "max_steps": halt}))
        results.append(weights(stage.network))
    assert_close(*results)


@since_5_20
@pytest.mark.parametrize("name", STAGES)
def test_accumulated_gradients_equal_a_larger_batch(tiny, name, tmp_path):
    results = []
    for size, accumulated in ((4, 1), (1, 4)):
        stage = Stage(name, copy.deepcopy(tiny))
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated, "max_steps": 2}
        train_stage(stage, utterances(stage), None, arguments(tmp_path, optim="sgd", learning_rate=0.1, **options))
        results.append(weights(stage.network))
    assert_close(*results, tolerance=2e-6)


@pytest.mark.parametrize("name", STAGES)
def test_checkpointed_activations_give_equal_gradients(tiny, name):
    gradients = []
    for checkpointed in (False, True):
        stage = Stage(name, copy.deepcopy(tiny))
        network = stage.network.train()
        if checkpointed:
            enable = getattr(network, "activation_checkpointing_enable", network.gradient_checkpointing_enable)
            enable()
            assert all(block.gradient_checkpointing for block in network.layers)
        data = utterances(stage)
        network(**stage.collator()([data[i] for i in range(3)])).loss.backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    assert_close(*gradients)


@pytest.mark.parametrize("name", STAGES)
def test_lora_trains_its_additions_only_and_merges_to_the_same_logits(bark, name, tmp_path):
    stage = Stage(name, bark)
    before = weights(stage.network)
    batch = stage.collator()([utterances(stage)[i] for i in range(2)])
    peft = add_lora(copy.deepcopy(stage.network), rank=4)
    trained = {n for n, p in peft.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in n and any(f".{layer}." in n for layer in LORA_LAYERS) for n in trained)
    optimizer = torch.optim.SGD([p for p in peft.parameters() if p.requires_grad], lr=1.0)
    for _ in range(3):
        peft(**batch).loss.backward()
        optimizer.step()
    with torch.no_grad():
        peft.eval()
        wanted = peft(**batch).logits
        merged = peft.merge_and_unload()
        assert (wanted - stage.network(**batch).logits).abs().max() > 1e-3
        torch.testing.assert_close(merged(**batch).logits, wanted, rtol=0, atol=1e-4)
    train_stage(stage, utterances(stage), None, arguments(tmp_path), lora_rank=4)
    after = weights(stage.network)
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed
    assert all(any(f".{layer}." in n for layer in LORA_LAYERS) for n in changed)


def test_ranks_count_what_scores_above():
    logits = torch.tensor([[[0.0, 3, 2, 1], [5, 1, 0, 0], [0, 0, 0, 9]]])
    labels = torch.tensor([[-100, 2, 0]])
    assert ranks(logits, labels, shifted=True).tolist() == [[-100, 1, 0]]
    assert ranks(logits, (labels, torch.zeros(1)), shifted=False).tolist() == [[-100, 2, 1]]


@pytest.mark.parametrize("name", ["coarse", "fine"])
def test_accuracy_is_given_for_each_codebook(bark, name, tmp_path):
    stage = Stage(name, bark)
    data = utterances(stage)
    metrics = train_stage(stage, data, data, arguments(tmp_path, max_steps=1))
    found = {key for key in metrics if key.startswith("eval_top1_codebook_")}
    assert found <= {f"eval_top1_codebook_{k}" for k in ([0, 1] if name == "coarse" else range(2, 8))}
    assert len(found) >= 2


def test_unfinished_checkpoints_are_passed_over(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for step in (5, 10, 20, 30):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-5" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-10" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-20" / "trainer_state.json").write_text('{"glob')  # killed while it was written
    assert last_checkpoint(tmp_path).name == "checkpoint-10"


def test_an_unknown_stage_is_named(bark):
    with pytest.raises(ValueError, match="semantic, coarse, fine"):
        Stage("codec", bark)


ONE_OF_TWO = """
import sys
from pathlib import Path
import torch
from datasets import Dataset
from huggingface_hub import HfApi, ModelCard
from transformers import TrainingArguments
import bark_hf
from bark_hf.audio import read_metadata
from bark_hf.training.samples import SpeakCallback
from bark_hf.training.run import train_stage
from bark_hf.training.stages import Stage
from bark_hf.training.utterances import Utterances

torch.set_num_threads(1)
folder, name, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
stage = Stage(name, bark_hf.BarkModel.from_pretrained(folder / "model"))
rows = torch.load(folder / "rows.pt", weights_only=True)
arguments = TrainingArguments(
    str(folder / "run"), max_steps=3, per_device_train_batch_size=size, learning_rate=0.1, optim="sgd", use_cpu=True,
    report_to="none", save_strategy="no", train_sampling_strategy="sequential", disable_tqdm=True,
)
print(f"{arguments.world_size} processes")
train_stage(stage, Utterances(rows, stage.vocabulary), None, arguments)
if arguments.should_save:
    torch.save(stage.network.state_dict(), folder / f"{name}-{size}.pt")
"""


def run_python(*command: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["semantic", "fine"])
def test_two_processes_equal_one_with_twice_the_batch(tiny, name, tmp_path):
    """`accelerate launch` as it is; the fine stage leaves tables and heads of other codebooks without gradients."""
    tiny.save_pretrained(tmp_path / "model")
    torch.save(table(Vocabulary.of(tiny.generation_config)), tmp_path / "rows.pt")
    script = tmp_path / "one_of_two.py"
    script.write_text(ONE_OF_TWO)
    two = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    for launcher, size in (([*two, "--mixed_precision", "no", "--dynamo_backend", "no"], 2), ([], 4)):
        done = run_python(*launcher, str(script), str(tmp_path), name, str(size))
        assert done.returncode == 0, done.stderr
        assert f"{4 // size} processes" in done.stdout
    two, one = (torch.load(tmp_path / f"{name}-{size}.pt", weights_only=True) for size in (2, 4))
    assert_close(two, one, tolerance=1e-5)


def prepared(tiny, small, folder: Path, count: int = 12) -> list[str]:
    """A checkpoint and a tokenized dataset in `folder`; the arguments of a short run over them."""
    save_composite(tiny, small.processor, folder / "start")
    rows = [
        {**row, "text": "hello", "seconds": 0.5, "source": "x.wav"}
        for row in table(Stage("fine", tiny).vocabulary, count)
    ]
    Dataset.from_list(rows).save_to_disk(folder / "rows")
    options = {"model": folder / "start", "data": folder / "rows", "output_dir": folder / "out", "max_steps": 6,
               "save_steps": 2, "logging_steps": 2, "per_device_train_batch_size": 2, "eval_share": 0.25,
               "use_cpu": True, "disable_tqdm": True, "report_to": "none", "learning_rate": 1e-3}  # fmt: skip
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


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
    result = main([*prepared(tiny, small, tmp_path), *options])
    assert changed_stages(tmp_path / "start", result) == set(STAGES)
    report = json.loads((tmp_path / "out" / "model" / "training.json").read_text())
    assert set(report["stages"]) == set(STAGES)
    assert all(metrics["eval_loss"] > 0 and "eval_top10" in metrics for metrics in report["stages"].values())
    card = (result / "README.md").read_text()
    assert ModelCard(card).data.pipeline_tag == "text-to-speech"
    assert "| semantic |" in card
    assert "LoRA of rank 2" in card
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


def test_a_run_of_one_stage_leaves_the_others_alone(tiny, small, tmp_path):
    result = main([*prepared(tiny, small, tmp_path), "--stage", "coarse", "--eval_strategy", "no"])
    assert changed_stages(tmp_path / "start", result) == {"coarse"}


def test_a_killed_run_goes_on_from_its_last_checkpoint(tiny, small, tmp_path):
    """SIGTERM in the middle: what is left loads, and the resumed run ends where an uninterrupted one does."""
    arguments = [*prepared(tiny, small, tmp_path), "--stage", "semantic"]
    whole = main([*arguments, "--output_dir", str(tmp_path / "whole")])
    code = (
        "import os, signal, torch, transformers; torch.set_num_threads(1); from bark_hf.training import run\n"
        "class Kill(transformers.TrainerCallback):\n"
        "    def on_step_end(self, args, state, control, **kwargs):\n"
        "        if state.global_step == 3: os.kill(os.getpid(), signal.SIGTERM)\n"
        "run.EpochCallback.__mro__[1].on_step_end = Kill.on_step_end\n"
        "import sys; run.main(sys.argv[1:])"
    )
    killed = run_python("-c", code, *arguments)
    assert killed.returncode == -signal.SIGTERM, killed.stderr
    checkpoint = last_checkpoint(tmp_path / "out" / "semantic")
    assert checkpoint.name == "checkpoint-2"
    assert not (tmp_path / "out" / "model").exists()
    bark_hf.BarkSemanticModel.from_pretrained(checkpoint)
    (tmp_path / "out" / "semantic" / "checkpoint-9").mkdir()  # as if it had been killed while it saved
    result = main(arguments)
    for name in ("semantic",):
        a, b = (getattr(bark_hf.BarkModel.from_pretrained(f), name).state_dict() for f in (whole, result))
        assert_close(a, b)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["--stage", "codec"], "--stage takes semantic, coarse, fine"),
        (["--lora_rank", "-1"], "--lora_rank must be 0"),
        (["--model", "/nowhere"], "There is no folder /nowhere"),
        (["--eval_share", "1"], "--eval_share must be"),
        (["--eval_share", "0"], "nothing to evaluate on"),
        (["--data", "/nowhere"], "no tokenized dataset"),
    ],
)
def test_wrong_arguments_are_said_in_a_sentence(tiny, small, tmp_path, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        main([*prepared(tiny, small, tmp_path), *wrong])


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


def test_samples_are_scored_by_whoever_listens(bark, small, tmp_path):
    logged: list[dict] = []
    state = SimpleNamespace(is_world_process_zero=True, global_step=3)
    heard = iter(["hello, the MUSIC!", "hello"])
    speak = SpeakCallback(
        bark, small.processor, ["Hello the music.", "Hello the song."], voice="made/short",
        recognizer=lambda samples, rate: next(heard), log=logged.append,
    )  # fmt: skip
    bark.semantic.train()
    speak.speak(tmp_path, state)
    assert bark.semantic.training
    assert not bark.fine_acoustics.training
    assert logged[0]["samples_wer"] == pytest.approx(2 / 6)
    assert read_metadata(tmp_path / "samples" / "3" / "1.wav")["comment"].count('"seed": 1')
    with pytest.raises(ValueError, match="no sample texts"):
        SpeakCallback(bark, small.processor, [])
