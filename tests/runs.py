"""What tests of training share: a tiny Bark that learns things by heart, made-up utterances, a short run over them."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

import bark_hf
from bark_hf.training.stages import ATTRIBUTES, save_composite
from bark_hf.vocabulary import Vocabulary


def tiny_bark(small) -> bark_hf.BarkModel:
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


def assert_close(a: dict, b: dict, tolerance: float = 0.0) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=tolerance)


def run_python(*command: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)


def prepared(tiny, small, folder: Path, count: int = 12) -> list[str]:
    """A checkpoint and a tokenized dataset in `folder`; the arguments of a short run over them."""
    save_composite(tiny, small.processor, folder / "start")
    rows = [
        {**row, "text": "hello", "seconds": 0.5, "source": "x.wav"}
        for row in table(Vocabulary.of(tiny.generation_config), count)
    ]
    Dataset.from_list(rows).save_to_disk(folder / "rows")
    options = {"model": folder / "start", "data": folder / "rows", "output_dir": folder / "out", "max_steps": 6,
               "save_steps": 2, "logging_steps": 2, "per_device_train_batch_size": 2, "eval_share": 0.25,
               "use_cpu": True, "disable_tqdm": True, "report_to": "none", "learning_rate": 1e-3}  # fmt: skip
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]
