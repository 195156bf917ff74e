"""A corpus of speech with texts to a tokenized dataset in a folder: in shards, so that a killed run goes on.

Knows nothing of a corpus's layout (`corpus`), of what is done to a row (`tokenizing`) or of what a stage is fed."""

import json
import multiprocessing
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from datasets import Dataset, Features, Value, load_from_disk
from datasets.utils import tqdm
from rich.console import Console
from transformers import HfArgumentParser

from ..cloning.modeling_semantic_tokenizer import BarkSemanticTokenizer
from ..codec.encodec import BarkCodec
from ..files.atomic import whole_file, whole_folder
from ..processing_bark import BarkProcessor
from ..vocabulary import Vocabulary
from .corpus import load_corpus
from .dataset_card import dataset_card, report_table
from .tokenizing import RowTokenizer, Tokenizers, sha256

FEATURES = Features({
    "text": Value("string"),  # white space folded
    "text_ids": [Value("int32")],  # (L,), as the tokenizer gives them: without Bark's offset
    "semantic_ids": [Value("int32")],  # (S,)
    "codes": [[Value("int32")]],  # (K, T), T as many as Bark makes of S ids; none: for the semantic stage alone
    "speaker": Value("string"),
    "seconds": Value("float64"),  # of the recording
    "length": Value("int32"),  # S, for sampling by length
    "source": Value("string"),  # the file's name
})  # fmt: skip
REPORT, CARD = "report.json", "README.md"
_SHARD = Features({**FEATURES, "dropped": Value("string"), "detail": Value("string")}).arrow_schema
_LEAST_SECONDS = 0.1  # what any tokenizer and codec can read
_EXAMPLES = 5


def tokenize_corpus(
    corpus: Dataset,
    processor: BarkProcessor,
    semantic_tokenizer: BarkSemanticTokenizer,
    codec: BarkCodec,
    *,
    vocabulary: Vocabulary,
    output: str | Path,
    num_proc: int = 1,
    batch_size: int = 16,
    min_seconds: float = 0.5,
    max_seconds: float = 15.0,
    shard_size: int = 256,
    overwrite: bool = False,
) -> tuple[Dataset, dict[str, Any]]:
    """A corpus of `load_corpus` -> the dataset (`FEATURES`), saved in the folder `output`, and the report.

    Rows keep their order, and `semantic_ids` that they bring. Left out is what has no text or more ids than Bark
    reads, cannot be read, lasts less than `min_seconds` or more than `max_seconds` (Bark's semantic stage speaks
    15.3 s at most), is silent, or becomes semantic ids and codes of different length. The report says how many and
    which; it and a dataset card stand in `output`, which appears when it is whole.
    Until then shards of `shard_size` rows wait beside it, and a killed run goes on with them; a finished one returns
    what there is. Both only if corpus, tokenizers, vocabulary and sizes are the same: else it raises ValueError, or
    with `overwrite` begins anew, and replaces the old result in the end.
    num_proc: processes, one torch thread each, made by fork: on Linux, with models on the CPU. With 1 the work is done
    here, where the models are and with all threads. batch_size: recordings in memory at a time, in each process.
    Raises ValueError for tokenizers that do not fit the vocabulary, and where no row is left."""
    output = Path(output)
    tokenizers = Tokenizers(processor, semantic_tokenizer, codec, vocabulary)
    tokenizers.check()
    _check_numbers(num_proc, batch_size, shard_size, min_seconds, max_seconds)
    _check_processes(num_proc, tokenizers)
    settings = {
        "corpus": sha256(_described(row) for row in corpus),
        **tokenizers.identities(text or "" for text in corpus[:100]["text"]),
        "vocabulary": asdict(vocabulary),
        "min_seconds": min_seconds,
        "max_seconds": max_seconds,
        "shard_size": shard_size,
    }
    work = output.with_name(f".{output.name}.shards")
    if not _is_finished(output, settings, overwrite):
        _begin(work, settings, overwrite)
        shards = _Shards(corpus, RowTokenizer(tokenizers, min_seconds, max_seconds), work, shard_size, batch_size)
        shards.write_missing(num_proc)
        with whole_folder(output, replace=overwrite) as folder:
            counts = _assembled(shards, folder)
            made_by = {"frame_rate": semantic_tokenizer.frame_rate, "made_by": tokenizers.names}
            report = {**counts, **made_by, "settings": settings}
            _write_json(folder / REPORT, report)
            (folder / CARD).write_text(dataset_card(output.name, FEATURES, report), encoding="utf-8")
    shutil.rmtree(work, ignore_errors=True)
    return load_from_disk(str(output)), _read_json(output / REPORT)


class _Shards(torch.utils.data.Dataset):
    """The corpus in pieces of `size` rows: number -> how many rows it has, once its file is written."""

    def __init__(self, corpus: Dataset, tokenize: RowTokenizer, folder: Path, size: int, batch_size: int):
        self.corpus, self.tokenize, self.batch_size = corpus, tokenize, batch_size
        starts = range(0, len(corpus), size)
        self.spans = [range(start, min(start + size, len(corpus))) for start in starts]
        self.paths = [folder / f"{number:05}.parquet" for number in range(len(starts))]

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, number: int) -> int:
        span, made = self.spans[number], []
        for first in span[:: self.batch_size]:
            places = range(first, min(first + self.batch_size, span.stop))
            rows = list(self.corpus.select(places))
            for place, row, one in zip(places, rows, self.tokenize(rows), strict=True):
                path = row["audio"]["path"]
                made.append({**one, "source": Path(path).name if path else f"row {place}"})
        with whole_file(self.paths[number]) as beside:
            pq.write_table(pa.Table.from_pylist(made, schema=_SHARD), beside)
        return len(span)

    def write_missing(self, num_proc: int) -> None:
        """Writes the shards that are not there yet, in `num_proc` processes, with a progress bar over rows."""
        missing = [number for number, path in enumerate(self.paths) if not path.is_file()]
        loader = torch.utils.data.DataLoader(
            self,
            batch_size=None,
            sampler=missing,
            num_workers=num_proc if num_proc > 1 else 0,
            multiprocessing_context="fork" if num_proc > 1 else None,
            generator=torch.Generator(),  # the loader draws a seed: not from the caller's stream
        )
        counts = iter(loader)  # forks, before the bar starts a thread
        done = len(self.corpus) - sum(len(self.spans[number]) for number in missing)
        with tqdm(total=len(self.corpus), initial=done, unit="row", desc="Tokenizing") as bar:
            for count in counts:
                bar.update(count)


def _assembled(shards: _Shards, folder: Path) -> dict[str, Any]:
    """Saves the rows that the shards keep as a dataset in `folder`, and gives the report's counts."""
    schema, beside = FEATURES.arrow_schema, shards.paths[0].with_name("kept.arrow")
    dropped: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    numbers, speakers = [], set()
    with pa.OSFile(str(beside), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        for path in shards.paths:
            table = pq.read_table(path)
            kept = table.filter(pc.is_null(table["dropped"])).select(schema.names).cast(schema)
            stream.write_table(kept)
            numbers.append(np.stack([kept["seconds"], pc.list_value_length(kept["text_ids"])]))
            speakers |= {*kept["speaker"].unique().to_pylist()}
            for row in table.filter(pc.is_valid(table["dropped"])).select(["source", "dropped", "detail"]).to_pylist():
                dropped[row["dropped"]] += 1
                if dropped[row["dropped"]] <= _EXAMPLES:
                    examples.setdefault(row["dropped"], []).append(f"{row['source']}: {row['detail']}")
    reasons: dict[str, dict[str, Any]] = {
        name: {"rows": rows, "examples": examples[name]} for name, rows in dropped.most_common()
    }
    seconds, ids = np.concatenate(numbers, axis=1)
    if not len(seconds):
        said = "; ".join(f"{name} ({one['rows']}, {one['examples'][0]})" for name, one in reasons.items())
        raise ValueError(f"No row of the corpus can be used: {said}.")
    Dataset.from_file(str(beside)).save_to_disk(str(folder))
    return {
        "rows": len(shards.corpus),
        "kept": len(seconds),
        "hours": float(seconds.sum() / 3600),
        "speakers": len(speakers - {None}),
        "seconds": _spread(seconds),
        "text_ids": _spread(ids),
        "dropped": reasons,
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    return {"least": float(values.min()), "mean": float(values.mean()), "most": float(values.max())}


def _check_numbers(num_proc: int, batch_size: int, shard_size: int, min_seconds: float, max_seconds: float) -> None:
    if min(num_proc, batch_size, shard_size) < 1:
        raise ValueError(
            f"num_proc ({num_proc}), batch_size ({batch_size}) and shard_size ({shard_size}) must be at least 1."
        )
    if not _LEAST_SECONDS <= min_seconds < max_seconds:
        raise ValueError(
            f"min_seconds ({min_seconds:g}) must be at least {_LEAST_SECONDS:g} and below max_seconds "
            f"({max_seconds:g})."
        )


def _check_processes(num_proc: int, tokenizers: Tokenizers) -> None:
    if num_proc == 1:
        return
    if "fork" not in multiprocessing.get_all_start_methods():
        raise ValueError(f"num_proc ({num_proc}) must be 1 on this system: it cannot fork processes.")
    if tokenizers.devices != {"cpu"}:
        raise ValueError(
            f"num_proc ({num_proc}) must be 1 with models on {', '.join(sorted(tokenizers.devices))}; several "
            "processes need them on the CPU."
        )


def _described(row: Mapping[str, Any]) -> bytes:
    """What tells a row from others: text, speaker, ids, and a file's name, size and date, or its bytes."""
    told, audio = [row["text"], row.get("speaker")], row["audio"]
    if row.get("semantic_ids") is not None:
        told.append(row["semantic_ids"])
    if audio["bytes"] is not None:
        told.append(sha256([audio["bytes"]]))
    else:
        stat = Path(audio["path"]).stat()
        told += [Path(audio["path"]).name, stat.st_size, stat.st_mtime_ns]
    return json.dumps(told).encode()


def _is_finished(output: Path, settings: dict[str, Any], overwrite: bool) -> bool:
    """Whether the result is there already; raises ValueError where something else is."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    if not (output / REPORT).is_file():
        raise ValueError(f"{output} exists and is no tokenized dataset; name a new folder.")
    return not _changed(_read_json(output / REPORT)["settings"], settings, output, overwrite)


def _begin(work: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """A folder for shards, with those of an earlier run where its settings were the same."""
    noted = work / "settings.json"
    if noted.is_file() and _changed(_read_json(noted), settings, work, overwrite):
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    _write_json(noted, settings)


def _changed(before: dict[str, Any], now: dict[str, Any], folder: Path, allowed: bool) -> bool:
    names = [name for name in now if before.get(name) != now[name]]
    if names and not allowed:
        raise ValueError(
            f"{folder} was made with another {', '.join(names)}. Repeat that run's settings, name another output, or "
            "overwrite what is there (overwrite=True, --overwrite)."
        )
    return bool(names)


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with whole_file(path) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@dataclass
class CorpusArguments:
    """What is tokenized, by what, and where to."""

    data: str = field(metadata={"help": "A folder or a hub id; `load_corpus` lists the layouts."})
    semantic_tokenizer: str = field(metadata={"help": "The audio's semantic tokenizer: a folder or hub id."})
    output_dir: str = field(metadata={"help": "The folder to write."})
    model: str = field(
        default="suno/bark-small", metadata={"help": "Whose codec, text tokenizer and ids to use: a folder or hub id."}
    )
    config: str | None = field(default=None, metadata={"help": "Of a hub id that has several."})
    split: str | None = field(default=None, metadata={"help": "Of a corpus that has several."})
    audio_column: str | None = field(default=None, metadata={"help": "Where it has no usual name."})
    text_column: str | None = field(
        default=None, metadata={"help": "Where it has no usual name, or another than the usual one is wanted."}
    )
    speaker_column: str | None = field(default=None, metadata={"help": "Where it has no usual name."})
    device: str = field(default="cpu", metadata={"help": "Where the models run: cpu, cuda, ..."})
    num_proc: int = field(default=1, metadata={"help": "Processes, on the CPU."})
    batch_size: int = field(default=16, metadata={"help": "Recordings in memory at a time, per process."})
    min_seconds: float = field(default=0.5, metadata={"help": "Shorter recordings are left out."})
    max_seconds: float = field(default=15.0, metadata={"help": "Longer recordings are left out."})
    overwrite: bool = field(
        default=False, metadata={"help": "Replace what other settings or another corpus left there."}
    )


def main(arguments: list[str] | None = None) -> Path:
    """From a command line; see `--help`. Prints the report to stderr and returns the folder of the result."""
    parser = HfArgumentParser(
        CorpusArguments,
        prog="python -m bark_hf.training.dataset",
        description="A corpus of speech with texts to a tokenized dataset for training Bark. A killed run goes on.",
        epilog="Example: python -m bark_hf.training.dataset --data LJSpeech-1.1 --model suno/bark-small "
        "--semantic_tokenizer my-tokenizer --output_dir ljspeech-ids --num_proc 8",
    )
    (given,) = parser.parse_args_into_dataclasses(arguments)
    corpus = load_corpus(
        given.data,
        given.split,
        config=given.config,
        audio_column=given.audio_column,
        text_column=given.text_column,
        speaker_column=given.speaker_column,
    )
    _, report = tokenize_corpus(
        corpus,
        **Tokenizers.load(given.model, given.semantic_tokenizer, given.device)._asdict(),
        output=given.output_dir,
        num_proc=given.num_proc,
        batch_size=given.batch_size,
        min_seconds=given.min_seconds,
        max_seconds=given.max_seconds,
        overwrite=given.overwrite,
    )
    Console(stderr=True).print(report_table(report))
    return Path(given.output_dir)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
