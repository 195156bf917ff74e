"""What is measured: random checkpoints in every engine's layout, the numbers of tokens, the random inputs.

Knows nothing of engines or clocks."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..configuration_bark import BarkConfig
from ..generation_bark import generation_config_of
from ..modeling_bark import BarkModel
from ..vocabulary import Vocabulary

ORIGINALS = {"semantic": "text.pt", "coarse_acoustics": "coarse.pt", "fine_acoustics": "fine.pt"}
_RENAMES = (  # our parameter name -> the original's
    (r"^input_embeds_layer\.", "transformer.wte."),
    (r"^input_embeds_layers\.", "transformer.wtes."),
    (r"^position_embeds_layer\.", "transformer.wpe."),
    (r"^layernorm_final\.", "transformer.ln_f."),
    (r"^layers\.", "transformer.h."),
    (r"\.layernorm_([12])\.", r".ln_\1."),
    (r"\.attn\.att_proj\.", ".attn.c_attn."),
    (r"\.attn\.out_proj\.", ".attn.c_proj."),
    (r"\.mlp\.in_proj\.", ".mlp.c_fc."),
    (r"\.mlp\.out_proj\.", ".mlp.c_proj."),
)
_TEXT_IDS, _WINDOW = 20, 60
VOICE_SECONDS = 6.0  # fills the coarse window's 630 ids of history


class Tokens(NamedTuple):
    """What one row makes: semantic ids, coarse ids, frames of codes, seconds of audio."""

    semantic: int
    coarse: int
    frames: int
    audio_s: float


def write_random_checkpoint(folder: Path, layers: int, heads: int, width: int, originals: bool) -> None:
    """Random float32 weights with Suno's vocabularies in transformers' layout; `originals` adds Suno's `.pt` files."""
    sizes = {"num_layers": layers, "num_heads": heads, "hidden_size": width, "bias": False}
    stages = dict.fromkeys(("semantic_config", "coarse_acoustics_config", "fine_acoustics_config"), sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BarkModel(BarkConfig(**stages))
    model.save_pretrained(folder)
    if originals:
        for stage, name in ORIGINALS.items():
            torch.save(_original(getattr(model, stage)), folder / name)


def _original(stage) -> dict[str, Any]:
    config = stage.config
    names = {"n_layer": "num_layers", "n_head": "num_heads", "n_embd": "hidden_size"}
    same = ["block_size", "bias", "input_vocab_size", "output_vocab_size"]
    if stage.is_causal is False:
        same += ["n_codes_total", "n_codes_given"]
    arguments = {name: getattr(config, ours) for name, ours in (names | {name: name for name in same}).items()}
    weights = {}
    for name, tensor in stage.state_dict().items():
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        weights[name] = tensor
    return {"model": weights, "model_args": arguments, "best_val_loss": torch.tensor(1.0)}


def vocabulary_of(source: str) -> Vocabulary:
    """The ids of a checkpoint, a folder or a hub id; Suno's where it has no generation config."""
    return Vocabulary.of(generation_config_of(source))


def tokens_for(seconds: float, vocabulary: Vocabulary) -> Tokens:
    """The token counts of an utterance that lasts `seconds`. Raises ValueError beyond one utterance's 768 ids."""
    semantic = vocabulary.max_semantic_tokens(seconds) or 0
    if not 1 <= semantic <= 768:
        raise ValueError(f"--seconds {seconds:g} is {semantic} semantic ids; one utterance has 1 to 768 (15.4 s).")
    coarse = vocabulary.coarse_length(semantic)
    frames = coarse // vocabulary.n_coarse_codebooks
    return Tokens(semantic, coarse, frames, frames / vocabulary.coarse_rate_hz)


class Inputs:
    """The same random ids for every engine: text, semantic ids, codes, and a voice that fills the coarse window."""

    def __init__(self, vocabulary: Vocabulary, tokens: Tokens):
        random = torch.Generator().manual_seed(1)

        def draw(high: int, *shape: int) -> Tensor:
            return torch.randint(high, shape, generator=random)

        v = vocabulary
        room = v.text_pad_token - v.text_encoding_offset
        self.text = 1 + draw(room - 1, _TEXT_IDS)
        self.semantic = draw(v.semantic_vocab_size, tokens.semantic)
        self.coarse = draw(v.codebook_size, v.n_coarse_codebooks, tokens.frames)
        self.fine = draw(v.codebook_size, v.n_fine_codebooks, tokens.frames)
        # semantic ids that become one frame, and those that become one window of 60 coarse ids
        self.one_frame = draw(v.semantic_vocab_size, next(n for n in range(1, 99) if v.coarse_length(n) > 0))
        self.one_window = draw(v.semantic_vocab_size, next(n for n in range(1, 999) if v.coarse_length(n) >= _WINDOW))
        frames = round(VOICE_SECONDS * v.coarse_rate_hz)
        self.voice = {
            "semantic_prompt": draw(v.semantic_vocab_size, round(VOICE_SECONDS * v.semantic_rate_hz)),
            "coarse_prompt": draw(v.codebook_size, v.n_coarse_codebooks, frames),
            "fine_prompt": draw(v.codebook_size, v.n_fine_codebooks, frames),
        }


def step_weights(source: str, vocabulary: Vocabulary) -> dict[str, int]:
    """How many weights one step of a causal stage must read at least: all blocks, and the legal ids' rows of the head.

    The same number for every engine, so that GB/s compare; an engine that reads the whole head moves more."""
    config = BarkConfig.from_pretrained(source)
    heads = {"semantic": vocabulary.semantic_vocab_size, "coarse": vocabulary.codebook_size}
    result = {}
    for stage, name in (("semantic", "semantic_config"), ("coarse", "coarse_acoustics_config")):
        sizes = getattr(config, name)
        result[stage] = 12 * sizes.num_layers * sizes.hidden_size**2 + heads[stage] * sizes.hidden_size
    return result


def describe(source: str) -> dict[str, Any]:
    """The three stages' sizes, for the record."""
    config = BarkConfig.from_pretrained(source)
    fields = ("num_layers", "num_heads", "hidden_size")
    stages = ("semantic_config", "coarse_acoustics_config", "fine_acoustics_config")
    described = {stage: {field: getattr(getattr(config, stage), field) for field in fields} for stage in stages}
    return json.loads(json.dumps(described))
