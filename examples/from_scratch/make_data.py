"""flite reads the texts: `train/` and `heldout/`, corpora for `load_corpus`. Recordings that are there stay."""

import json
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import soundfile
from recipe import begun, parser, say
from texts import digest, held_out_texts, training_texts
from tqdm import tqdm

from bark_hf.audio import read_audio, to_mono, write_audio
from bark_hf.bench.machine import cores
from bark_hf.files import whole_file


def speak(text: str, voice: str, path: Path) -> None:
    """flite's reading as a FLAC file, whole or not there."""
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "x.wav"
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", wav], check=True, capture_output=True)
        samples, rate = read_audio(wav)
        write_audio(path, to_mono(samples), rate)


def read_aloud(readings: list[tuple[str, str]], folder: Path, max_seconds: float) -> int:
    """(text, voice) pairs -> recordings and `metadata.jsonl`, without what is too long. Returns their number."""

    def one(reading: tuple[str, str]) -> dict[str, str] | None:
        text, voice = reading
        name = f"{voice}/{digest(text)[:16]}.flac"
        speak(text, voice, folder / name)
        fits = soundfile.info(folder / name).duration <= max_seconds
        return {"file_name": name, "text": text, "speaker": voice} if fits else None

    with ThreadPoolExecutor(cores()) as pool:
        bar = tqdm(pool.map(one, readings), total=len(readings), desc=folder.name, unit="recording")
        rows = [row for row in bar if row is not None]
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
            readings += [(text, voice) for text in [*common, *own][:count]]
        readings.sort(key=lambda reading: digest(" ".join(reading)))  # a killed run has some of every voice
        made = read_aloud(readings, work.folder / "train", data["max_seconds"])
        texts = held_out_texts(data["held_out"])
        held_out = [(text, voice) for voice in data["utterances"] for text in texts]
        kept = read_aloud(held_out, work.folder / "heldout", data["max_seconds"])
    say(f"{made} recordings to train on, {kept} held out: {work.folder}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
