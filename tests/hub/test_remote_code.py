"""A folder saved with the core's code loads where the package cannot be imported."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from bark_hf.audio import read_audio
from bark_hf.hub.remote_code import add_remote_code, core_modules

LOAD = """
import sys
sys.modules["bark_hf"] = None  # importing it now raises
import numpy as np
from transformers import AutoConfig, AutoModel, AutoModelForTextToWaveform, AutoProcessor
folder, output = sys.argv[1:]
for auto in (AutoConfig, AutoModel, AutoModelForTextToWaveform):
    loaded = auto.from_pretrained(folder, trust_remote_code=True)
    assert type(loaded).__module__.startswith("transformers_modules."), type(loaded)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules."), type(processor)
inputs = processor(["Hello the", "music"], voice_preset=["made/short", None])
out = loaded.generate(**inputs, seed=5, return_dict_in_generate=True)
out.voice(0)
np.save(output, out.audio.numpy())
processor.save_audio(out, [output + ".0.wav", output + ".1.wav"])
"""


def test_a_folder_with_code_loads_without_the_package(small, tmp_path):
    folder, output = tmp_path / "with_code", tmp_path / "audio.npy"
    shutil.copytree(small.checkpoint, folder)
    add_remote_code(folder)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", LOAD, str(folder), str(output)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    inputs = small.processor(["Hello the", "music"], voice_preset=["made/short", None])
    wanted = small.model.generate(**inputs, seed=5).numpy()
    np.testing.assert_allclose(np.load(output), wanted, atol=1e-6)
    for i, row in enumerate(wanted):  # written by soundfile: the folder has no `audio`
        samples, rate = read_audio(tmp_path / f"audio.npy.{i}.wav")
        assert rate == 24_000
        np.testing.assert_allclose(samples, row[: len(samples)], atol=1 / 32_000)


def test_only_the_core_is_copied(small, tmp_path):
    shutil.copytree(small.checkpoint, tmp_path / "m")
    names = add_remote_code(tmp_path / "m")
    assert names == core_modules()
    assert {"modeling_bark.py", "processing_bark.py", "configuration_bark.py", "engine_decoding.py"} <= set(names)
    assert not {"pipeline_bark.py", "hub_registration.py", "audio_files.py", "__init__.py"} & set(names)
    assert set(json.loads((tmp_path / "m" / "config.json").read_text())["auto_map"]) == {
        "AutoConfig", "AutoModel", "AutoModelForTextToWaveform", "AutoProcessor",
    }  # fmt: skip


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        add_remote_code(tmp_path)
