"""`generate` of a stage alone: the cascade's engine with a stage's config, transformers' own loop without one."""

import copy

import pytest
import torch
from transformers import GenerationConfig, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

import bark_hf
from bark_hf import BarkCoarseModel, BarkSemanticGenerationConfig, BarkSemanticModel
from bark_hf.modeling_bark import BarkCausalModel

TEXTS = ["hello world", "the quick brown fox"]


@pytest.fixture
def inputs(small):
    voice = next(iter(small.processor.voices))
    return small.processor(TEXTS, voice_preset=[voice, None])


@pytest.fixture
def whole(small, inputs):
    return small.model.generate(**inputs, seed=3, max_new_tokens=20, return_dict_in_generate=True)


def chain(model, inputs, **options):
    """The stages one after another, as scripts for transformers' Bark call them."""
    config = model.generation_config
    voices = inputs.get("history_prompt")
    semantic = model.semantic.generate(
        inputs["input_ids"],
        semantic_generation_config=config.semantic_config,
        history_prompt=voices,
        attention_mask=inputs["attention_mask"],
        max_new_tokens=20,
        **options,
    )
    coarse, lengths = model.coarse_acoustics.generate(
        semantic,
        semantic_generation_config=config.semantic_config,
        coarse_generation_config=config.coarse_acoustics_config,
        codebook_size=config.codebook_size,
        history_prompt=voices,
        return_output_lengths=True,
        **options,
    )
    fine = model.fine_acoustics.generate(
        coarse,
        semantic_generation_config=config.semantic_config,
        coarse_generation_config=config.coarse_acoustics_config,
        fine_generation_config=config.fine_acoustics_config,
        codebook_size=config.codebook_size,
        history_prompt=voices,
        **options,
    )
    return semantic, coarse, lengths, fine


def test_the_stages_alone_give_what_generate_gives(small, inputs, whole):
    """Guards against rows that read their neighbors' pads, which transformers' Bark does."""
    model = small.model
    semantic, _, lengths, fine = chain(model, inputs, seed=3)
    for row in range(2):
        ids = whole.semantic_tokens[row]
        assert semantic[row, : len(ids)].tolist() == ids.tolist()
        assert (semantic[row, len(ids) :] == model.generation_config.semantic_config.eos_token_id).all()
        codes = whole.fine_codes[row]
        assert lengths[row] == codes.shape[1] * len(whole.coarse_codes[row])
        assert torch.equal(fine[row, :, : codes.shape[1]], codes)
        assert (fine[row, :, codes.shape[1] :] == model.generation_config.codebook_size).all()
    assert torch.equal(model.codec_decode(fine), whole.audio)
    waves = model.codec_decode(fine, lengths // len(whole.coarse_codes[0]))
    assert [len(wave) for wave in waves] == whole.audio_lengths.tolist()
    assert all(torch.equal(wave, audio[: len(wave)]) for wave, audio in zip(waves, whole.audio, strict=True))


def test_a_stage_takes_the_original_order_of_positional_arguments(small, inputs):
    config, ids = small.model.generation_config, inputs["input_ids"]
    by_name = small.model.semantic.generate(ids, semantic_generation_config=config.semantic_config, do_sample=False)
    assert torch.equal(small.model.semantic.generate(ids, config.semantic_config, do_sample=False), by_name)
    configs = config.semantic_config, config.coarse_acoustics_config
    size = config.codebook_size
    coarse = small.model.coarse_acoustics.generate(by_name, *configs, size, do_sample=False)
    fine = small.model.fine_acoustics.generate(coarse, *configs, config.fine_acoustics_config, size, temperature=None)
    assert fine.shape[:2] == (2, 8)


def test_a_stage_that_is_moved_drops_its_caches(small, inputs):
    """Guards against caches that stay where the weights were."""
    stage = copy.deepcopy(small.model.semantic)
    stage.generate(inputs["input_ids"], small.model.generation_config.semantic_config, max_new_tokens=2)
    assert stage.sessions._free
    stage.to(torch.bfloat16)
    assert not stage.sessions._free


def test_a_stage_config_is_copied_by_the_idiom_of_scripts(small):
    """`BarkSemanticGenerationConfig(**model.generation_config.semantic_config)`, where transformers has a dict."""
    config = small.model.generation_config.semantic_config
    assert BarkSemanticGenerationConfig(**config).to_dict() == config.to_dict()


def test_what_is_missing_is_named(small, inputs):
    model, config = small.model, small.model.generation_config
    ids = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"Pass `coarse_generation_config`, such as .*coarse_acoustics_config"):
        model.coarse_acoustics.generate(ids, semantic_generation_config=config.semantic_config)
    with pytest.raises(ValueError, match="Pass `fine_generation_config`"):
        model.fine_acoustics.generate(ids)
    with pytest.raises(ValueError, match="Pass `semantic_generation_config`"):
        model.fine_acoustics.generate(ids, fine_generation_config=config.fine_acoustics_config)
    with pytest.raises(ValueError, match="knows no voices"):
        model.semantic.generate(ids, history_prompt=next(iter(small.processor.voices.values())))
    sections = config.semantic_config, config.coarse_acoustics_config, config.fine_acoustics_config
    odd = torch.full((1, 3), config.semantic_config.semantic_vocab_size)
    with pytest.raises(ValueError, match="no whole frames"):
        model.fine_acoustics.generate(odd, *sections, config.codebook_size)


@pytest.mark.parametrize("stage", ["semantic", "coarse_acoustics"])
@torch.no_grad()
def test_without_a_config_it_is_the_loop_of_transformers(small, stage):
    model = copy.deepcopy(getattr(small.model, stage))
    ids = torch.randint(10, (2, 7))
    wanted = ids
    for _ in range(6):
        wanted = torch.cat([wanted, model(wanted, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    greedy = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(ids, **greedy), wanted)
    assert torch.equal(model.generate(input_ids=ids, generation_config=GenerationConfig(**greedy)), wanted)
    assert torch.equal(model.generate(inputs=ids, cache_implementation="static", **greedy), wanted)
    beams = model.generate(ids, num_beams=3, num_return_sequences=2, **greedy)
    assert beams.shape == (4, 13)
    assistant = copy.deepcopy(model)
    assert torch.equal(model.generate(ids[:1], assistant_model=assistant, **greedy), wanted[:1])


def test_the_loop_of_transformers_takes_its_streamers_and_criteria(small):
    class Kept(BaseStreamer):
        def __init__(self):
            self.ids, self.ended = [], False

        def put(self, value):
            self.ids += value.flatten().tolist()

        def end(self):
            self.ended = True

    class AfterNine(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((len(input_ids),), input_ids.shape[1] >= 9)

    streamer = Kept()
    ids = torch.randint(10, (1, 7))
    made = small.model.semantic.generate(ids, max_new_tokens=20, stopping_criteria=[AfterNine()], streamer=streamer)
    assert made.shape == (1, 9)
    assert streamer.ended
    assert streamer.ids == made[0].tolist()


@torch.no_grad()
def test_a_history_belongs_to_the_prompt_alone(small):
    """Guards against a history that is added again in every cached step."""
    model = small.model.semantic
    ids, history = torch.randint(100, (1, 12)), torch.randint(100, (1, 5))
    wanted = ids
    for _ in range(5):
        logits = model(wanted, history_ids=history, use_cache=False).logits
        wanted = torch.cat([wanted, logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(model.generate(ids, history_ids=history, max_new_tokens=5, do_sample=False), wanted)


def test_a_stage_out_of_a_whole_checkpoint_has_a_config_of_its_own(small, tmp_path):
    """Guards against a stage that carries, and saves, the sections of the cascade's generation config."""
    stage = BarkCoarseModel.from_pretrained(small.checkpoint)
    assert "semantic_config" not in stage.generation_config.to_dict()
    stage.generation_config.max_new_tokens = 11
    stage.save_pretrained(tmp_path)
    assert BarkCoarseModel.from_pretrained(tmp_path).generation_config.max_new_tokens == 11


def test_the_task_type_of_most_lora_recipes_works(small):
    peft = pytest.importorskip("peft")
    stage = BarkSemanticModel.from_pretrained(small.checkpoint)
    ids = torch.randint(10, (2, 7))
    wanted = stage.generate(ids, max_new_tokens=4, do_sample=False)
    adapted = peft.get_peft_model(stage, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["att_proj"]))
    assert torch.equal(adapted.generate(input_ids=ids, max_new_tokens=4, do_sample=False), wanted)  # LoRA starts at 0


def test_a_whole_bark_and_its_causal_stages_say_that_they_generate(small):
    assert bark_hf.BarkModel.can_generate()
    assert BarkSemanticModel.can_generate()
    assert BarkCoarseModel.can_generate()
    assert not bark_hf.BarkFineModel.can_generate()


@torch.no_grad()
def test_a_generation_starts_from_embeddings(small):
    """Guards against a signature that hides `inputs_embeds`, which transformers then refuses."""
    stage = small.model.semantic
    ids = torch.randint(100, (2, 6))
    wanted = stage.generate(ids, max_new_tokens=4, do_sample=False)[:, 6:]
    embeds = stage.get_input_embeddings()(ids)
    assert torch.equal(stage.generate(inputs_embeds=embeds, max_new_tokens=4, do_sample=False), wanted)


def test_a_causal_model_without_a_stage_is_loaded_again(tmp_path):
    """Guards against a base class that reads its files as a whole Bark's."""
    config = bark_hf.BarkCoarseConfig(
        hidden_size=8, num_layers=1, num_heads=1, input_vocab_size=20, output_vocab_size=20
    )
    model = BarkCausalModel(config)
    model.save_pretrained(tmp_path)
    again = BarkCausalModel.from_pretrained(tmp_path)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


@torch.no_grad()
def test_a_cached_step_can_be_exported(small):
    """`torch.export` of the step that a generation repeats, through transformers' own wrapper."""
    executorch = pytest.importorskip("transformers.integrations.executorch")
    stage = copy.deepcopy(small.model.coarse_acoustics)
    ids = torch.randint(100, (1, 4))
    wanted = stage(ids, use_cache=False).logits[0]
    stage.generation_config = GenerationConfig(
        use_cache=True, cache_implementation="static", max_length=8, cache_config={"batch_size": 1, "max_cache_len": 8}
    )
    step = executorch.convert_and_export_with_cache(stage).module()
    for position in range(4):
        logits = step(input_ids=ids[:, position : position + 1], cache_position=torch.tensor([position]))
        torch.testing.assert_close(logits[0, -1], wanted[position], rtol=1e-4, atol=1e-4)
