"""The released weights, where the hub can be reached: python -m pytest -m hub. Known answers come from elsewhere."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.hub

CODE = """
import torch, bark_hf
source = "suno/bark-small"
processor = bark_hf.BarkProcessor.from_pretrained(source)
model = bark_hf.BarkModel.from_pretrained(source).eval()
inputs = processor("Hello, this is a test of the audio generation system.")
semantic = model.generate_semantic(**inputs, do_sample=False)
wanted = [41, 215, 548, 6961, 602, 602, 2586, 8385, 1311, 602, 5109, 3051, 1136, 8343, 8909, 292, 3318, 6362, 6362,
          4401]
assert semantic[0][:20].tolist() == wanted, semantic[0][:20].tolist()
coarse = model.generate_coarse(semantic, do_sample=False)[0]
ids = (coarse + torch.tensor([[10_000], [11_024]])).t().flatten()[:20].tolist()
wanted = [10062, 11937, 10062, 11448, 10408, 11568, 10062, 11448, 10062, 11448, 10408, 11568, 10408, 11542, 10408,
          11937, 10408, 11568, 10062, 11448]
assert ids == wanted, ids
inputs = processor("Hello.", voice_preset="v2/en_speaker_6")
audio = model.generate(**inputs, seed=0, max_duration=3.0)[0]
assert 24_000 * 0.3 < len(audio) <= 24_000 * 3.1, len(audio)
assert audio.abs().max() > 0.05, "the audio is silent"
assert audio.abs().max() <= 1.5, "the audio is clipped"
"""


def test_the_released_small_model_gives_the_known_tokens_and_a_voice():
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    reach = "from huggingface_hub import HfApi; HfApi().model_info('suno/bark-small', timeout=10)"
    probe = subprocess.run([sys.executable, "-c", reach], capture_output=True, text=True, env=environment, timeout=120)
    if probe.returncode:
        pytest.skip(f"the hub cannot be reached: {probe.stderr.strip().splitlines()[-1]}")
    out = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=environment, timeout=3000)
    assert out.returncode == 0, out.stderr
