"""How a long text comes out: one voice or not, word errors, joins, gaps, memory, a resume, and what the guard catches.

The text is made of the held-out sentences of examples/from_scratch, in paragraphs of five, until it lasts as long as
asked for. A table for people, then one JSON line."""

import argparse
import json
import sys
import tempfile
import time
from itertools import cycle, pairwise
from pathlib import Path

import numpy as np
import torch
from quality import HEARD_RATE, error_rates, held_out, load, recognized, tell
from tqdm import tqdm

from bark_hf import speaker_similarity
from bark_hf.audio import resample
from bark_hf.bench.machine import cores, peak_memory, reset_peak_memory
from bark_hf.longform import MAX_SECONDS, speak_long
from bark_hf.longform.attempts import most_ids, stage_options
from bark_hf.longform.joiner import click_ratio
from bark_hf.longform.quality import judge, longest_silence, spoken_words
from bark_hf.longform.sentences import seconds_of
from bark_hf.longform.speakers import MODES

PARAGRAPH = 5  # sentences
BAD, GOOD = 0.75, 0.34  # word error rates of what went off its text, and of what did not


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a composite checkpoint, or nano for the bundled one")
    parser.add_argument("data", type=Path, help="held-out recordings: a corpus with speakers, such as WORK/heldout")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the text, predicted (%(default)s)")
    parser.add_argument("--mode", choices=MODES, action="append", help="by default fixed; may be repeated")
    parser.add_argument("--sentences", type=int, help="the first so many; by default all")
    parser.add_argument("--voice", default="rms", help="of the corpus (%(default)s)")
    parser.add_argument("--preset", default="en_speaker_{}", help="the preset of a voice (%(default)s)")
    parser.add_argument("--wild", type=float, default=1.2, help="semantic temperature that provokes bad runs")
    parser.add_argument("--max-seconds", type=float, default=MAX_SECONDS, help="of a chunk (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-proc", type=int, default=cores(), help="processes that recognize (%(default)s)")
    parser.add_argument("--output", type=Path, help="a .json file for the result")
    given = parser.parse_args()
    model, processor = load(given.model)
    rows = held_out(given.data, [given.voice], given.sentences)
    said = passage([row["text"].rstrip(".") + "." for row in rows], given.minutes)
    preset = given.preset.format(given.voice)
    results: dict[str, dict] = {"short": short(given, model, processor, said, preset)}
    results["guard"] = {
        "as it is": results["short"].pop("guard"),
        "wild": short(given, model, processor, said, preset, semantic_temperature=given.wild)["guard"],
    }
    for mode in given.mode or ["fixed"]:
        results[mode] = long(given, model, processor, said, preset, mode)
    for name, one in results.items():
        print(f"{name:9} {json.dumps(one)}", file=sys.stderr)
    tell("longform", given, results, model.device)


def short(given: argparse.Namespace, model, processor, said: list[str], preset: str, **options) -> dict:
    """Each sentence alone: how alike two of them sound, what the guard says of them, and word errors, in which a
    sentence counts as often as the text says it."""
    texts = list(dict.fromkeys(said))
    rate, waves, verdicts = model.generation_config.sample_rate, [], []
    limit = most_ids(model, stage_options(model, options)[0])
    for number, text in enumerate(tqdm(texts, desc="short", unit="sentence")):
        inputs = processor(text, voice_preset=preset)
        out = model.generate(**inputs, seed=given.seed + number, return_dict_in_generate=True, **options)
        waves.append(out.audio[0].cpu().numpy())
        verdicts.append(judge(out, text, language="en", limit=limit))
    heard = listen(given, waves, rate)
    wers = [error_rates([spoken_words(text)], [said])["wer"] for text, said in zip(texts, heard, strict=True)]
    alike = [similarity(a, b, rate) for a, b in pairwise(waves)]
    caught = [bool(verdict.reasons) for verdict in verdicts]

    def share(kind: list[bool]) -> dict[str, int]:
        return {"chunks": sum(kind), "caught": sum(a and b for a, b in zip(kind, caught, strict=True))}

    by_text = dict(zip(texts, heard, strict=True))
    return {
        **error_rates([spoken_words(text) for text in said], [by_text[text] for text in said]),
        "similarity_of_two": float(np.mean(alike)),
        "guard": {"bad": share([wer >= BAD for wer in wers]), "good": share([wer <= GOOD for wer in wers])},
    }


def passage(texts: list[str], minutes: float) -> list[str]:
    """As many of the texts, from the first on and over again, as last so long by prediction."""
    total, said = 0.0, []
    for text in cycle(texts):
        if total >= 60 * minutes:
            break
        total += seconds_of(text, "en")
        said.append(text)
    return said


def long(given: argparse.Namespace, model, processor, said: list[str], preset: str, mode: str) -> dict:
    """The whole text, made in one go; in mode "fixed" also broken off at half and resumed."""
    paragraphs = [" ".join(said[i : i + PARAGRAPH]) for i in range(0, len(said), PARAGRAPH)]
    options = {"voice": preset, "mode": mode, "seed": given.seed, "batch_size": given.batch_size, "language": "en",
               "max_seconds": given.max_seconds}  # fmt: skip
    text, peaks, first = "\n\n".join(paragraphs), [], 0.0
    reset_peak_memory(model.device)
    start = time.perf_counter()
    speech = speak_long(model, processor, text, **options)
    with tempfile.TemporaryFile() as kept:  # on disk, so that memory is the model's alone
        for piece in tqdm(speech, desc=mode, unit="chunk"):
            first = first or time.perf_counter() - start
            kept.write(piece.audio.tobytes())
            peaks.append((peak_memory(model.device) or 0) / 1e6)
        seconds, rate, chunks = time.perf_counter() - start, speech.sampling_rate, speech.chunks
        kept.seek(0)
        audio = np.frombuffer(kept.read(), np.float32)
    spans = [(round(one["start"] * rate), round(one["end"] * rate)) for one in chunks]
    waves = [audio[a:b] for a, b in spans]
    anchor = model.decode_audio([torch.tensor(processor.voice(preset).fine_prompt)])[0].cpu().numpy()
    heard = listen(given, waves, rate)
    found = {
        "chunks": len(chunks),
        "seconds": len(audio) / rate,
        "rtf": seconds / (len(audio) / rate),
        "first_audio_s": first,
        **error_rates([spoken_words(one["text"]) for one in chunks], heard),
        "similarity_to_voice": float(np.mean([similarity(wave, anchor, rate) for wave in waves])),
        "loudest_click": max(
            click_ratio(audio, rate, max(0, at + round(near * rate / 60)))
            for span in spans
            for at in span
            for near in range(-7, 8)  # the joiner's own cuts are up to 0.1 s away
        ),
        "longest_gap_s": max(longest_silence(one, rate) for one in by_paragraph(audio, chunks, spans, paragraphs)),
        "redone": sum(len(one["attempts"]) > 1 for one in chunks),
        "peak_mb_after_quarters": [round(peaks[len(peaks) * k // 4 - 1]) for k in (1, 2, 3, 4)],
    }
    if mode == "fixed":
        with tempfile.TemporaryDirectory() as folder:
            speech = speak_long(model, processor, text, **options, resume_folder=folder)
            for _ in range(len(chunks) // 2):
                next(speech)
            speech.close()
            again = speak_long(model, processor, text, **options, resume_folder=folder).audio()
        found["resumed_is_the_same"] = bool(np.array_equal(again, audio))
    return found


def by_paragraph(audio: np.ndarray, chunks: list[dict], spans: list[tuple[int, int]], paragraphs: list[str]):
    """The audio of each paragraph, from its first word to its last."""
    place, left = 0, [len(paragraph.split()) for paragraph in paragraphs]
    begin = spans[0][0]
    for chunk, (_, end), follows in zip(chunks, spans, [*(a for a, _ in spans[1:]), None], strict=True):
        left[place] -= len(chunk["text"].split())
        if left[place] <= 0:
            yield audio[begin:end]
            place, begin = place + 1, follows


def listen(given: argparse.Namespace, waves: list[np.ndarray], rate: int) -> list[str]:
    resampled = [resample(wave, rate, HEARD_RATE) for wave in waves]
    return [spoken_words(said) for said in recognized(resampled, given.num_proc)]


def similarity(a: np.ndarray, b: np.ndarray, rate: int) -> float:
    try:
        return speaker_similarity(a, b, rate)
    except ValueError:  # hardly voiced
        return 0.0


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
