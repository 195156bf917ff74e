"""Checkpoints with something wrong: a ValueError or an OSError that says what, a sentence at the command line."""

import json
import shutil

import pytest
import transformers
from packaging.version import Version
from transformers import AutoConfig

import bark_hf
from bark_hf.cli.main import main
from bark_hf.cloning import BarkSemanticTokenizer, BarkSemanticTokenizerConfig
from bark_hf.codec import BarkCodec
from bark_hf.longform.chunk_store import ChunkStore

since_5_20 = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.20"), reason="transformers before 5.20 indexes the list itself"
)
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def good(small, tmp_path_factory):
    """A checkpoint with one weights file."""
    folder = tmp_path_factory.mktemp("good") / "bark"
    small.model.save_pretrained(folder)
    small.processor.save_pretrained(folder)
    return folder


@pytest.fixture
def broken(good, tmp_path):
    """A copy that may be broken: `broken(file, change)` changes its JSON, or its bytes."""
    folder = tmp_path / "broken"
    shutil.copytree(good, folder)

    def change(file, changed):
        path = folder / file
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            path.write_text(json.dumps(changed(content) or content))
        else:
            path.write_bytes(changed(path.read_bytes()))
        return folder

    return change


def said(capsys, folder) -> str:
    """What `bark-hf speak` says: one line, an error."""
    with pytest.raises(SystemExit, match="1"):
        main(["speak", "Hello", "--model", str(folder), "-o", str(folder / "x.wav"), "--quiet"])
    captured = capsys.readouterr().err
    assert captured.startswith("error: ")
    assert len(captured.strip().splitlines()) == 1
    assert not (folder / "x.wav").exists()
    return captured


@pytest.mark.parametrize("kept", [0, 100, -1000])
def test_weights_that_are_cut_off(broken, capsys, kept):
    folder = broken(WEIGHTS, lambda content: content[:kept])
    stages = bark_hf.BarkSemanticModel, bark_hf.BarkCoarseModel, bark_hf.BarkFineModel
    for model_class in (bark_hf.BarkModel, *stages):
        with pytest.raises(OSError, match=r"broken are damaged or cut off \(.+\)\. Save or download them again"):
            model_class.from_pretrained(folder)
    config = bark_hf.BarkConfig.from_pretrained(folder).codec_config
    with pytest.raises(OSError, match="damaged"):
        BarkCodec.from_pretrained(folder, config=config)
    assert "damaged or cut off" in said(capsys, folder)


def test_a_semantic_tokenizer_says_so_too(tmp_path):
    config = BarkSemanticTokenizerConfig(features="mfcc", quantizer="kmeans", vocab_size=8)
    BarkSemanticTokenizer(config).save_pretrained(tmp_path)
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-10])
    with pytest.raises(OSError, match="damaged"):
        BarkSemanticTokenizer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config.to_dict(), "vocab_size": "many"}))
    with pytest.raises(ValueError, match="'vocab_size' expected int, got str"):
        BarkSemanticTokenizer.from_pretrained(tmp_path)


CONFIGS = {
    "a field": (lambda c: c["semantic_config"].update(hidden_size="wide"), r"'hidden_size' expected int, got str"),
    "a fraction": (
        lambda c: c["fine_acoustics_config"].update(num_layers=2.5),
        "'num_layers' expected int, got float",
    ),
    "of the codec": (lambda c: c["codec_config"].update(hidden_size="x"), "'hidden_size' expected int, got str"),
    "a section": (lambda c: c.update(semantic_config=[1]), "semantic_config"),
    "of its own": (lambda c: c.update(initializer_range="wide"), "'initializer_range' expected float, got str"),
    "a dtype": (lambda c: c.update(dtype="float99"), "float99"),
    "a relation": (
        lambda c: c["semantic_config"].update(num_heads=3),
        r"\(16\) must be a multiple of `num_heads` \(3\)",
    ),
    "all of it": (lambda c: [1], "BarkConfig is a JSON object, got list"),
}


@pytest.mark.parametrize("name", [*list(CONFIGS)[:-1], pytest.param("all of it", marks=since_5_20)])
def test_a_config_with_a_wrong_type(broken, capsys, name):
    change, message = CONFIGS[name]
    folder = broken("config.json", change)
    with pytest.raises(ValueError, match=message):
        bark_hf.BarkConfig.from_pretrained(folder)
    with pytest.raises(ValueError, match=message):
        bark_hf.BarkModel.from_pretrained(folder)
    assert "cannot be loaded as a Bark checkpoint" in said(capsys, folder)


def test_a_stage_reads_its_own_section(broken):
    folder = broken("config.json", lambda c: c["semantic_config"].update(hidden_size="wide"))
    bark_hf.BarkFineModel.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"This is no BarkSemanticConfig: .*'hidden_size'"):
        bark_hf.BarkSemanticModel.from_pretrained(folder)


def test_values_that_are_given_in_code_are_checked_as_before():
    with pytest.raises(Exception, match="hidden_size") as error:
        bark_hf.BarkSemanticConfig(hidden_size="wide")
    assert type(error.value).__name__ == "StrictDataclassFieldValidationError"
    assert AutoConfig.for_model("bark").model_type == "bark"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["semantic_config"].update(temperature="hot"), "`temperature` must be int or float"),
        (lambda c: c.update(semantic_config=[1]), "`semantic_config` must be a dict, got list"),
        pytest.param(lambda c: [1], "BarkGenerationConfig is a JSON object, got list", marks=since_5_20),
    ],
)
def test_a_generation_config_with_a_wrong_type(broken, capsys, change, message):
    folder = broken("generation_config.json", change)
    with pytest.raises(ValueError, match=message):
        bark_hf.BarkModel.from_pretrained(folder)
    said(capsys, folder)


@pytest.mark.parametrize(
    "change", [lambda c: c["semantic_config"].update(semantic_rate_hz="x"), lambda c: c.update(semantic_config=[1])]
)
def test_rates_of_a_wrong_type(broken, change):
    folder = broken("generation_config.json", change)
    with pytest.raises(ValueError, match=r"generation_config\.json must give the model's rates as positive numbers"):
        bark_hf.BarkProcessor.from_pretrained(folder)


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"model": 3}'])
def test_a_damaged_tokenizer(broken, capsys, content):
    folder = broken("config.json", lambda c: None)
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"The tokenizer of .*broken cannot be read"):
        bark_hf.BarkProcessor.from_pretrained(folder)
    assert "The tokenizer of" in said(capsys, folder)


def test_weights_of_another_shape_name_the_checkpoint(broken, capsys):
    folder = broken("config.json", lambda c: c["semantic_config"].update(input_vocab_size=7))
    assert "cannot be loaded as a Bark checkpoint" in said(capsys, folder)[-400:]


@pytest.mark.parametrize("content", [b"", b"x" * 50, None])
def test_a_damaged_piece_of_a_long_text(small, tmp_path, capsys, content):
    parts, wav = tmp_path / "parts", tmp_path / "x.wav"
    speak = [
        "speak",
        "Hello. The music.",
        "--long",
        "-m",
        str(small.checkpoint),
        "--resume",
        str(parts),
        "-o",
        str(wav),
    ]
    options = ["--no-guard", "--max-duration", "0.2", "--quiet", "--seed", "1"]
    with pytest.raises(SystemExit, match="0"):
        main([*speak, *options])
    wanted, piece = wav.read_bytes(), parts / "000000.safetensors"
    piece.write_bytes(piece.read_bytes()[:-20] if content is None else content)
    with pytest.raises(SystemExit, match="1"):
        main([*speak, *options])
    captured = capsys.readouterr().err
    assert "000000.safetensors is damaged" in captured
    assert len(captured.strip().splitlines()) == 1
    assert "Delete it" in captured
    piece.unlink()
    with pytest.raises(SystemExit, match="0"):
        main([*speak, *options])
    assert wav.read_bytes() == wanted


@pytest.mark.parametrize(("content", "message"), [("{", "is damaged"), ("[1]", "is no plan")])
def test_a_damaged_plan_of_a_long_text(tmp_path, content, message):
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(ValueError, match=rf"plan\.json {message}.*new folder"):
        ChunkStore(tmp_path)
