"""The networks alone: caches, masks, attention kernels, losses, ties, resizing, dtypes, loading, the stock Trainer."""

import copy
import importlib.util
import io
import logging
import weakref

import pytest
import torch
from conftest import since_5_20
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments
from transformers.cache_utils import DynamicCache, StaticCache

import bark_hf
from bark_hf import BarkCoarseModel, BarkFineModel, BarkSemanticModel

SIZE = {"num_layers": 2, "num_heads": 2, "hidden_size": 16, "block_size": 48}
STAGES = {
    "semantic": (BarkSemanticModel, bark_hf.BarkSemanticConfig, {"input_vocab_size": 60, "output_vocab_size": 25}),
    "coarse": (BarkCoarseModel, bark_hf.BarkCoarseConfig, {"input_vocab_size": 40, "output_vocab_size": 40}),
    "fine": (BarkFineModel, bark_hf.BarkFineConfig, {"input_vocab_size": 20, "output_vocab_size": 20}),
}
CAUSAL = ["semantic", "coarse"]
NAMES = {"semantic": "semantic", "coarse": "coarse_acoustics", "fine": "fine_acoustics"}
CODEBOOK = 3


def tiny(stage, attn_implementation="sdpa", **changes):
    """A random stage whose logits differ clearly from place to place."""
    model_class, config_class, vocabulary = STAGES[stage]
    config = config_class(**{**SIZE, **vocabulary, **changes})
    model = model_class._from_config(config, attn_implementation=attn_implementation)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (name.endswith("weight") and "layernorm" in name))
    return model.eval()


def tiny_composite(**changes):
    stages = {f"{NAMES[name]}_config": {**SIZE, **STAGES[name][2], **changes} for name in STAGES}
    codec = {"num_filters": 2, "hidden_size": 8, "codebook_dim": 8, "codebook_size": 16, "target_bandwidths": [2.4]}
    return bark_hf.BarkModel(bark_hf.BarkConfig(**stages, codec_config=codec)).eval()


def batch_of(stage, rows=2, length=12):
    """Inputs and labels of a stage, as a data collator would give them."""
    vocabulary = STAGES[stage][2]
    shape = (rows, length, 8) if stage == "fine" else (rows, length)
    inputs = {"input_ids": torch.randint(vocabulary["input_vocab_size"], shape)}
    inputs["labels"] = torch.randint(vocabulary["output_vocab_size"], (rows, length))
    return {**inputs, "codebook_idx": CODEBOOK} if stage == "fine" else inputs


def inputs_of(stage, **shape):
    return {name: value for name, value in batch_of(stage, **shape).items() if name != "labels"}


def assert_close(got, wanted, tolerance=1e-5):
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


@pytest.fixture
def said(caplog):
    """What transformers logs at WARNING or above; its logger does not pass records on."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    logger.removeHandler(caplog.handler)


# Caches


def cache_of(output):
    """The cache that a forward returns, under the name that this version of transformers has for it."""
    return output["cache" if "cache" in output else "past_key_values"]


def in_pieces(model, ids, sizes, cache):
    """Logits of `ids` fed in pieces through one cache."""
    parts = []
    for piece in ids.split(sizes, dim=1):
        out = model(piece, cache=cache, use_cache=True)
        parts.append(out.logits)
        cache = cache_of(out)
        assert cache is not None
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("stage", CAUSAL)
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("sizes", [[12, 1, 1, 1, 1], [1] * 16, [7, 5, 4]], ids=["prompt", "steps", "chunks"])
@torch.no_grad()
def test_cached_logits_equal_uncached_ones(stage, kernel, sizes):
    """Guards against positions that restart, and against a chunk that sees its own future."""
    model = tiny(stage, kernel)
    ids = torch.randint(40, (2, 16))
    wanted = model(ids, use_cache=False)
    assert not {"cache", "past_key_values"} & wanted.keys()
    assert_close(in_pieces(model, ids, sizes, None), wanted.logits)
    assert_close(in_pieces(model, ids, sizes, DynamicCache(config=model.config)), wanted.logits)


@pytest.mark.parametrize("stage", CAUSAL)
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("sizes", [[12, 1, 1, 1, 1], [1] * 16, [7, 5, 4]], ids=["prompt", "steps", "chunks"])
@torch.no_grad()
def test_a_static_cache_given_to_forward_equals_no_cache(stage, kernel, sizes):
    """Guards against attending to the empty slots that a StaticCache returns."""
    model = tiny(stage, kernel)
    ids = torch.randint(40, (2, 16))
    cache = StaticCache(config=model.config, max_cache_len=24)
    assert_close(in_pieces(model, ids, sizes, cache), model(ids, use_cache=False).logits)


@pytest.mark.parametrize("stage", CAUSAL)
@torch.no_grad()
def test_a_static_cache_and_one_position_to_keep(stage):
    """Guards against a last position that attends to the cache's empty slots, as its queries alone are not masked."""
    model = tiny(stage, "sdpa")
    ids = torch.randint(40, (2, 9))
    cache = StaticCache(config=model.config, max_cache_len=24)
    got = model(ids, cache=cache, use_cache=True, logits_to_keep=1).logits
    assert_close(got, model(ids, use_cache=False).logits[:, -1:])


@torch.no_grad()
def test_a_static_cache_of_exactly_the_length_is_enough():
    model = tiny("coarse")
    ids = torch.randint(40, (1, 16))
    cache = StaticCache(config=model.config, max_cache_len=16)
    assert_close(in_pieces(model, ids, [10, 3, 3], cache), model(ids, use_cache=False).logits)


@torch.no_grad()
def test_history_is_added_before_the_cache_and_not_again():
    model = tiny("semantic")
    ids, history = torch.randint(60, (2, 14)), torch.randint(20, (2, 9))
    wanted = model(ids, history_ids=history, use_cache=False).logits
    first = model(ids[:, :10], history_ids=history, use_cache=True)
    rest = model(ids[:, 10:], cache=cache_of(first), use_cache=True)
    assert_close(torch.cat([first.logits, rest.logits], dim=1), wanted)
    embeds = model.input_embeds_layer(ids)
    embeds[:, :9] += model.input_embeds_layer(history)
    assert_close(model(inputs_embeds=embeds, use_cache=False).logits, wanted)
    assert_close(model(inputs_embeds=model.input_embeds_layer(ids), history_ids=history).logits, wanted)


# Masks and kept logits


@pytest.mark.parametrize("stage", CAUSAL)
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@torch.no_grad()
def test_a_left_padded_row_equals_the_row_alone(stage, kernel):
    """Guards against a 2D mask that is ignored or that hides the wrong end."""
    model = tiny(stage, kernel)
    alone, other = torch.randint(40, (1, 7)), torch.randint(40, (1, 12))
    ids = torch.cat([torch.nn.functional.pad(alone, (5, 0)), other])
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(ids, attention_mask=mask, position_ids=positions).logits
    assert_close(logits[:1, 5:], model(alone).logits)
    assert_close(logits[1:], model(other).logits)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@torch.no_grad()
def test_the_fine_mask_hides_padding_at_both_sides(kernel):
    model = tiny("fine", kernel)
    alone = torch.randint(20, (1, 7, 8))
    ids = torch.nn.functional.pad(alone, (0, 0, 0, 5))
    mask = torch.ones(1, 12, dtype=torch.long)
    mask[:, 7:] = 0
    wanted = model(CODEBOOK, alone).logits
    assert_close(model(CODEBOOK, ids, attention_mask=mask).logits[:, :7], wanted)
    assert (model(CODEBOOK, ids).logits[:, :7] - wanted).abs().max() > 1e-2  # not causal: unmasked pads are read


@torch.no_grad()
def test_causal_stages_do_not_see_the_future_and_the_fine_stage_does():
    for stage in STAGES:
        model, inputs = tiny(stage), inputs_of(stage)
        changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
        changed["input_ids"][:, -1] = (changed["input_ids"][:, -1] + 1) % 20
        difference = (model(**inputs).logits - model(**changed).logits)[:, :-1].abs().max()
        assert (difference < 1e-6) == (stage in CAUSAL), stage


@pytest.mark.parametrize("stage", CAUSAL)
@torch.no_grad()
def test_logits_to_keep_as_a_number_positions_and_positions_per_row(stage):
    model, ids = tiny(stage), torch.randint(40, (3, 11))
    everything = model(ids).logits
    for count in (1, 4):
        assert_close(model(ids, logits_to_keep=count).logits, everything[:, -count:])
    assert model(ids, logits_to_keep=0).logits.shape == everything.shape
    positions = torch.tensor([2, 9])
    assert_close(model(ids, logits_to_keep=positions).logits, everything[:, positions])
    per_row = torch.tensor([[10], [3], [0]])
    assert_close(model(ids, logits_to_keep=per_row).logits[:, 0], everything[torch.arange(3), per_row[:, 0]])
    two = torch.tensor([[10, 1], [3, 4], [0, 0]])
    assert_close(model(ids, logits_to_keep=two).logits, everything[torch.arange(3)[:, None], two])


# Attention kernels


@pytest.mark.parametrize("stage", STAGES)
@torch.no_grad()
def test_eager_equals_sdpa(stage):
    model, inputs = tiny(stage, "eager"), inputs_of(stage)
    wanted = model(**inputs).logits
    model.set_attn_implementation("sdpa")
    assert model.config._attn_implementation == "sdpa"
    assert_close(model(**inputs).logits, wanted)


def implementations(model):
    parts = (model, model.semantic, model.coarse_acoustics, model.fine_acoustics, model.codec_model)
    return {part.config._attn_implementation for part in parts}


@torch.no_grad()
def test_a_plain_string_sets_the_attention_of_the_whole_composite(tmp_path):
    """Guards against the codec, which declares no attention kernels in transformers, refusing the string."""
    tiny_composite().save_pretrained(tmp_path)
    inputs = {stage: inputs_of(stage) for stage in STAGES}
    logits = {}
    for kernel in ("eager", "sdpa"):
        model = bark_hf.BarkModel.from_pretrained(tmp_path, attn_implementation=kernel)
        assert implementations(model) == {kernel}
        logits[kernel] = {stage: getattr(model, NAMES[stage])(**inputs[stage]).logits for stage in STAGES}
    for kernel in ("eager", "sdpa"):  # there and back on the last one
        model.set_attn_implementation(kernel)
        assert implementations(model) == {kernel}
        for stage in STAGES:
            assert_close(getattr(model, NAMES[stage])(**inputs[stage]).logits, logits["eager"][stage])


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="flash-attn is installed")
def test_an_attention_that_is_not_installed_gives_a_clear_error(tmp_path):
    model = tiny_composite()
    model.save_pretrained(tmp_path)
    with pytest.raises(ImportError, match=r"(?i)flash"):
        bark_hf.BarkModel.from_pretrained(tmp_path, attn_implementation="flash_attention_2")
    with pytest.raises(ImportError, match=r"(?i)flash"):
        tiny("coarse", "flash_attention_2")
    with pytest.raises(ValueError, match="no_such_kernel"):
        bark_hf.BarkModel.from_pretrained(tmp_path, attn_implementation="no_such_kernel")


@pytest.mark.parametrize("stage", STAGES)
def test_flex_attention_can_be_selected(stage):
    """Selected only: what torch can run of it on a CPU changes from release to release."""
    assert tiny(stage, "flex_attention").config._attn_implementation == "flex_attention"


def test_flex_attention_can_be_selected_on_the_composite(tmp_path):
    tiny_composite().save_pretrained(tmp_path)
    model = bark_hf.BarkModel.from_pretrained(tmp_path, attn_implementation="flex_attention")
    assert implementations(model) == {"flex_attention"}


# Gradients, losses, training


def gradients(model, inputs):
    model.zero_grad()
    model(**inputs).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


OLD_NAME = pytest.mark.filterwarnings("ignore:.gradient_checkpointing:FutureWarning")  # its new name came in 5.2x


@OLD_NAME
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(stage, reentrant, said):
    model, inputs = tiny(stage).train(), batch_of(stage)
    wanted = gradients(model, inputs)
    runs = []
    model.layers[0].layernorm_1.register_forward_hook(lambda *_: runs.append(1))
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()  # what Trainer and peft call
    got = gradients(model, inputs)
    assert len(runs) == 2, "the block is run again in backward"
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert_close(got[name], gradient)
    assert said() == []


@OLD_NAME
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks_get_gradients_under_frozen_embeddings(stage, reentrant):
    """What adapters do; guards against `enable_input_require_grads` hooking a module that is never called."""
    model, inputs = tiny(stage).train(), batch_of(stage)
    model.requires_grad_(False)
    model.layers.requires_grad_(True)
    wanted = gradients(model, inputs)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    got = gradients(model, inputs)
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert_close(got[name], gradient)
    model.disable_input_require_grads()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@torch.no_grad()
def test_hidden_states_and_attentions(stage, kernel):
    """Guards against a last hidden state that is not the normed one, which probes and cloning would read, and against
    attention weights that see the future because another kernel's mask was skipped."""
    inputs = inputs_of(stage, rows=2, length=9)
    model = tiny(stage, kernel)
    out = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert [tuple(h.shape) for h in out.hidden_states] == [(2, 9, 16)] * 3
    assert [tuple(a.shape) for a in out.attentions] == [(2, 2, 9, 9)] * 2
    head = model.lm_heads[CODEBOOK - 1] if stage == "fine" else model.lm_head
    assert_close(head(out.hidden_states[-1]), out.logits)
    for weights in out.attentions:
        assert_close(weights.sum(-1), torch.ones(2, 2, 9))
        assert (weights.triu(1).abs().max() == 0) == (stage in CAUSAL)
    plain = model(**inputs)
    assert plain.hidden_states is None
    assert plain.attentions is None
    assert_close(plain.logits, out.logits)


@pytest.mark.parametrize("stage", STAGES)
@torch.no_grad()
def test_hidden_states_that_nobody_asked_for_are_freed(stage):
    """All layers' would be held at once, which is most of a long batch's memory."""
    model, first, alive = tiny(stage), [], []
    model.layers[0].register_forward_hook(lambda layer, inputs, output: first.append(weakref.ref(output[0])))
    model.layernorm_final.register_forward_pre_hook(lambda *_: alive.append(first[-1]() is not None))
    model(**inputs_of(stage))
    model(**inputs_of(stage), output_hidden_states=True)
    assert alive == [False, True]


@pytest.mark.parametrize("stage", STAGES)
@torch.no_grad()
def test_output_flags_work_as_config_fields_and_tuples_keep_the_order(stage):
    model, inputs = tiny(stage, "eager", output_hidden_states=True, output_attentions=True), batch_of(stage)
    out = model(**inputs)
    assert len(out.hidden_states) == 3
    assert len(out.attentions) == 2
    as_tuple = model(**inputs, return_dict=False)
    assert isinstance(as_tuple, tuple)
    for got, wanted in zip(as_tuple, out.to_tuple(), strict=True):
        torch.testing.assert_close(got, wanted)
    model.config.return_dict = False
    torch.testing.assert_close(model(**inputs)[0], out.loss)
    assert model(**inputs, output_hidden_states=False, output_attentions=False, return_dict=True).hidden_states is None


@pytest.mark.parametrize("stage", STAGES)
@torch.no_grad()
def test_losses_equal_cross_entropy(stage):
    """Guards against the shift that transformers gives unknown classes: right for causal stages, wrong for fine."""
    model, inputs = tiny(stage), batch_of(stage)
    inputs["labels"][0, 3:6] = -100
    inputs["labels"][1, -1] = -100
    logits, labels = model(**inputs).logits, inputs["labels"]
    if stage in CAUSAL:
        logits, labels = logits[:, :-1], labels[:, 1:]
    logits, labels = logits.flatten(0, 1), labels.flatten()
    assert_close(model(**inputs).loss, cross_entropy(logits, labels))
    summed = cross_entropy(logits, labels, reduction="sum")
    assert_close(model(**inputs, num_items_in_batch=torch.tensor(50)).loss, summed / 50)
    assert_close(model(**inputs, num_items_in_batch=50).loss, summed / 50)


@torch.no_grad()
def test_the_fine_loss_is_that_of_the_codebook_named():
    model, inputs = tiny("fine"), batch_of("fine")
    for codebook in range(1, 8):
        inputs["codebook_idx"] = codebook
        hidden = model(**inputs, output_hidden_states=True).hidden_states[-1]
        logits = hidden @ model.input_embeds_layers[codebook].weight.t()
        assert_close(model(**inputs).loss, cross_entropy(logits.flatten(0, 1), inputs["labels"].flatten()))


@pytest.mark.parametrize("stage", STAGES)
def test_a_batch_without_labels_to_learn_adds_nothing(stage):
    """All -100 on one device of several, with the count of the whole batch: a zero loss, no NaN gradients."""
    model, inputs = tiny(stage).train(), batch_of(stage)
    inputs["labels"][:] = -100
    grads = gradients(model, {**inputs, "num_items_in_batch": torch.tensor(7)})
    assert model(**inputs, num_items_in_batch=torch.tensor(7)).loss == 0
    assert grads
    assert all((gradient == 0).all() for gradient in grads.values())


@pytest.mark.parametrize("stage", STAGES)
def test_training_steps_lower_the_loss(stage):
    model, inputs = tiny(stage, dropout=0.1).train(), batch_of(stage)
    if stage == "semantic":
        inputs["history_ids"] = torch.randint(20, (2, 5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    if stage == "fine":
        assert_tied(model)


def test_dropout_acts_in_training_only():
    for stage in STAGES:
        model, inputs = tiny(stage, dropout=0.5), inputs_of(stage)
        assert torch.equal(model(**inputs).logits, model(**inputs).logits)
        model.train()
        assert not torch.equal(model(**inputs).logits, model(**inputs).logits)


@since_5_20
@OLD_NAME
@pytest.mark.parametrize("stage", STAGES)
def test_the_stock_trainer_trains_a_stage(stage, tmp_path):
    def collate(examples):
        batch = {name: torch.stack([e[name] for e in examples]) for name in ("input_ids", "labels")}
        return {**batch, "codebook_idx": CODEBOOK} if stage == "fine" else batch

    model = tiny(stage)
    before = copy.deepcopy(model.state_dict())
    batch = batch_of(stage, rows=8)
    data = [{name: batch[name][row] for name in ("input_ids", "labels")} for row in range(8)]
    arguments = TrainingArguments(
        output_dir=tmp_path,
        max_steps=2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        gradient_checkpointing=True,
        learning_rate=1e-3,
        logging_steps=1,
        eval_strategy="no",
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    trainer = Trainer(model, arguments, data_collator=collate, train_dataset=data, eval_dataset=data)
    result = trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert result.global_step == 2
    assert len(losses) == 2
    assert torch.isfinite(torch.tensor(losses)).all()
    assert any(not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    mean_loss = model.eval()(**batch).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(mean_loss, rel=1e-4)
    trainer.save_model(tmp_path / "saved")
    again = type(model).from_pretrained(tmp_path / "saved")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


# Ties, resizing, state dicts


def assert_tied(model):
    for i, head in enumerate(model.lm_heads):
        table = model.input_embeds_layers[i + 1]
        assert head.weight.data_ptr() == table.weight.data_ptr(), i
        assert head.weight is table.weight, i
        assert tuple(head.weight.shape) == (head.out_features, head.in_features), i
        assert table.num_embeddings == len(table.weight), i


def test_fine_heads_stay_tied_to_their_tables(tmp_path):
    """Guards against separate copies, which would drift apart in training."""
    model = tiny("fine")
    assert_tied(model)
    model.save_pretrained(tmp_path / "stage")
    assert not [name for name in load_file(tmp_path / "stage" / "model.safetensors") if "lm_heads" in name]
    assert_tied(BarkFineModel.from_pretrained(tmp_path / "stage"))
    model.resize_token_embeddings(33)
    assert_tied(model)
    assert_tied(copy.deepcopy(model))
    composite = tiny_composite()
    assert_tied(composite.fine_acoustics)
    composite.save_pretrained(tmp_path / "composite")
    assert_tied(bark_hf.BarkModel.from_pretrained(tmp_path / "composite").fine_acoustics)
    assert_tied(bark_hf.BarkModel.from_pretrained(tmp_path / "composite", dtype=torch.bfloat16).fine_acoustics)
    assert_tied(BarkFineModel.from_pretrained(tmp_path / "composite"))


def test_fine_heads_can_be_untied(tmp_path):
    model = tiny("fine", tie_word_embeddings=False)
    inputs = inputs_of("fine")
    assert model.lm_heads[0].weight is not model.input_embeds_layers[1].weight
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        assert_close(BarkFineModel.from_pretrained(tmp_path)(**inputs).logits, model(**inputs).logits)


@torch.no_grad()
def test_resizing_the_semantic_stage_changes_its_input_only(tmp_path):
    model, inputs = tiny("semantic"), inputs_of("semantic")
    wanted = model(**inputs).logits
    model.resize_token_embeddings(70)
    assert model.input_embeds_layer.weight.shape[0] == model.config.input_vocab_size == 70
    assert model.lm_head.weight.shape[0] == model.config.output_vocab_size == 25
    assert_close(model(**inputs).logits, wanted)
    model.save_pretrained(tmp_path)
    assert_close(BarkSemanticModel.from_pretrained(tmp_path)(**inputs).logits, wanted)


@torch.no_grad()
def test_resizing_the_coarse_stage_changes_both_ends(tmp_path):
    model, inputs = tiny("coarse"), inputs_of("coarse")
    wanted = model(**inputs).logits
    model.resize_token_embeddings(48)
    assert model.input_embeds_layer.weight.shape[0] == model.config.input_vocab_size == 48
    assert model.lm_head.weight.shape[0] == model.lm_head.out_features == model.config.output_vocab_size == 48
    assert_close(model(**inputs).logits[..., :40], wanted)
    assert model(input_ids=inputs["input_ids"], labels=torch.full((2, 12), 47)).loss.isfinite()
    model.save_pretrained(tmp_path)
    assert_close(BarkCoarseModel.from_pretrained(tmp_path)(**inputs).logits[..., :40], wanted)


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_resizing_the_fine_stage_changes_all_tables_and_tied_heads(tied, tmp_path):
    model, inputs = tiny("fine", tie_word_embeddings=tied), inputs_of("fine")
    wanted = model(**inputs).logits
    model.resize_token_embeddings(32)
    outputs = 32 if tied else 20
    assert {len(table.weight) for table in model.input_embeds_layers} == {32} == {model.config.input_vocab_size}
    assert {len(head.weight) for head in model.lm_heads} == {outputs} == {model.config.output_vocab_size}
    assert_close(model(**inputs).logits[..., :20], wanted)
    model.save_pretrained(tmp_path)
    assert_close(BarkFineModel.from_pretrained(tmp_path)(**inputs).logits[..., :20], wanted)
    model.resize_token_embeddings(20)
    assert_close(model(**inputs).logits, wanted)


@torch.no_grad()
def test_resizing_to_a_multiple_and_by_nothing():
    for stage in STAGES:
        model = tiny(stage)
        table = model.resize_token_embeddings()
        assert table is model.get_input_embeddings()
        model.resize_token_embeddings(pad_to_multiple_of=64)
        assert model.config.input_vocab_size == 64, stage


def test_a_stage_inside_a_composite_is_resized_and_saved_with_it(tmp_path):
    model = tiny_composite()
    with pytest.raises(TypeError, match="own vocabulary"):
        model.resize_token_embeddings(100)
    model.coarse_acoustics.resize_token_embeddings(50)
    model.fine_acoustics.resize_token_embeddings(30)
    model.save_pretrained(tmp_path)
    again, info = bark_hf.BarkModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert again.config.coarse_acoustics_config.output_vocab_size == 50
    assert len(again.fine_acoustics.lm_heads[0].weight) == 30


def test_state_dicts_hold_no_mask_buffers():
    """Guards against the megabyte per layer that masks cost in a checkpoint."""
    for stage in STAGES:
        assert not list(tiny(stage).buffers())
    assert not [name for name in tiny_composite().state_dict() if name.endswith(".attn.bias")]


@pytest.mark.parametrize("bias", [True, False])
def test_bias_is_where_the_released_models_have_it(bias):
    for stage in STAGES:
        names = [name for name in tiny(stage, bias=bias).state_dict() if name.endswith(".bias")]
        linears = [name for name in names if "layernorm" not in name]
        norms = [name for name in names if "layernorm" in name]
        assert len(linears) == (8 if bias else 0)
        assert len(norms) == (5 if bias or stage == "fine" else 0)


# Loading


@pytest.mark.parametrize("stage", STAGES)
@torch.no_grad()
def test_one_stage_leaves_a_composite_and_comes_back(stage, tmp_path, said):
    """Guards against warnings about the other stages' weights, and against weights that are silently not loaded."""
    model_class, inputs = STAGES[stage][0], inputs_of(stage)
    composite = tiny_composite()
    wanted = getattr(composite, NAMES[stage])(**inputs).logits
    composite.save_pretrained(tmp_path / "composite")
    alone, info = model_class.from_pretrained(tmp_path / "composite", output_loading_info=True)
    assert not any(info.values())
    assert_close(alone(**inputs).logits, wanted)
    alone.save_pretrained(tmp_path / "alone")
    again, info = model_class.from_pretrained(tmp_path / "alone", output_loading_info=True)
    assert not any(info.values())
    assert_close(again(**inputs).logits, wanted)
    other = tiny_composite()
    assert (getattr(other, NAMES[stage])(**inputs).logits - wanted).abs().max() > 1e-3
    getattr(other, NAMES[stage]).load_state_dict(again.state_dict())
    other.save_pretrained(tmp_path / "back")
    back, info = bark_hf.BarkModel.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info.values())
    assert_close(getattr(back, NAMES[stage])(**inputs).logits, wanted)
    assert said() == []


def rewrite(folder, **changes):
    """Adds tensors to a saved model's file, `__` for `.` in their names, or drops those given as None."""
    path = folder / "model.safetensors"
    tensors = {**load_file(path), **{name.replace("__", "."): tensor for name, tensor in changes.items()}}
    save_file({k: v.clone() for k, v in tensors.items() if v is not None}, path, metadata={"format": "pt"})


def test_a_wrong_or_missing_key_is_reported(tmp_path, said):
    """Guards against stages' ignore lists that swallow each other's keys in the composite."""
    tiny_composite().save_pretrained(tmp_path)
    wrong = {
        "semantic__layers__0__attn__nonsense",
        "coarse_acoustics__nonsense",
        "fine_acoustics__nonsense",
        "codec_model__nonsense",
        "nonsense",
    }
    masks = {"semantic__layers__0__attn__bias", "coarse_acoustics__layers__1__attn__bias"}
    rewrite(
        tmp_path,
        **dict.fromkeys(sorted(wrong | masks), torch.zeros(1)),
        fine_acoustics__position_embeds_layer__weight=None,
    )
    _, info = bark_hf.BarkModel.from_pretrained(tmp_path, output_loading_info=True)
    assert info["unexpected_keys"] == {name.replace("__", ".") for name in wrong}
    assert info["missing_keys"] == {"fine_acoustics.position_embeds_layer.weight"}
    assert "nonsense" in "\n".join(said())
    _, info = BarkCoarseModel.from_pretrained(tmp_path, output_loading_info=True)
    assert any("nonsense" in name for name in info["unexpected_keys"])
    assert not any(name.startswith(("semantic.", "fine_")) for name in info["unexpected_keys"])
    _, info = BarkFineModel.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == {"position_embeds_layer.weight"}


def test_old_mask_buffers_in_files_are_ignored_silently(tmp_path, said):
    tiny_composite().save_pretrained(tmp_path / "composite")
    mask = torch.ones(1, 1, 48, 48, dtype=torch.bool).tril()
    names = [f"{stage}__layers__{i}__attn__bias" for stage in ("semantic", "coarse_acoustics") for i in range(2)]
    rewrite(tmp_path / "composite", **dict.fromkeys(names, mask))
    _, info = bark_hf.BarkModel.from_pretrained(tmp_path / "composite", output_loading_info=True)
    assert not any(info.values())
    _, info = BarkSemanticModel.from_pretrained(tmp_path / "composite", output_loading_info=True)
    assert not any(info.values())
    tiny("coarse").save_pretrained(tmp_path / "stage")
    rewrite(tmp_path / "stage", layers__0__attn__bias=mask)
    _, info = BarkCoarseModel.from_pretrained(tmp_path / "stage", output_loading_info=True)
    assert not any(info.values())
    assert said() == []


# Precision


def assert_precision(model, dtype, codec):
    for stage in ("semantic", "coarse_acoustics", "fine_acoustics"):
        assert {p.dtype for p in getattr(model, stage).parameters()} == {dtype}, stage
    state = model.codec_model.state_dict()
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float32}
    for name, tensor in codec.items():
        assert torch.equal(state[name], tensor), f"{name} was rounded"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_leaves_the_codec_in_float32(dtype, tmp_path):
    """Guards against audio noise: a codec that was rounded, even if it is float32 again."""
    model = tiny_composite()
    codec = copy.deepcopy(model.codec_model.state_dict())
    model.save_pretrained(tmp_path / "full")
    loaded = bark_hf.BarkModel.from_pretrained(tmp_path / "full", dtype=dtype)
    assert_precision(loaded, dtype, codec)
    assert_precision(copy.deepcopy(model).to(dtype), dtype, codec)
    assert_precision(copy.deepcopy(model).half() if dtype == torch.float16 else model.bfloat16(), dtype, codec)
    loaded.save_pretrained(tmp_path / "half")
    assert_precision(bark_hf.BarkModel.from_pretrained(tmp_path / "half", dtype="auto"), dtype, codec)
    assert_precision(bark_hf.BarkModel.from_pretrained(tmp_path / "half"), dtype, codec)
    assert_precision(bark_hf.BarkModel.from_pretrained(tmp_path / "half", dtype=torch.float32), torch.float32, codec)
    assert {p.dtype for p in BarkSemanticModel.from_pretrained(tmp_path / "half", dtype=dtype).parameters()} == {dtype}
    waves = loaded.codec_model.decode_all([torch.randint(16, (8, 5))])
    assert waves[0].dtype == torch.float32


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@torch.no_grad()
def test_bfloat16_is_close_to_float32(stage, kernel):
    model, inputs = tiny(stage, kernel), inputs_of(stage)
    wanted = model(**inputs).logits
    got = model.to(torch.bfloat16)(**inputs).logits
    assert got.dtype == torch.bfloat16
    assert (got.float() - wanted).abs().max() <= 0.05 * wanted.abs().max()


# Errors


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
@torch.no_grad()
def test_a_cache_is_taken_under_both_of_its_names(name):
    """Guards against a cache that is swallowed in silence: transformers 5.24 renamed the argument."""
    model = tiny("semantic")
    ids = torch.randint(40, (2, 16))
    wanted = model(ids, use_cache=False).logits
    cache = cache_of(model(ids[:, :-1], use_cache=True))
    assert_close(model(ids[:, -1:], **{name: cache}).logits, wanted[:, -1:])


def test_a_cache_under_two_names_is_refused():
    model = tiny("coarse")
    cache = DynamicCache(config=model.config)
    with pytest.raises(ValueError, match="two names of one argument"):
        model(torch.randint(40, (1, 4)), cache=cache, past_key_values=cache)


@pytest.mark.parametrize("stage", STAGES)
def test_forward_refuses_what_it_does_not_know(stage):
    """Guards against arguments that are swallowed in silence, such as a misspelled one."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'atention_mask'"):
        tiny(stage)(**inputs_of(stage, length=4), atention_mask=None)


@torch.no_grad()
def test_the_fine_stage_predicts_its_first_codebook_by_default():
    model = tiny("fine")
    inputs = inputs_of("fine", length=6)
    inputs.pop("codebook_idx")
    wanted = model(codebook_idx=model.config.n_codes_given, **inputs).logits
    assert_close(model(**inputs).logits, wanted)
    with pytest.raises(ValueError, match="by name"):
        model(inputs["input_ids"])


def test_positions_beyond_the_block_size_are_refused():
    """Guards against an index error deep inside an embedding."""
    for stage in STAGES:
        with pytest.raises(ValueError, match="block_size"):
            tiny(stage)(**inputs_of(stage, length=49))
        tiny(stage)(**inputs_of(stage, length=48))
    model = tiny("coarse")
    with torch.no_grad():
        cache = cache_of(model(torch.randint(40, (1, 45)), use_cache=True))
    with pytest.raises(ValueError, match="block_size"):
        model(torch.randint(40, (1, 4)), cache=cache)


def test_history_longer_than_the_input_is_refused():
    with pytest.raises(ValueError, match=r"`history_ids` covers 6 positions, the input only 5"):
        tiny("semantic")(torch.randint(60, (1, 5)), history_ids=torch.randint(20, (1, 6)))


@pytest.mark.parametrize("codebook", [-1, 0, 8])
def test_a_codebook_out_of_range_is_refused(codebook):
    with pytest.raises(ValueError, match=r"`codebook_idx` must be 1 to 7"):
        tiny("fine")(codebook, torch.zeros(1, 5, 8, dtype=torch.long))


def test_ids_and_embeddings_together_or_neither_are_refused():
    for stage in STAGES:
        model, inputs = tiny(stage), inputs_of(stage)
        with pytest.raises(ValueError, match="exactly one"):
            model(**inputs, inputs_embeds=torch.zeros(2, 12, 16))
        del inputs["input_ids"]
        with pytest.raises(ValueError, match="exactly one"):
            model(**inputs)


def test_the_cascade_has_no_forward_and_says_what_to_do():
    with pytest.raises(TypeError, match=r"generate.*model\.semantic"):
        tiny_composite()(torch.zeros(1, 5, dtype=torch.long))


# Copies


@torch.no_grad()
def test_models_can_be_copied_and_pickled():
    for stage in STAGES:
        model, inputs = tiny(stage), inputs_of(stage)
        wanted = model(**inputs).logits
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        assert torch.equal(torch.load(file, weights_only=False)(**inputs).logits, wanted)
        duplicate = copy.deepcopy(model)
        model.position_embeds_layer.weight.zero_()
        assert torch.equal(duplicate(**inputs).logits, wanted)


def test_the_composite_can_be_copied(small):
    """Whole-module pickles of a composite are refused by torch: EnCodec's weight norms are parametrizations."""
    codes = torch.randint(64, (8, 6))
    wanted = small.model.decode_audio([codes])[0]
    other = copy.deepcopy(small.model)
    assert torch.equal(other.decode_audio([codes])[0], wanted)
    assert other.generation_config.to_dict() == small.model.generation_config.to_dict()
    assert other.semantic.lm_head.weight.data_ptr() != small.model.semantic.lm_head.weight.data_ptr()
    assert_tied(other.fine_acoustics)
    file = io.BytesIO()
    torch.save(small.model.state_dict(), file)
    file.seek(0)
    assert other.load_state_dict(torch.load(file)) == ([], [])
