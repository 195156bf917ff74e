"""How well a model's speech is understood: a recognizer's error rates, against those of the teacher's own recordings.

Reads the held-out corpus of examples/from_scratch in each of its voices. A table for people, then one JSON line."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoConfig

from bark_hf import BarkModel, BarkProcessor
from bark_hf.audio import read_audio, resample, to_mono, to_pcm16, write_audio
from bark_hf.bench.machine import commit, cores, hardware, versions
from bark_hf.cloning import BarkSemanticTokenizer
from bark_hf.codec import BarkCodec
from bark_hf.evaluation import speaker_finder
from bark_hf.longform.quality import spoken_words
from bark_hf.models.bundled import nano
from bark_hf.training.card import public_name
from bark_hf.training.corpus import load_corpus
from bark_hf.vocabulary import Vocabulary

HEARD_RATE = 16_000  # of the recognizer
SHORT, LONG = 0.5, 2.0  # of the teacher's length: beyond, a run went wrong
REFERENCE_SECONDS = 30.0  # of each voice's recordings, that speech is compared with
TALKERS = ("teacher", "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a composite checkpoint, or nano for the bundled one")
    parser.add_argument("data", type=Path, help="held-out recordings: a corpus with speakers, such as WORK/heldout")
    parser.add_argument("--sentences", type=int, help="the first so many of each voice; by default all")
    parser.add_argument("--voice", action="append", help="only this one of the corpus's voices; may be repeated")
    parser.add_argument("--preset", default="en_speaker_{}", help="the preset of a voice (%(default)s)")
    parser.add_argument("--codec-only", action="store_true", help="the recordings through the model's codec")
    parser.add_argument("--units", metavar="TOKENIZER", help="the recordings' semantic units, spoken by the model")
    parser.add_argument("--teacher-only", action="store_true", help="the recordings alone: the ceiling")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--int8", action="store_true", help="the model with int8 weights (`quantize_int8`)")
    parser.add_argument("--num-proc", type=int, default=cores(), help="processes that recognize (%(default)s)")
    parser.add_argument("--save", type=Path, help="a folder for what the model says")
    parser.add_argument("--picture", type=Path, help="a .png: mel spectrograms, teacher above, model below")
    parser.add_argument("--output", type=Path, help="a .json file for the result")
    given = parser.parse_args()
    rows = held_out(given.data, given.voice, given.sentences)
    teacher = [recording(row) for row in rows]
    waves = teacher if given.teacher_only else spoken(given, rows, teacher)
    if given.save:
        for row, wave in zip(rows, waves, strict=True):
            given.save.joinpath(row["speaker"]).mkdir(parents=True, exist_ok=True)
            write_audio(given.save / row["speaker"] / f"{row['number']:03}.wav", wave, HEARD_RATE)
    if given.picture:
        picture(given.picture, rows[0]["text"], teacher[0], waves[0])
    heard = recognized(teacher if given.teacher_only else [*teacher, *waves], given.num_proc)
    heard = [heard[: len(rows)], heard[-len(rows) :]]
    results = judged(rows, teacher, waves, heard)
    print(table(results), file=sys.stderr)
    tell("quality", given, results, torch.device(given.device))


def tell(benchmark: str, given: argparse.Namespace, results: dict, device: torch.device) -> None:
    """Results with all that they were measured under: one JSON line, and the file of `--output`."""
    result = {
        "benchmark": benchmark,
        "options": published(given),
        "results": results,
        "hardware": hardware(device),
        "versions": versions(),
        "commit": commit(),
    }
    if given.output:
        given.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def published(given: argparse.Namespace) -> dict:
    """The options that a result tells: without the files that are written, and of folders the names alone."""
    told = {name: value for name, value in vars(given).items() if name not in ("save", "picture", "output")}
    return {name: public_name(str(value)) if name in ("model", "data", "units") and value else value
            for name, value in told.items()}  # fmt: skip


def held_out(folder: Path, voices: Sequence[str] | None, count: int | None) -> list[dict]:
    """The first `count` rows of each voice, with their `number` in it."""
    rows: dict[str, list[dict]] = {}
    for row in load_corpus(folder):
        own = rows.setdefault(row["speaker"], [])
        own.append({**row, "number": len(own)})
    for voice in voices or rows:
        if voice not in rows:
            raise ValueError(f"{folder} has no voice {voice!r}; it has {', '.join(rows)}.")
    return [row for voice in voices or rows for row in rows[voice][:count]]


def recording(row: dict) -> np.ndarray:
    """(N,) at the recognizer's rate."""
    samples, rate = read_audio(row["audio"]["path"])
    return resample(to_mono(samples), rate, HEARD_RATE)


def spoken(given: argparse.Namespace, rows: list[dict], teacher: list[np.ndarray]) -> list[np.ndarray]:
    """What the model makes of texts, of the recordings' units or of their codes: (N_i,) at the recognizer's rate."""
    if given.codec_only:
        codec, n_codebooks = _codec(given.model)
        codec.eval().to(given.device)
        rate = codec.config.sampling_rate

        def make(part: range) -> list[torch.Tensor]:
            return _through_codec(codec, n_codebooks, [teacher[row] for row in part])

    else:
        model, processor = load(given.model)
        model.to(given.device)
        if given.int8:
            model.quantize_int8()
        units = BarkSemanticTokenizer.from_pretrained(given.units).eval().to(given.device) if given.units else None
        rate = model.generation_config.sample_rate

        def make(part: range) -> list[torch.Tensor]:
            seeds = [given.seed + row for row in part]
            inputs = processor(
                [rows[row]["text"] for row in part],
                voice_preset=[given.preset.format(rows[row]["speaker"]) for row in part],
            ).to(given.device)
            if units is None:
                audio, lengths = model.generate(**inputs, seed=seeds, return_output_lengths=True)
                return [wave[:length] for wave, length in zip(audio, lengths, strict=True)]
            ids = units.encode([resample(teacher[row], HEARD_RATE, units.sampling_rate) for row in part])
            history = inputs["history_prompt"]
            coarse = model.generate_coarse(ids, history_prompt=history, seed=seeds)
            return model.decode_audio(model.generate_fine(coarse, history_prompt=history, seed=seeds))

    waves = []
    with tqdm(total=len(rows), desc="speaking", unit="sentence") as bar:
        for start in range(0, len(rows), given.batch_size):
            part = range(start, min(start + given.batch_size, len(rows)))
            waves += [resample(wave.float().cpu().numpy(), rate, HEARD_RATE) for wave in make(part)]
            bar.update(len(part))
    return waves


def load(model: str) -> tuple[BarkModel, BarkProcessor]:
    """A composite checkpoint in float32, or `nano` for the bundled one."""
    if model == "nano":
        return nano()
    return BarkModel.from_pretrained(model, dtype=torch.float32).eval(), BarkProcessor.from_pretrained(model)


def _codec(model: str) -> tuple[BarkCodec, int]:
    """A composite's codec, or one that stands alone, and how many of its codebooks are used."""
    if model != "nano" and AutoConfig.from_pretrained(model).model_type == "encodec":
        codec = BarkCodec.from_pretrained(model)
        return codec, codec.config.num_quantizers
    composite, _ = load(model)
    return composite.codec_model, Vocabulary.of(composite.generation_config).n_fine_codebooks


@torch.inference_mode()
def _through_codec(codec: BarkCodec, n_codebooks: int, waves: list[np.ndarray]) -> list[torch.Tensor]:
    rate = codec.config.sampling_rate
    resampled = [torch.from_numpy(resample(wave, HEARD_RATE, rate)) for wave in waves]
    return codec.decode_all(codec.encode_all(resampled, n_codebooks))


def recognized(waves: list[np.ndarray], num_proc: int) -> list[str]:
    """What pocketsphinx, with the English model that it carries, makes of each waveform alone."""
    with ProcessPoolExecutor(num_proc) as pool:
        heard = pool.map(_recognize, [to_pcm16(wave).tobytes() for wave in waves], chunksize=4)
        return list(tqdm(heard, total=len(waves), desc="listening", unit="sentence"))


@cache
def _decoder():
    from pocketsphinx import Decoder

    return Decoder(samprate=HEARD_RATE, cmn="batch", loglevel="FATAL")


def _recognize(pcm: bytes) -> str:
    if not pcm:
        return ""
    decoder = _decoder()
    decoder.reinit_feat()  # else the utterances before would count
    decoder.start_utt()
    decoder.process_raw(pcm, full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return "" if found is None else found.hypstr


def judged(
    rows: list[dict], teacher: list[np.ndarray], waves: list[np.ndarray], heard: Sequence[list[str]]
) -> dict[str, dict]:
    """Voice, or all together -> the figures of teacher and model."""
    references = {voice: _reference(rows, teacher, voice) for voice in dict.fromkeys(row["speaker"] for row in rows)}
    find = speaker_finder(references, HEARD_RATE)
    nearest = [_nearest(wave, find) for wave in waves]
    found = {}
    for voice in (*references, "all"):
        here = [i for i, row in enumerate(rows) if voice in ("all", row["speaker"])]
        texts = [spoken_words(rows[i]["text"]) for i in here]
        ratios = np.array([len(waves[i]) / len(teacher[i]) for i in here])
        found[voice] = {
            "sentences": len(here),
            **{name: error_rates(texts, [said[i] for i in here]) for name, said in zip(TALKERS, heard, strict=True)},
            "nearest_is_own": float(np.mean([nearest[i][0] == rows[i]["speaker"] for i in here])),
            "similarity": float(np.mean([nearest[i][1].get(rows[i]["speaker"], 0.0) for i in here])),
            "wrong_length": float(np.mean((ratios < SHORT) | (ratios > LONG))),
            "too_short": float(np.mean(ratios < SHORT)),
            "too_long": float(np.mean(ratios > LONG)),
            "length_ratio": float(np.median(ratios)),
        }
    return found


def _reference(rows: list[dict], teacher: list[np.ndarray], voice: str) -> np.ndarray:
    own = np.concatenate([wave for row, wave in zip(rows, teacher, strict=True) if row["speaker"] == voice])
    return own[: round(REFERENCE_SECONDS * HEARD_RATE)]


def _nearest(wave: np.ndarray, find: Callable) -> tuple[str, dict[str, float]]:
    """The voice most like it; none for what holds no voice."""
    try:
        return find(wave)
    except ValueError:
        return "", {}


def error_rates(texts: list[str], heard: list[str]) -> dict[str, float]:
    """Of words and of characters, over all texts together."""
    import jiwer

    return {"wer": float(jiwer.wer(texts, heard)), "cer": float(jiwer.cer(texts, heard))}


def table(results: dict[str, dict]) -> str:
    columns: dict[str, Callable[[dict], str]] = {
        "sentences": lambda one: f"{one['sentences']}",
        **{
            f"{name} {rate.upper()}": lambda one, name=name, rate=rate: f"{one[name][rate]:.3f}"
            for name in TALKERS
            for rate in ("wer", "cer")
        },
        "own voice nearest": lambda one: f"{one['nearest_is_own']:.1%}",
        "similarity": lambda one: f"{one['similarity']:.2f}",
        "wrong length": lambda one: f"{one['wrong_length']:.1%}",
    }
    lines = [f"| voice | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {voice} | {' | '.join(cell(one) for cell in columns.values())} |" for voice, one in results.items()]
    return "\n".join(lines)


def picture(path: Path, text: str, teacher: np.ndarray, model: np.ndarray) -> None:
    """Log-mel spectrograms on one scale of time and level."""
    import matplotlib
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    matplotlib.use("Agg")
    from matplotlib import pyplot

    filters = mel_filter_bank(513, 80, 0.0, HEARD_RATE / 2, HEARD_RATE)
    figure, axes = pyplot.subplots(2, sharex=True, figsize=(8, 4), constrained_layout=True)
    for axis, name, wave in zip(axes, ("flite", "bark_hf"), (teacher, model), strict=True):
        mels = spectrogram(
            wave.astype(np.float64), window_function(1024, "hann"), 1024, 160, power=2.0, mel_filters=filters,
            log_mel="dB", db_range=80.0,
        )  # fmt: skip
        axis.imshow(mels, origin="lower", aspect="auto", extent=(0, len(wave) / HEARD_RATE, 0, 80), cmap="magma")
        axis.set(ylabel="mel band", title=name)
    axes[1].set(xlabel="seconds", xlim=(0, max(len(teacher), len(model)) / HEARD_RATE))
    figure.suptitle(f'"{text}"')
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
