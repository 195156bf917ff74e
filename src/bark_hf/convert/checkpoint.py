"""The original's files in, one folder in hub layout out: safetensors, configs, tokenizer, voices.

Stage by stage, so that memory peaks near one stage. The folder is written beside its place and renamed when whole."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, BertTokenizer
from transformers.utils import logging

from ..codec.encodec import BarkCodec
from ..configuration_bark import BarkConfig
from ..files.atomic import whole_folder
from ..generation_configuration_bark import MARKER, BarkGenerationConfig
from ..modeling_bark import BarkCoarseModel, BarkFineModel, BarkSemanticModel
from ..processing_bark import BarkProcessor
from ..vocabulary import Vocabulary
from .encodec import read_codec
from .presets import read_presets
from .suno import check_md5, forward, read_stage

logger = logging.get_logger(__name__)

STAGES = {"semantic": BarkSemanticModel, "coarse_acoustics": BarkCoarseModel, "fine_acoustics": BarkFineModel}
_CONSTANT_HOMES = {  # keys of `--generation-config` -> section of the generation config and field there
    "semantic_vocab_size": ("semantic_config", "semantic_vocab_size"),
    "semantic_pad_token": ("semantic_config", "eos_token_id"),
    "text_encoding_offset": ("semantic_config", "text_encoding_offset"),
    "text_pad_token": ("semantic_config", "text_pad_token"),
    "semantic_infer_token": ("semantic_config", "semantic_infer_token"),
    "coarse_semantic_pad_token": ("coarse_acoustics_config", "coarse_semantic_pad_token"),
    "coarse_infer_token": ("coarse_acoustics_config", "coarse_infer_token"),
}


def convert_checkpoint(
    text: Path,
    coarse: Path,
    fine: Path,
    codec: Path,
    tokenizer: str | Path,
    output: Path,
    voices: Path | None = None,
    dtype: torch.dtype = torch.float32,
    generation_config: Path | None = None,
    verify: bool = False,
    max_shard_size: str = "5GB",
    report: Callable[[str], None] = logger.info,
) -> Path:
    """Converts the original's three `.pt` files, an EnCodec `.th`, a tokenizer and voices into `output`.

    tokenizer: a `vocab.txt` (read cased), a folder or a hub id. dtype: of the stages; the codec stays float32.
    generation_config: a JSON file with the id constants where they are not Suno's. verify: compare the logits of
    source and result. report: gets a sentence for each step. Returns `output`.
    Raises ValueError, in a sentence, for a wrong file, before anything is written."""
    output = Path(output)
    sources = dict(zip(STAGES, (Path(text), Path(coarse), Path(fine)), strict=True))
    constants = _generation_config(generation_config)
    config = _config(sources, Path(codec), constants, dtype)
    made_tokenizer = _tokenizer(tokenizer)
    presets = read_presets(Path(voices)) if voices is not None else None
    _check_ids(made_tokenizer, presets, Vocabulary.of(constants))
    with whole_folder(output) as work:
        _write(sources, Path(codec), constants.sample_rate, dtype, max_shard_size, work, report)
        config.save_pretrained(work)
        constants.save_pretrained(work)
        BarkProcessor(made_tokenizer, voices=presets).save_pretrained(work)
        if verify:
            _verify(sources, work, dtype, report)
    report(f"wrote {output}")
    return output


def _config(sources, codec, constants, dtype) -> BarkConfig:
    """The result's, of files that are all whole and belong together: the weights are only mapped into memory here."""
    configs: dict[str, Any] = {}
    for stage, path in sources.items():
        config, weights = read_stage(path, stage)
        _check_fit(path, STAGES[stage], config, weights)
        config.dtype = dtype
        configs[stage] = config
        del weights
    codec_config, weights = read_codec(codec, constants.sample_rate)
    _check_fit(codec, BarkCodec, codec_config, weights)
    config = BarkConfig(
        semantic_config=configs["semantic"],
        coarse_acoustics_config=configs["coarse_acoustics"],
        fine_acoustics_config=configs["fine_acoustics"],
        codec_config=codec_config,
        architectures=["BarkModel"],
        dtype=dtype,
    )
    constants.validate()
    Vocabulary.of(constants).check_against(
        config.semantic_config, config.coarse_acoustics_config, config.fine_acoustics_config, config.codec_config
    )
    return config


def _check_ids(tokenizer, presets, vocabulary: Vocabulary) -> None:
    """Raises ValueError where the tokenizer or a voice has ids that the stages do not."""
    ids = 1 + max(tokenizer.get_vocab().values())  # not its length: a vocabulary may hold a word twice
    if ids > (room := vocabulary.text_pad_token - vocabulary.text_encoding_offset):
        raise ValueError(f"The tokenizer has {ids} ids, the text stage has room for {room}: a wrong one.")
    for name, voice in (presets or {}).items():
        try:
            voice.check_against(vocabulary)
        except ValueError as error:
            raise ValueError(f"Voice {name}: {error}") from error


def _write(sources, codec, sample_rate, dtype, max_shard_size, work, report) -> None:
    """The weights: the codec's in float32, the stages' in `dtype`, once each."""
    shards = _Shards(work, max_shard_size)
    for stage, path in sources.items():
        report(f"{stage}: {path}")
        if (problem := check_md5(path)) is not None:
            report(f"warning: {problem}")
        config, weights = read_stage(path, stage)
        tied = _check_fit(path, STAGES[stage], config, weights)
        shards.add(stage, {name: tensor.to(dtype) for name, tensor in weights.items() if name not in tied})
        del weights
    report(f"codec: {codec}")
    _, weights = read_codec(codec, sample_rate)
    shards.add("codec_model", {name: tensor.float() for name, tensor in weights.items()})
    shards.finish()


class _Shards:
    """Writes state dicts as safetensors shards of at most a given size, one stage at a time, and their index."""

    def __init__(self, folder: Path, max_size: str):
        self.folder, self.max_size = folder, max_size
        self.files: list[tuple[Path, list[str]]] = []
        self.bytes = 0

    def add(self, prefix: str, weights: dict[str, Tensor]) -> None:
        split = split_torch_state_dict_into_shards(weights, max_shard_size=self.max_size)
        for names in split.filename_to_tensors.values():
            part = {f"{prefix}.{name}": weights[name].clone().contiguous() for name in names}
            path = self.folder / f"part-{len(self.files)}.safetensors"
            save_file(part, path, metadata={"format": "pt"})
            self.files.append((path, list(part)))
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in part.values())

    def finish(self) -> None:
        weight_map = {}
        for number, (path, names) in enumerate(self.files, 1):
            name = f"model-{number:05d}-of-{len(self.files):05d}.safetensors"
            path.rename(self.folder / name)
            weight_map.update(dict.fromkeys(names, name))
        index = {"metadata": {"total_size": self.bytes}, "weight_map": dict(sorted(weight_map.items()))}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _check_fit(path: Path, model_class, config, weights: dict[str, Tensor]) -> set[str]:
    """Every weight has a place of its shape and every place a weight, or ValueError. Returns the tied names."""
    with init_empty_weights():
        model = model_class(config)
    places = model.state_dict()
    missing, extra = sorted(places.keys() - weights.keys()), sorted(weights.keys() - places.keys())
    wrong = [n for n in places.keys() & weights.keys() if places[n].shape != weights[n].shape]
    for problem, names in (("lacks", missing), ("has unknown", extra), ("has other shapes for", sorted(wrong))):
        if names:
            raise ValueError(f"{path} {problem} {len(names)} weights, {names[0]} among them: a wrong file.")
    tied = set(model.all_tied_weights_keys)
    for name in tied:
        if not torch.equal(weights[name], weights[model.all_tied_weights_keys[name]]):
            raise ValueError(f"{path}: {name} should be tied to {model.all_tied_weights_keys[name]} but differs.")
    return tied


def _verify(sources: dict[str, Path], folder: Path, dtype: torch.dtype, report) -> None:
    """Loads each converted stage and compares its logits with the source's, restated, on the same ids."""
    tolerance = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}.get(dtype, 1e-1)
    for stage, path in sources.items():
        worst = _largest_difference(path, stage, folder)
        if not worst <= tolerance:
            raise ValueError(f"{stage}: logits differ by {worst:.1e} of the largest, more than {tolerance:.0e}.")
        report(f"{stage}: logits agree to {worst:.1e} of the largest")


def _largest_difference(path: Path, stage: str, folder: Path) -> float:
    """Between the logits of one stage's source and result, as a share of the largest logit; NaN where either is."""
    config, weights = read_stage(path, stage)
    model = STAGES[stage].from_pretrained(folder, dtype=torch.float32)
    random = torch.Generator().manual_seed(0)
    differences = []
    for codebook in range(config.n_codes_given, config.n_codes_total) if stage == "fine_acoustics" else [None]:
        shape = (1, 300) if codebook is None else (1, 300, config.n_codes_total)
        ids = torch.randint(config.input_vocab_size, shape, generator=random)
        wanted = forward(weights, config, ids, codebook)
        with torch.no_grad():
            got = model(input_ids=ids, **({} if codebook is None else {"codebook_idx": codebook})).logits
        differences.append((got - wanted).abs().max() / wanted.abs().max().clamp(min=1))
    return torch.stack(differences).max().item()


def _tokenizer(source: str | Path):
    path = Path(source)
    try:
        if path.is_file():
            return BertTokenizer(vocab=_vocab(path), do_lower_case=False, strip_accents=False)
        return AutoTokenizer.from_pretrained(source)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{source} is no tokenizer: pass a vocab.txt, a folder or a hub id ({reason})") from error


def _vocab(path: Path) -> dict[str, int]:
    words = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # other line ends may be a token's own
    missing = [word for word in ("[PAD]", "[UNK]") if word not in words]
    if missing:
        raise ValueError(f"no {' and '.join(missing)} in the vocabulary")
    return {word: i for i, word in enumerate(words)}


def _generation_config(path: Path | None) -> BarkGenerationConfig:
    """Suno's, changed by a JSON file: flat id constants, or sections as in `generation_config.json`."""
    if path is None:
        return BarkGenerationConfig()
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"{path} must hold a JSON object of constants.")
    if "transformers_version" in given and MARKER not in given:  # its sampling values are mostly filled in
        return BarkGenerationConfig.from_dict(given)
    fields: dict[str, Any] = {}
    for key, value in given.items():
        if key in _CONSTANT_HOMES:
            section, field = _CONSTANT_HOMES[key]
            fields.setdefault(section, {})[field] = value
        elif isinstance(value, dict):
            fields.setdefault(key, {}).update(value)
        else:
            fields[key] = value
    fields = {k: v for k, v in fields.items() if k not in ("model_type", "transformers_version")}
    return BarkGenerationConfig(**fields)
