"""From recordings to a command line that speaks: corpus, tokenizers, three trained stages, one folder."""

import json

import numpy as np
import pytest
import soundfile
import torch
from synthetic import speech

import bark_hf
from bark_hf.cli.main import main
from bark_hf.cloning import BarkSemanticTokenizer
from bark_hf.training.stages import save_composite

WORDS = ["hello", "the", "music", "and", "a", "song", "my", "dog", "is", "cute"]


def bark_hf_command(*arguments) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(one) for one in arguments])
    assert ended.value.code == 0


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """40 short recordings of two speakers, with their texts."""
    folder = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    lines = []
    for number in range(40):
        seconds, pitch = 0.6 + 0.3 * random.random(), (110, 190)[number % 2]
        soundfile.write(folder / f"{number}.wav", speech(seconds, 16_000, pitch=pitch, seed=number), 16_000)
        text = " ".join(random.choice(WORDS, 4))
        lines.append(json.dumps({"file_name": f"{number}.wav", "text": text, "speaker": "ab"[number % 2]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize(("steps", "left"), [(20, 0.9), pytest.param(300, 0.4, marks=pytest.mark.slow)])
def test_recordings_become_a_bark_that_speaks(small, corpus, tmp_path, steps, left):
    """left: the share of its first loss that each stage has at the end. 300 steps are a minute or more of training."""
    torch.manual_seed(0)
    config = bark_hf.BarkSemanticTokenizerConfig(features="mfcc", quantizer="kmeans", vocab_size=200)
    units = BarkSemanticTokenizer(config)
    units.fit([soundfile.read(path, dtype="float32")[0] for path in sorted(corpus.glob("*.wav"))], seed=0)
    units.save_pretrained(tmp_path / "units")
    save_composite(small.model, small.processor, tmp_path / "start")
    options = {"model": tmp_path / "start", "data": corpus, "semantic_tokenizer": tmp_path / "units",
               "output_dir": tmp_path / "out", "max_steps": steps, "save_steps": steps // 2, "eval_share": 0.1,
               "logging_steps": 10, "per_device_train_batch_size": 8, "learning_rate": 3e-3, "report_to": "none",
               "disable_tqdm": True}  # fmt: skip
    bark_hf_command("train", *(part for name, value in options.items() for part in (f"--{name}", value)))
    report = json.loads((tmp_path / "out" / "model" / "training.json").read_text())
    assert report["utterances"] == 36
    for stage, metrics in report["stages"].items():
        state = json.loads((tmp_path / "out" / stage / f"checkpoint-{steps}" / "trainer_state.json").read_text())
        first, *_, last = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
        assert last < left * first, f"{stage} learned little: {first} became {last}"
        losses = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
        assert losses[-1] < losses[0] or metrics["eval_loss"] < 0.1, f"{stage} learned nothing: {losses}"
    folder, wav = tmp_path / "out" / "model", tmp_path / "hello.wav"
    bark_hf_command("speak", "Hello, my dog is cute.", "-m", folder, "-o", wav, "--max-duration", 2)
    assert soundfile.info(wav).samplerate == 24_000
    assert soundfile.info(wav).frames > 0
