"""A semantic tokenizer that learns to hear: ids that are known, of recordings that sound like them."""

import numpy as np
import pytest
import soundfile
import torch

from bark_hf import BarkSemanticTokenizerConfig
from bark_hf.cloning import BarkSemanticTokenizer
from bark_hf.training.quantizer import QuantizerCollator, QuantizerTrainingArguments, train_quantizer

RATE, HOP = 16_000, 320
PITCHES = (300, 900, 2500)


def tones(seed: int, frames: int = 60) -> tuple[np.ndarray, list[int]]:
    """Three sounds, ten frames each, in an order of their own; the id is the sound's number."""
    random = np.random.default_rng(seed)
    ids = random.integers(len(PITCHES), size=frames // 10).repeat(10)
    phase = np.cumsum(2 * np.pi * np.array(PITCHES)[ids].repeat(HOP) / RATE)
    wave = 0.3 * np.sin(phase) + 0.01 * random.standard_normal(len(phase))
    return wave.astype(np.float32), ids.tolist()


def rows(count: int = 24) -> list[dict]:
    return [dict(zip(("audio", "semantic_ids"), tones(seed), strict=True)) for seed in range(count)]


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    return BarkSemanticTokenizer(
        BarkSemanticTokenizerConfig(
            features="mfcc",
            quantizer="lstm",
            vocab_size=4,
            hidden_size=16,
            num_layers=1,
            n_deltas=0,
            smoothing_width=1,
        )
    )


def arguments(folder, **changes) -> QuantizerTrainingArguments:
    options = {"max_steps": 40, "save_steps": 20, "per_device_train_batch_size": 8, "learning_rate": 0.02}
    quiet = {"report_to": "none", "disable_tqdm": True}
    return QuantizerTrainingArguments(str(folder), **{**options, **quiet, **changes})


def test_it_learns_to_hear(tokenizer, tmp_path):
    folder, metrics = train_quantizer(tokenizer, rows(), arguments(tmp_path / "q"))
    assert metrics["eval_accuracy"] > 0.95
    wave, ids = tones(99)
    heard = BarkSemanticTokenizer.from_pretrained(folder).encode([wave])[0]
    assert (heard == torch.tensor(ids)).float().mean() > 0.95
    assert tokenizer.mfcc.mean.abs().max() > 0  # standardized by what it heard


def test_a_run_that_was_killed_goes_on(tokenizer, tmp_path):
    """Mean and deviation too, which no later step would learn."""
    train_quantizer(tokenizer, rows(), arguments(tmp_path / "q", max_steps=20))
    mean = tokenizer.mfcc.mean.clone()
    again = BarkSemanticTokenizer(tokenizer.config)
    train_quantizer(again, rows(), arguments(tmp_path / "q", max_steps=25))
    assert (tmp_path / "q" / "checkpoint-25" / "trainer_state.json").is_file()
    assert torch.equal(again.mfcc.mean, mean)


def test_recordings_come_from_files_of_any_rate(tokenizer, tmp_path):
    wave, ids = tones(1)
    soundfile.write(tmp_path / "a.wav", np.stack([wave.repeat(2)] * 2, 1), 2 * RATE)
    batch = QuantizerCollator(tokenizer)([{"audio": str(tmp_path / "a.wav"), "semantic_ids": ids}, rows(1)[0]])
    assert batch["labels"].shape == (2, 60)
    assert batch["lengths"].tolist() == [len(wave)] * 2
    assert torch.isfinite(tokenizer(**batch).loss)


def test_a_row_may_end_a_frame_early_but_not_be_another_recordings(tokenizer):
    wave, ids = tones(1)
    collate = QuantizerCollator(tokenizer)
    assert collate([{"audio": wave, "semantic_ids": ids[:-2]}])["labels"][0, -3:].tolist() == [ids[-3], -100, -100]
    assert collate([{"audio": wave, "semantic_ids": [*ids, 0, 0]}])["labels"].shape == (1, 60)
    with pytest.raises(ValueError, match="60 frames and 30 semantic ids"):
        collate([{"audio": wave, "semantic_ids": ids[:30]}])


def test_what_cannot_be_trained_is_said(tokenizer, tmp_path):
    for outside in (9, -1):
        wrong = [{**row, "semantic_ids": [outside] * 60} for row in rows(4)]
        with pytest.raises(ValueError, match=f"a semantic id {outside}; `vocab_size` 4 allows 0 to 3"):
            train_quantizer(tokenizer, wrong, arguments(tmp_path))
    with pytest.raises(ValueError, match="Of 1 recordings 1"):
        train_quantizer(tokenizer, rows(1), arguments(tmp_path))
    with pytest.raises(ValueError, match="above 0 and below 1, got 1"):
        arguments(tmp_path, eval_share=1.0)


def test_hubert_stays_what_it_is(tmp_path):
    from transformers import HubertConfig

    small = HubertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=[8] * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    tokenizer = BarkSemanticTokenizer(
        BarkSemanticTokenizerConfig(hubert_config=small, feature_layer=1, vocab_size=4, hidden_size=8, num_layers=1)
    )
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    train_quantizer(tokenizer, rows(6), arguments(tmp_path / "q", max_steps=2, save_steps=2))
    changed = {name for name, value in tokenizer.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("quantizer.") for name in changed)
