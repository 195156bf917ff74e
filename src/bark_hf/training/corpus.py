"""Speech corpora in the layouts in which they come, one layout out: `audio`, `text`, maybe `speaker`, `semantic_ids`.

Knows nothing of tokens or models, and opens no audio file."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import Audio, Dataset, DatasetDict, Value, get_dataset_split_names, load_dataset, load_from_disk

from ..audio.files import FORMATS

NAMES = {  # what a column may be called; the first one that is there is taken
    "audio": ("audio", "file_name", "path", "file"),
    "text": ("text", "transcription", "transcript", "sentence", "normalized_text", "text_normalized"),
    "speaker": ("speaker", "speaker_id", "speaker_name", "client_id"),
    "semantic_ids": ("semantic_ids",),
}
_OPTIONAL = ("speaker", "semantic_ids")
_LJSPEECH = ("id", "text", "normalized_text")
_ONLY = "train"  # how `datasets` calls what is not split


def load_corpus(
    source: str | Path | Dataset | DatasetDict,
    split: str | None = None,
    *,
    config: str | None = None,
    audio_column: str | None = None,
    text_column: str | None = None,
    speaker_column: str | None = None,
) -> Dataset:
    """A corpus as a Dataset of `audio` (`path` and `bytes`, one of them, not decoded), `text` and, where they are
    there, `speaker` and `semantic_ids` (lists of integers: Bark's own, of audio that it made).

    source: a folder with `metadata.csv` or `metadata.jsonl` (`file_name` and a text, the layout of `datasets`'
    AudioFolder) or such a file by any name; a folder like LJSpeech (`metadata.csv` of lines ID|text|normalized text,
    `wavs/ID.wav`); a folder of recordings with a text file beside each (`name.wav`, `name.txt`); a folder of parquet
    files or of `save_to_disk`; a hub id, with `config` where it has several; a Dataset or DatasetDict.
    split: its name, or a sub-folder; not needed where there is one only. The columns are found by their usual names
    (`NAMES`); give them where that fails or, as with LJSpeech's `normalized_text`, another is wanted.
    Raises ValueError for what lacks splits, columns or rows, FileNotFoundError for missing files."""
    name = str(source) if isinstance(source, str | Path) else f"The {type(source).__name__}"
    found = _open(source, split, config)
    corpus = _one_split(found, split, name).with_format(None)
    columns = {"audio": audio_column, "text": text_column, "speaker": speaker_column}
    if not len(corpus):
        raise ValueError(f"{name} holds no rows.")
    corpus = _undecoded(_renamed(corpus, columns, name), name)
    _check_files(corpus, name)
    return corpus


def _open(source: Any, split: str | None, config: str | None) -> Mapping[str, Dataset]:
    """The splits that a source has, by name; of a hub's the one that is asked for."""
    if isinstance(source, Dataset):
        return {str(source.split or _ONLY): source}
    if isinstance(source, DatasetDict):
        return source
    if not isinstance(source, str | Path):
        raise ValueError(
            f"A corpus is a folder, a hub id, a Dataset or a DatasetDict, got {type(source).__name__}. Of an "
            "IterableDataset make a Dataset: Dataset.from_generator(lambda: iter(it))."
        )
    path = Path(source)
    if path.is_file():
        return {_ONLY: _from_table(path)}
    if path.is_dir():
        return _from_folder(path, split, config)
    if isinstance(source, Path) or path.is_absolute() or len(path.parts) > 2 or source.startswith("."):
        raise FileNotFoundError(f"There is no folder {source}.")
    return _from_hub(source, split, config)


def _from_folder(folder: Path, split: str | None, config: str | None) -> Mapping[str, Dataset]:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _open(load_from_disk(str(folder)), split, config)
    inside, name = folder, _ONLY
    if split is not None and (folder / split).is_dir():
        inside, name = folder / split, split
    for table in (inside / "metadata.jsonl", inside / "metadata.csv"):
        if table.is_file():
            return {name: _from_table(table)}
    if any(folder.rglob("*.parquet")):
        return _from_hub(str(folder), split, config)
    recordings = sorted(path for path in inside.rglob("*") if path.suffix.lower() in FORMATS)
    if any(path.with_suffix(".txt").is_file() for path in recordings):
        return {name: _from_pairs(recordings)}
    parts = sorted(path.name for path in inside.iterdir() if path.is_dir())
    hint = f" Its folders are {', '.join(parts[:10])}: is one of them the corpus, or a `split`?" if parts else ""
    raise ValueError(
        f"{inside} holds no metadata.csv, no metadata.jsonl, no parquet files and no recordings with texts beside "
        f"them (name.wav and name.txt).{hint}"
    )


def _from_hub(name: str, split: str | None, config: str | None) -> Mapping[str, Dataset]:
    if split is None:
        split, *others = get_dataset_split_names(name, config)
        if others:
            raise ValueError(f"{name} has the splits {', '.join([split, *others])}; pass one of them as `split`.")
    return {split: load_dataset(name, config, split=split)}


def _from_table(path: Path) -> Dataset:
    """`file_name` and other columns, or LJSpeech's lines; everything becomes text."""
    if path.suffix not in (".csv", ".jsonl"):
        raise ValueError(f"{path} is neither .csv nor .jsonl; pass the folder of the corpus.")
    rows = list(_json_rows(path) if path.suffix == ".jsonl" else _csv_rows(path))
    lacking = [row for row in rows if not row.get("file_name")]
    if lacking:
        raise ValueError(f"{len(lacking)} of {len(rows)} rows of {path} have no file_name, the first is {lacking[0]}.")
    names = dict.fromkeys(name for row in rows for name in row)
    columns: dict[str, list] = {
        name: [row.get(name) if name in NAMES["semantic_ids"] else _text(row.get(name)) for row in rows]
        for name in names
    }
    columns["audio"] = [str(path.parent / row["file_name"]) for row in rows]
    return Dataset.from_dict(columns)


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"Line {number} of {path} is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise ValueError(f"Line {number} of {path} is not a JSON object with file_name and text.")
        yield row


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        header = file.readline()
        file.seek(0)
        if "file_name" not in header:
            if header and "|" not in header:
                raise ValueError(
                    f"{path} has neither a header with file_name nor LJSpeech's lines ID|text: {header!r}."
                )
            for line in filter(str.strip, file):  # LJSpeech's quotation marks are text
                row = dict(zip(_LJSPEECH, line.rstrip("\r\n").split("|"), strict=False))
                yield {**row, "file_name": f"wavs/{row['id']}.wav" if row["id"] else None}
            return
        rows = csv.DictReader(file, delimiter="|" if "|" in header else ",")
        for row in rows:
            if None in row:
                raise ValueError(
                    f"Line {rows.line_num} of {path} has more fields than the header; quote texts that hold commas."
                )
            yield row


def _from_pairs(recordings: list[Path]) -> Dataset:
    lacking = [path for path in recordings if not path.with_suffix(".txt").is_file()]
    if lacking:
        raise FileNotFoundError(
            f"{len(lacking)} of {len(recordings)} recordings have no text beside them, the first is {lacking[0]}."
        )
    texts = [path.with_suffix(".txt").read_text(encoding="utf-8-sig") for path in recordings]
    return Dataset.from_dict({"audio": [str(path) for path in recordings], "text": texts})


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _one_split(found: Mapping[str, Dataset], split: str | None, name: str) -> Dataset:
    asked = list(found) if split is None else [split]
    if len(asked) != 1 or asked[0] not in found:
        raise ValueError(f"{name} has the splits {', '.join(found)}; pass one of them as `split`, not {split!r}.")
    return found[asked[0]]


def _renamed(corpus: Dataset, given: Mapping[str, str | None], name: str) -> Dataset:
    """The columns that are wanted alone, under our names."""
    names = {}
    for ours, usual in NAMES.items():
        chosen = given.get(ours)
        tried = usual if chosen is None else (chosen,)
        theirs = next((one for one in tried if one in corpus.column_names), None)
        if theirs is not None:
            names[theirs] = ours
        elif chosen is not None or ours not in _OPTIONAL:
            raise ValueError(
                f"{name} has no column {' or '.join(tried)} for the {ours}; it has {', '.join(corpus.column_names)}. "
                f"Pass {ours}_column."
            )
    return corpus.select_columns(list(names)).rename_columns(names)


def _undecoded(corpus: Dataset, name: str) -> Dataset:
    audio, text, ids = (corpus.features.get(column) for column in ("audio", "text", "semantic_ids"))
    texts = (Value("string"), Value("large_string"))
    if text not in texts:
        raise ValueError(f"The text column of {name} holds {text}; it must hold strings. Pass text_column.")
    if ids is not None and "int" not in getattr(getattr(ids, "feature", None), "dtype", ""):
        raise ValueError(f"The semantic_ids column of {name} holds {ids}; it must hold lists of integers.")
    known = isinstance(audio, Audio) or audio in (*texts, Value("binary"), Value("large_binary"))
    if not known and not (isinstance(audio, dict) and audio.keys() == {"bytes", "path"}):
        raise ValueError(
            f"The audio column of {name} holds {audio}; it must hold Audio, paths or whole files. Pass audio_column."
        )
    return corpus.cast_column("audio", Audio(decode=False))


def _check_files(corpus: Dataset, name: str) -> None:
    missing = []
    for batch in corpus.with_format("arrow").iter(batch_size=1000):
        audio = batch["audio"]
        without = pc.is_null(pc.struct_field(audio, "bytes"))
        paths = pc.struct_field(audio, "path").filter(without).to_pylist()
        missing += [path for path in paths if path is None or not Path(path).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(corpus)} audio files of {name} are missing, the first is {missing[0]}."
        )
