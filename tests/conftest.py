"""Fixtures: the original's goldens, converted once a session, and tiny random models."""

import json
import os
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from transformers.utils import logging

import bark_hf
from bark_hf.convert import convert_checkpoint
from bark_hf.engine import step as fast_step

logging.disable_progress_bar()
torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other
since_5_20 = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.20"),
    reason="transformers before 5.20: no tied weights on disk, drained iterators, another divisor of the eval loss",
)
SMALL = Path(__file__).parent / "goldens"
LARGE = Path(__file__).parents[2] / "shared" / "golden"  # 24 MB, beside the project where it stands


class Golden:
    """One golden folder: its manifest, its arrays, and the converted checkpoint with model and processor."""

    def __init__(self, folder: Path, work: Path):
        self.folder = folder
        self.manifest = json.loads((folder / "manifest.json").read_text())
        self.arrays = np.load(folder / "golden.npz", allow_pickle=False)
        constants = work / "constants.json"
        constants.write_text(json.dumps(self.manifest["constants"]))
        self.sources = {name: folder / f"{name}.pt" for name in ("text", "coarse", "fine")}
        self.sources |= {"codec": folder / "codec.th", "tokenizer": folder / "vocab.txt", "voices": folder / "presets"}
        self.constants = constants
        self.checkpoint = convert_checkpoint(
            **self.sources, generation_config=constants, output=work / folder.name, verify=True
        )
        self.model = bark_hf.BarkModel.from_pretrained(self.checkpoint).eval()
        self.processor = bark_hf.BarkProcessor.from_pretrained(self.checkpoint)

    def cases(self, stage: str) -> list[dict]:
        return [case for case in self.manifest["cases"] if case["stage"] == stage]

    def processor_inputs(self, case: dict):
        """The processor's output; a text that is too long warns, as it should."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Text 0 has \d+ ids")
            return self.processor(case["text"], voice_preset=case["preset"])


@pytest.fixture(scope="session", params=["small", "large"])
def golden(request, tmp_path_factory):
    """Each golden set, through the conversion script; the large one only where it stands beside the project."""
    if request.param == "large":
        if not LARGE.is_dir():
            pytest.skip(f"the large goldens are not at {LARGE}")
        return Golden(LARGE, tmp_path_factory.mktemp("large"))
    return request.getfixturevalue("small")


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """The small goldens' checkpoint: 2 layers, 16 wide, 200 semantic ids, 64 codes. Do not change its model."""
    return Golden(SMALL, tmp_path_factory.mktemp("small"))


@pytest.fixture(params=["compiled", "calls"])
def both_steps(request, monkeypatch):
    """Runs a test with numba's steps, which are the default where it is installed, and with torch's."""
    if request.param == "compiled":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(fast_step, "_compiled_step", lambda model: None)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
