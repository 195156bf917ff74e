"""`bark_hf.register()`: what the Auto classes and `pipeline` build after it, and without it, in fresh processes."""

import json
import os
import subprocess
import sys

import pytest
import torch
import transformers
from transformers import BertTokenizer

PRELUDE = """
import json, sys, warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", message=".*torch.jit.script")  # older transformers' VITS
import torch
from transformers.utils import logging
logging.disable_progress_bar(); logging.set_verbosity_error()
"""
MODULES = """
from transformers import AutoConfig, AutoModel, AutoModelForTextToWaveform, AutoProcessor, pipeline
def modules(folder):
    pipe = pipeline("text-to-speech", model=folder)
    return {
        "AutoConfig": type(AutoConfig.from_pretrained(folder)).__module__,
        "AutoModel": type(AutoModel.from_pretrained(folder)).__module__,
        "AutoModelForTextToWaveform": type(AutoModelForTextToWaveform.from_pretrained(folder)).__module__,
        "AutoProcessor": type(AutoProcessor.from_pretrained(folder)).__module__,
        "pipe": type(pipe).__module__,
        "pipe.model": type(pipe.model).__module__,
        "pipe.processor": type(pipe.processor).__module__,
    }
"""


def run(code, *args):
    """Runs code in a fresh interpreter, offline; what it prints last is JSON."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code, *map(str, args)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def folders(small, tmp_path_factory):
    """The same weights as the converter, our classes and transformers' own classes write them."""
    work = tmp_path_factory.mktemp("registered")
    small.model.save_pretrained(work / "ours")
    small.processor.save_pretrained(work / "ours")
    theirs = transformers.BarkModel.from_pretrained(small.checkpoint)
    theirs.save_pretrained(work / "theirs")
    transformers.BarkProcessor(tokenizer=small.processor.tokenizer).save_pretrained(work / "theirs")
    vits(work / "vits", small.sources["tokenizer"])
    return {"converted": small.checkpoint, "ours": work / "ours", "theirs": work / "theirs", "vits": work / "vits"}


def vits(folder, vocab):
    """A tiny random text-to-speech model of another type, with a tokenizer."""
    config = transformers.VitsConfig(
        vocab_size=600, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16, flow_size=16,
        spectrogram_bins=8, upsample_initial_channel=16, upsample_rates=[4, 4], upsample_kernel_sizes=[8, 8],
        resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3, 5]], prior_encoder_num_flows=1,
        prior_encoder_num_wavenet_layers=1, posterior_encoder_num_wavenet_layers=1, duration_predictor_num_flows=1,
        duration_predictor_filter_channels=16, depth_separable_num_layers=1, wavenet_dilation_rate=1,
    )  # fmt: skip
    transformers.VitsModel(config).save_pretrained(folder)
    words = vocab.read_text(encoding="utf-8").splitlines()
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)


REGISTERED = (
    MODULES
    + """
import bark_hf
bark_hf.register()
bark_hf.register()  # twice does no harm
folders = json.loads(sys.argv[1])
result = {name: modules(folders[name]) for name in ("converted", "ours", "theirs")}
processor = AutoProcessor.from_pretrained(folders["ours"])
result["voices"] = processor.available_voice_presets
result["codebook size"] = AutoModel.from_pretrained(folders["theirs"]).generation_config.codebook_size
pipe = pipeline("text-to-speech", model=folders["converted"])
said = pipe(["Hello.", "Hello world."], voice_preset=["made/short", None], seed=[1, 2], batch_size=2,
            forward_params={"semantic_max_new_tokens": 5, "semantic_min_eos_p": None})
result["said"] = [one["audio"].tolist() for one in said]
result["aloud"] = type(pipeline("text-to-audio", model=folders["converted"])).__name__
result["instances"] = type(pipeline("text-to-speech", model=pipe.model, processor=processor,
                                    tokenizer=processor.tokenizer)).__module__
other = pipeline("text-to-speech", model=folders["vits"])
result["other"] = [type(other).__module__, type(other).__name__, type(other.model).__module__]
result["other speaks"] = bool(other("hello")["audio"].size)
result["other config"] = type(AutoConfig.from_pretrained(folders["vits"])).__module__
print(json.dumps(result))
"""
)


@pytest.fixture(scope="module")
def registered(folders):
    return run(REGISTERED, json.dumps({name: str(folder) for name, folder in folders.items()}))


@pytest.mark.parametrize("folder", ["converted", "ours", "theirs"])
def test_after_register_every_way_of_loading_builds_this_port(registered, folder):
    """A saved processor names its class, and transformers' own class of that name used to be found first."""
    for name, module in registered[folder].items():
        assert module.startswith("bark_hf."), (name, module)


def test_what_register_builds_is_whole(registered, small):
    assert registered["voices"] == small.processor.available_voice_presets
    assert registered["codebook size"] == small.manifest["constants"]["codebook_size"]
    assert registered["aloud"] == "BarkPipeline"
    assert registered["instances"].startswith("bark_hf.")


def test_the_registered_pipeline_says_what_the_python_api_says(registered, small):
    inputs = small.processor(["Hello.", "Hello world."], voice_preset=["made/short", None])
    options = {"semantic_max_new_tokens": 5, "semantic_min_eos_p": None, "seed": [1, 2]}
    audio, lengths = small.model.generate(**inputs, return_output_lengths=True, **options)
    for said, wave, length in zip(registered["said"], audio, lengths, strict=True):
        torch.testing.assert_close(torch.tensor(said), wave[:length], atol=1e-5, rtol=0)


def test_other_models_keep_transformers_pipeline(registered):
    """BarkPipeline replaces the task's class for all models, so it must step aside for them."""
    assert registered["other"][0].startswith("transformers.")
    assert registered["other"][1] == "TextToAudioPipeline"
    assert registered["other"][2].startswith("transformers.")
    assert registered["other config"].startswith("transformers.")
    assert registered["other speaks"]


UNREGISTERED = (
    MODULES
    + """
import bark_hf
folder = sys.argv[1]
model = AutoModel.from_pretrained(folder).eval()
ours = bark_hf.BarkModel.from_pretrained(folder).eval()
torch.manual_seed(0)
text, codes = torch.randint(200, (2, 270)), torch.randint(64, (1, 1024, 8))
def worst(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()
with torch.no_grad():
    apart = [worst(ours.semantic(text).logits, model.semantic(text).logits),
             worst(ours.coarse_acoustics(text).logits, model.coarse_acoustics(text).logits),
             *(worst(ours.fine_acoustics(k, codes).logits, model.fine_acoustics(k, codes).logits) for k in (2, 7))]
print(json.dumps({"modules": modules(folder), "apart": apart}))
"""
)


def test_without_register_transformers_own_bark_loads_our_folders(folders):
    """Importing the package changes nothing in transformers, and our files give its classes the same logits."""
    result = run(UNREGISTERED, folders["converted"])
    for name, module in result["modules"].items():
        assert module.startswith("transformers."), (name, module)
    assert max(result["apart"]) <= 1e-4
