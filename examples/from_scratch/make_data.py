"""flite reads the texts: `train/` and `heldout/`, corpora for `load_corpus`. Recordings that are there stay.

flite also says which phone it speaks when: those are the semantic ids (`phones`). Of other texts it says only that,
which is all that the semantic stage learns from: `unread/`."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import soundfile
from phones import last_end, semantic_ids
from recipe import begun, parser, say
from texts import digest, held_out_texts, passages, training_texts, unread
from tqdm import tqdm

from bark_hf.audio import read_audio, to_mono, write_audio
from bark_hf.bench.machine import cores
from bark_hf.files import whole_file

EARLY = {"kal16": 0.116}  # seconds that a voice's recordings end before what it says does (0.110 to 0.122)


def flite(text: str, voice: str, wav: Path | None = None) -> str:
    """Which phones a voice reads a text with, and when each ends; writes the reading where `wav` says."""
    command = ["flite", "-voice", voice, "-psdur", "-t", text, "-o", str(wav or "none")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() + "\n"


def speak(text: str, voice: str, path: Path) -> None:
    """flite's reading as a FLAC file, and beside it what it said (`.lab`): each whole or not there."""
    said = path.with_suffix(".lab")
    if path.is_file() and said.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        made = flite(text, voice, wav := Path(folder) / "x.wav")
        samples, rate = read_audio(wav)
        write_audio(path, to_mono(samples), rate)
    with whole_file(said) as beside:
        beside.write_text(made, encoding="utf-8")


def read_aloud(readings: list[tuple[str, str]], folder: Path, max_seconds: float) -> int:
    """(text, voice) pairs -> recordings and `metadata.jsonl`, without what is too long or has no phones.

    Returns their number."""

    def one(reading: tuple[str, str]) -> dict[str, Any]:
        text, voice = reading
        path = folder / voice / f"{digest(text)[:16]}.flac"
        speak(text, voice, path)
        seconds = soundfile.info(path).duration
        said = path.with_suffix(".lab").read_text(encoding="utf-8")
        ids = semantic_ids(said, seconds) if seconds <= max_seconds else []
        return {"file_name": f"{voice}/{path.name}", "text": text, "speaker": voice, "semantic_ids": ids}

    return write_rows(one, readings, folder, "recording")


def say_phones(readings: list[tuple[str, str]], folder: Path, max_seconds: float) -> int:
    """As `read_aloud`, but only what would be said is written (`.lab`), in a tenth of the time."""

    def one(reading: tuple[str, str]) -> dict[str, Any]:
        text, voice = reading
        path = folder / voice / f"{digest(text)[:16]}.lab"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            made = flite(text, voice)
            with whole_file(path) as beside:
                beside.write_text(made, encoding="utf-8")
        said = path.read_text(encoding="utf-8")
        seconds = last_end(said) - EARLY.get(voice, 0.0)
        ids = semantic_ids(said, seconds) if seconds <= max_seconds else []
        return {"text": text, "speaker": voice, "semantic_ids": ids}

    return write_rows(one, readings, folder, "text")


def write_rows(
    one: Callable[[tuple[str, str]], dict[str, Any]], readings: list[tuple[str, str]], folder: Path, unit: str
) -> int:
    """`metadata.jsonl` of what `one` makes of each reading, without rows that have no ids. Returns their number."""
    with ThreadPoolExecutor(cores()) as pool:
        bar = tqdm(pool.map(one, readings), total=len(readings), desc=folder.name, unit=unit)
        rows = [row for row in bar if row["semantic_ids"]]
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "metadata.jsonl") as beside:
        beside.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return len(rows)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--profile", default="cpu", help="settings of recipe.json: cpu (default), gpu or toy")
    given = options.parse_args()
    if shutil.which("flite") is None:
        raise FileNotFoundError("There is no flite. On Debian: apt-get install flite.")
    work = begun(given.work, given.profile)
    data = work.settings["data"]
    with work.timed("data"):
        common, phrases = training_texts()
        readings = []
        for voice, count in data["utterances"].items():
            # the order is the voice's own and does not depend on the count: more keep what there is
            own = sorted(phrases, key=lambda text, voice=voice: digest(f"{voice} {text}"))
            said = [*[*common, *own][:count], *islice(passages(reversed(own)), data["passages"])]
            readings += [(text, voice) for text in said]
        readings.sort(key=lambda reading: digest(" ".join(reading)))  # a killed run has some of every voice
        made = read_aloud(readings, work.folder / "train", data["max_seconds"])
        texts = held_out_texts(data["held_out"])
        held_out = [(text, voice) for voice in data["utterances"] for text in texts]
        kept = read_aloud(held_out, work.folder / "heldout", data["max_seconds"])
        others = unread(phrases, [text for text, _ in readings])
        together = list(islice(passages(reversed(others)), data["passages"]))
        silent = [(text, voice) for voice, count in data["unread"].items() for text in [*others[:count], *together]]
        alone = say_phones(silent, work.folder / "unread", data["max_seconds"])
    say(f"{made} recordings to train on, {kept} held out, phones of {alone} texts more: {work.folder}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
