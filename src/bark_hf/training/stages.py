"""A stage of a composite as something to train: its network, collator, metrics and LoRA layers, by name.

Knows nothing of data, of the Trainer or of files other than the composite's folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..files.atomic import whole_folder
from ..generation.options import CoarseOptions
from ..modeling_bark import BarkModel, BarkStage
from ..vocabulary import Vocabulary
from .collators import CoarseCollator, FineCollator, SemanticCollator
from .metrics import coarse_codebook, fine_codebook, token_accuracy

STAGES = ("semantic", "coarse", "fine")
ATTRIBUTES = {"semantic": "semantic", "coarse": "coarse_acoustics", "fine": "fine_acoustics"}
LORA_LAYERS = ["att_proj", "out_proj", "in_proj"]  # attention and MLP of every block; `out_proj` names one of each
LABELS = {"semantic": ["labels"], "coarse": ["labels"], "fine": ["labels", "codebook_idx"]}


@dataclass(frozen=True)
class Stage:
    """One of "semantic", "coarse", "fine" of a `BarkModel`."""

    name: str
    bark: BarkModel

    def __post_init__(self):
        if self.name not in STAGES:
            raise ValueError(f"Unknown stage {self.name!r}. Pass one of: {', '.join(STAGES)}.")

    @property
    def network(self) -> BarkStage:
        return getattr(self.bark, ATTRIBUTES[self.name])

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.of(self.bark.generation_config)

    @property
    def is_causal(self) -> bool:
        return self.name != "fine"

    def collator(self, full_length: bool = False) -> Callable:
        """full_length: pads every batch to the longest there can be, instead of to its longest example."""
        v = self.vocabulary
        block = self.network.config.block_size
        if self.name == "semantic":
            return SemanticCollator(v, block, block if full_length else None)
        if self.name == "fine":
            return FineCollator(v)
        file = self.bark.generation_config.coarse_acoustics_config
        options = CoarseOptions(max_coarse_history=file.max_coarse_history, sliding_window_len=file.sliding_window_len)
        width = v.max_coarse_input_length + 1 + options.max_coarse_history + options.sliding_window_len
        return CoarseCollator(v, options, width if full_length else None)

    def metrics(self) -> Callable:
        """A Trainer's `compute_metrics`; feed it what `metrics.ranks` gives."""
        if self.name == "semantic":
            return token_accuracy(None)
        return token_accuracy(fine_codebook if self.name == "fine" else coarse_codebook(self.vocabulary))

    def replace(self, network: BarkStage) -> None:
        """Puts a trained network into the composite."""
        setattr(self.bark, ATTRIBUTES[self.name], network)
        self.bark.sessions.clear()


def add_lora(network: BarkStage, rank: int = 16, alpha: int | None = None, dropout: float = 0.0):
    """A `PeftModel` that trains low-rank additions to all linear layers of the blocks and nothing else.

    `merge_and_unload()` of the result gives the network with the additions in its weights. (Hu et al., 2021)"""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, lora_dropout=dropout, target_modules=LORA_LAYERS)
    return get_peft_model(network, config)


def save_composite(bark: BarkModel, processor, folder: Path, files: Mapping[str, bytes] | None = None) -> Path:
    """Writes model, processor and `files` (path inside -> content) into one folder, which is whole or not there."""
    bark.config.codec_config.name_or_path = ""  # of a codec that was trained alone, a folder of this machine
    with whole_folder(folder, replace=True) as work:
        bark.save_pretrained(work)
        processor.save_pretrained(work)
        for name, content in (files or {}).items():
            (work / name).parent.mkdir(exist_ok=True)
            (work / name).write_bytes(content)
    return Path(folder)
