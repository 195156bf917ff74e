"""A stage trains with the stock Trainer: the loss is the cross entropy of what generation feeds, and training can be
repeated, resumed, split over processes, checkpointed and merged."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import since_5_20
from runs import assert_close, run_python, table, tiny_bark
from transformers import TrainingArguments

from bark_hf.audio import read_metadata
from bark_hf.training.metrics import ranks
from bark_hf.training.run import ByLength, last_checkpoint, train_stage
from bark_hf.training.samples import SpeakCallback
from bark_hf.training.stages import LORA_LAYERS, STAGES, Stage, add_lora
from bark_hf.training.utterances import Utterances
from bark_hf.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def tiny(small):
    return tiny_bark(small)


@pytest.fixture
def bark(tiny):
    return copy.deepcopy(tiny)


def utterances(stage: Stage, **options) -> Utterances:
    return Utterances(table(stage.vocabulary), stage.vocabulary, **options)


def arguments(folder: Path, **options) -> TrainingArguments:
    defaults = {"max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "report_to": "none",
                "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_strategy": "no",
                "eval_strategy": "no"}  # fmt: skip
    return TrainingArguments(str(folder), **{**defaults, **options})


def weights(network) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


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


@pytest.mark.parametrize(("name", "order"), [*((name, "random") for name in STAGES), ("semantic", "group_by_length")])
def test_a_resumed_run_ends_with_the_same_weights(tiny, name, order, tmp_path):
    """Histories, windows and codebooks are drawn from (seed, epoch, example), so a new process draws the same; so is
    the order, in the middle of the second epoch too."""
    results = []
    for folder, halts in (("whole", [8]), ("halved", [5, 8])):
        for halt in halts:
            stage = Stage(name, copy.deepcopy(tiny))
            options = {"save_strategy": "steps", "save_steps": 5, "lr_scheduler_type": "constant",
                       "train_sampling_strategy": order}  # fmt: skip
            train_stage(stage, utterances(stage), None, arguments(tmp_path / folder, **{**options, "max_steps": halt}))
        results.append(weights(stage.network))
    assert_close(*results)


def test_rows_of_a_length_come_in_an_order_of_seed_and_epoch(bark):
    """Whatever else draws random numbers, on one process or another: else processes would share rows and miss some."""
    data = utterances(Stage("semantic", bark), seed=3)
    orders = []
    for epoch in (0, 1, 1):
        data.set_epoch(epoch)
        orders.append(list(ByLength(data, 2)))
        torch.rand(1)
    assert orders[1] == orders[2] != orders[0]
    assert sorted(orders[1]) == list(range(len(data)))


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


def test_a_trainer_that_refuses_its_arguments_leaves_no_additions_behind(bark, tmp_path):
    stage = Stage("semantic", bark)
    before = weights(stage.network)
    with pytest.raises(ValueError, match="eval_dataset"):
        train_stage(stage, utterances(stage), None, arguments(tmp_path, eval_strategy="steps"), lora_rank=4)
    assert_close(weights(stage.network), before)
    assert all(part.requires_grad for part in stage.network.parameters())  # to be trained again, by other means


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
from transformers import TrainingArguments
import bark_hf
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
    bark.generate = lambda **inputs: torch.zeros(1, 24_000 * (inputs["seed"] + 1))  # silence
    SpeakCallback(bark, small.processor, ["a", "b"], voice="made/short", log=logged.append).speak(tmp_path, state)
    assert logged[1] == {"samples_similarity": 0}  # and the training goes on
    with pytest.raises(ValueError, match="no sample texts"):
        SpeakCallback(bark, small.processor, [])


@pytest.mark.parametrize("rank", [0, 4])
def test_a_stage_trained_in_bfloat16_speaks_as_its_weights_do(bark, rank, tmp_path):
    """Autocast ends with the training: else the network would compute otherwise than after saving and loading."""
    stage = Stage("semantic", bark)
    train_stage(stage, utterances(stage), None, arguments(tmp_path, bf16=True), lora_rank=rank)
    again = type(stage.network)(stage.network.config).eval()
    again.load_state_dict(stage.network.state_dict())
    batch = stage.collator()([utterances(stage)[i] for i in range(2)])
    with torch.no_grad():
        assert torch.equal(stage.network(**batch).logits, again(**batch).logits)
