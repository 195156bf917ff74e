"""The community's semantic tokenizer (a HuBERT and an LSTM quantizer) in, one folder of `BarkSemanticTokenizer` out.

Knows nothing of Bark's own checkpoints. The quantizers are those of the hub repo GitMylo/bark-voice-cloning."""

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn
from transformers import AutoConfig, HubertModel
from transformers.utils import logging

from ..cloning.configuration_semantic_tokenizer import BarkSemanticTokenizerConfig
from ..cloning.modeling_semantic_tokenizer import BarkSemanticTokenizer
from ..files.atomic import whole_folder
from .suno import check_tensors, load_pickle

logger = logging.get_logger(__name__)


def convert_semantic_tokenizer(
    quantizer: Path,
    hubert: str | Path,
    output: Path,
    feature_layer: int = 9,
    normalize: bool = False,
    report: Callable[[str], None] = logger.info,
) -> Path:
    """Converts a quantizer's `.pth` file and a HuBERT into `output`, in float32; returns it.

    hubert: a folder or hub id of a checkpoint in transformers' layout, e.g. facebook/hubert-base-ls960.
    feature_layer, normalize: what the quantizer was trained on. The community's had the 9th layer of HuBERT base and
    waveforms as they are. report: gets a sentence for each step.
    Raises ValueError, in a sentence, for files that are wrong or do not fit; nothing is left at `output` then."""
    quantizer, output = Path(quantizer), Path(output)
    with whole_folder(output) as work:
        report(f"quantizer: {quantizer}")
        sizes, weights = read_quantizer(quantizer)
        report(f"hubert: {hubert}")
        source = _load_hubert(hubert, feature_layer)
        if sizes["input_size"] != source.config.hidden_size:
            raise ValueError(
                f"{quantizer} reads {sizes['input_size']} features a frame, {hubert} gives "
                f"{source.config.hidden_size}: they do not belong together."
            )
        config = BarkSemanticTokenizerConfig(
            hubert_config=source.config,
            feature_layer=feature_layer,
            normalize=normalize,
            vocab_size=sizes["output_size"],
            hidden_size=sizes["hidden_size"],
            num_layers=sizes["num_layers"],
            intermediate_size=sizes.get("intermediate_size"),
        )
        model = BarkSemanticTokenizer(config)
        needed = model.hubert.state_dict().keys()
        model.hubert.load_state_dict({name: value for name, value in source.state_dict().items() if name in needed})
        _load_quantizer(quantizer, model.quantizer, weights)
        model.save_pretrained(work)
    report(f"wrote {output}")
    return output


def read_quantizer(path: Path) -> tuple[dict[str, int], dict[str, Tensor]]:
    """A quantizer's sizes (input_size, hidden_size, output_size, num_layers and, in version 1, intermediate_size),
    from its tensors' shapes, and its weights. Sizes that the file states as well, in `.info`, must agree.

    Raises ValueError, in a sentence, for a wrong file."""
    if not path.is_file():
        raise ValueError(f"There is no quantizer file {path}.")
    weights = load_pickle(path)
    if not isinstance(weights, dict) or "lstm.weight_ih_l0" not in weights:
        raise ValueError(f"{path} is not a quantizer's state dict: it has no lstm.weight_ih_l0.")
    check_tensors(path, weights)
    try:
        sizes = {
            "input_size": weights["lstm.weight_ih_l0"].shape[1],
            "hidden_size": weights["lstm.weight_hh_l0"].shape[1],
            "output_size": weights["fc.weight"].shape[0],
            "num_layers": sum(re.fullmatch(r"lstm\.weight_ih_l\d+", name) is not None for name in weights),
        }
        if "intermediate.weight" in weights:
            sizes["intermediate_size"] = weights["intermediate.weight"].shape[0]
    except (KeyError, IndexError) as error:
        raise ValueError(f"{path} is not a whole quantizer: {type(error).__name__} {error}.") from error
    stated = _info(path)
    found = {**sizes, "version": int("intermediate_size" in sizes)}
    for name in stated.keys() & found.keys():
        if stated[name] != found[name]:
            raise ValueError(f"{path} states {name} {stated[name]}, but its tensors have {found[name]}.")
    return sizes, weights


def _info(path: Path) -> dict:
    """What the archive's member `*/.info` states; nothing where there is none."""
    if not zipfile.is_zipfile(path):
        return {}
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("/.info")]
        if not names:
            return {}
        with archive.open(names[0]) as member:
            text = member.read(4096)  # it is four numbers
    try:
        stated = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its member {names[0]} is not JSON.") from error
    if not isinstance(stated, dict):
        raise ValueError(f"{path}: its member {names[0]} must be a JSON object of sizes.")
    return stated


def _load_hubert(source: str | Path, feature_layer: int) -> HubertModel:
    """The whole checkpoint; errors of the hub and of folders become a ValueError."""
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(f"{source} is no HuBERT checkpoint: {str(error).strip().splitlines()[0]}") from error
    if config.model_type != "hubert":
        raise ValueError(f"{source} is a {config.model_type} checkpoint, not a HuBERT.")
    if feature_layer > config.num_hidden_layers:
        raise ValueError(f"{source} has {config.num_hidden_layers} layers, and no layer {feature_layer}.")
    try:
        model, found = HubertModel.from_pretrained(source, output_loading_info=True)
    except OSError as error:
        raise ValueError(f"{source} has no weights: {str(error).strip().splitlines()[0]}") from error
    if missing := sorted(set(found["missing_keys"]) - {"masked_spec_embed"}):
        raise ValueError(f"{source} lacks {len(missing)} weights of a HuBERT, {missing[0]} among them.")
    return model


def _load_quantizer(path: Path, quantizer: nn.Module, weights: dict[str, Tensor]) -> None:
    places = quantizer.state_dict()
    wrong = {n for n in places.keys() & weights.keys() if places[n].shape != weights[n].shape}
    for problem, names in (
        ("lacks", places.keys() - weights.keys()),
        ("has unknown", weights.keys() - places.keys()),
        ("has other shapes for", wrong),
    ):
        if names:
            raise ValueError(f"{path} {problem} {len(names)} weights, {min(names)} among them: a wrong file.")
    quantizer.load_state_dict(weights)
