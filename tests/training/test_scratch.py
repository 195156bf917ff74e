"""A Bark of sizes, rates and windows of its own: made, saved, loaded, spoken with, given a voice of its own."""

import pytest
import torch
from transformers import EncodecConfig

import bark_hf
from bark_hf.codec import BarkCodec
from bark_hf.training.collators import IGNORED
from bark_hf.training.scratch import Size, Windows, new_bark
from bark_hf.training.stages import STAGES, Stage
from bark_hf.training.utterances import Utterances

SIZE = Size(layers=2, heads=2, width=32)
WINDOWS = Windows(
    text=48, semantic=120, coarse_semantic=72, coarse_history=120, coarse_step=20, fine=96, fine_history=32
)


@pytest.fixture(scope="module")
def codec():
    config = EncodecConfig(
        sampling_rate=16_000, upsampling_ratios=[8, 5, 4, 2], num_filters=4, hidden_size=16, codebook_size=32,
        target_bandwidths=[0.25 * count for count in range(1, 9)],
    )  # fmt: skip
    torch.manual_seed(0)
    return BarkCodec(config).eval()


@pytest.fixture(scope="module")
def model(codec):
    return new_bark(codec, 100, 50, 50.0, semantic=SIZE, coarse=SIZE, fine=SIZE, windows=WINDOWS)


def test_it_speaks_at_its_own_rates_after_saving_and_loading(model, codec, tmp_path):
    model.save_pretrained(tmp_path / "m")
    again = bark_hf.BarkModel.from_pretrained(tmp_path / "m")
    text = torch.tensor([[5, 99, 7]])
    options = {"seed": 3, "allow_early_stop": False, "return_dict_in_generate": True, "max_new_tokens": 90}
    wanted, out = (one.generate(text, **options) for one in (model, again))
    assert torch.equal(out.audio, wanted.audio)
    assert out.sampling_rate == 16_000
    assert out.audio.shape == (1, 90 * 320)  # 50 ids and 50 frames a second, 320 samples each
    assert out.semantic_tokens[0].max() < 50
    assert (out.fine_codes[0].shape, int(out.fine_codes[0].max()) < 32) == ((8, 90), True)
    voice = out.voice()
    assert (voice.rates, voice.seconds) == ((50.0, 50.0), 1.8)
    voice.save(tmp_path / "me.npz")
    loaded = bark_hf.Voice.load(tmp_path / "me.npz")
    assert again.generate(text, history_prompt=loaded, seed=1).shape[1] > 0
    with torch.no_grad():
        assert torch.equal(codec.decode_all([out.fine_codes[0]])[0], out.audio[0])


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_trains_at_its_own_sizes(model, name):
    stage = Stage(name, model)
    random = torch.Generator().manual_seed(0)
    rows = [
        {
            "text_ids": torch.randint(0, 100, (20,), generator=random).tolist(),
            "semantic_ids": torch.randint(0, 50, (length,), generator=random).tolist(),
            "codes": torch.randint(0, 32, (8, length), generator=random).tolist(),
            "speaker": "a",
        }
        for length in (8, 70, 118)
    ]
    data = Utterances(rows, stage.vocabulary, history_share=1.0)
    batch = stage.collator(full_length=True)([data[i] for i in range(3)])
    assert batch["input_ids"].shape[1] <= stage.network.config.block_size
    assert (batch["labels"] != IGNORED).any(1).all()
    loss = stage.network(**batch).loss
    assert 0 < loss.item() < 10
    loss.backward()


def test_what_does_not_fit_is_said(codec):
    options = {"semantic": SIZE, "coarse": SIZE, "fine": SIZE}
    with pytest.raises(ValueError, match="the codec has 8"):
        new_bark(codec, 100, 50, 50.0, n_codebooks=9, **options)
    with pytest.raises(ValueError, match="must hold the 130 semantic ids"):
        new_bark(codec, 100, 50, 50.0, windows=Windows(coarse_semantic=64, coarse_history=200), **options)


def test_a_new_coarse_stage_looks_at_the_semantic_ids_of_its_moment(codec):
    """Whatever the ids are, and without training; a stage that is random throughout does not."""
    wide = Size(layers=1, heads=4, width=192)
    stage = new_bark(codec, 100, 50, 50.0, semantic=SIZE, coarse=wide, fine=SIZE, windows=WINDOWS).coarse_acoustics
    ids = torch.arange(30, 70)  # coarse ids of a window, two of each moment

    def near(stage) -> float:
        """The share of a head's attention to semantic ids that falls on those within five of the moment."""
        random = torch.Generator().manual_seed(1)
        codes = torch.randint(50, 114, (1, 120), generator=random)
        semantic = torch.randint(0, 50, (1, WINDOWS.coarse_semantic), generator=random)
        tokens = torch.cat([semantic, torch.tensor([[115]]), codes], 1)
        with torch.no_grad():
            weights = stage(input_ids=tokens, output_attentions=True).attentions[0][0, 0]
        seen = weights[WINDOWS.coarse_semantic + 1 + ids, : WINDOWS.coarse_semantic]
        away = (torch.arange(WINDOWS.coarse_semantic) - ids[:, None] / 2).abs()
        return (seen[away <= 5].sum() / seen.sum()).item()

    untrained = type(stage)(stage.config).eval()
    assert near(stage) > 0.5 > 0.25 > near(untrained)


@pytest.mark.parametrize("size", [Size(1, 3, 30), Size(1, 4, 8), Size(1, 4, 12), Size(1, 1, 8), Size(1, 2, 8)])
def test_sizes_without_room_for_waves_are_made_too(codec, size):
    made = new_bark(codec, 100, 50, 50.0, semantic=SIZE, coarse=size, fine=SIZE, windows=WINDOWS)
    assert all(weight.isfinite().all() for weight in made.coarse_acoustics.parameters())
