"""`bark-hf`: speak, list and clone voices, convert and train checkpoints, measure speed. Parses, calls, prints.

Results go to files or stdout, talk goes to stderr; errors are one sentence and a non-zero exit code."""

import re
import sys
import warnings
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..version import __version__
from .loading import BUNDLED, FULL_MODEL, Dtype, folder_of, from_checkpoint, load, need_folder
from .terminal import BenchBar, ChunkBar, StageBars, say, stderr

app = typer.Typer(
    name="bark-hf",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Bark, text to audio: speech, music, laughter, 13 languages.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"bark-hf {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


Model = Annotated[str, typer.Option("--model", "-m", help="A hub id, a folder, or nano, the bundled one.")]


class Mode(str, Enum):
    fixed = "fixed"
    rolling = "rolling"
    anchored = "anchored"


class Bits(str, Enum):
    sixteen = "16"
    twentyfour = "24"
    floating = "float"


LONG_ONLY = ("cast", "mode", "language", "resume", "best_of", "retries", "guard", "batch_size")  # options of `speak`
VOICE_FILES = (".npz", ".safetensors")


@app.command(
    epilog="""**Examples**

`bark-hf speak "Hello, my dog is cute. [laughs]" --model suno/bark-small --voice v2/en_speaker_6 -o hello.wav`

`echo "Read this." | bark-hf speak - -o - --stream | ffplay -nodisp -autoexit -`

`bark-hf speak --file book.txt --voice en_speaker_rms --resume book.parts --captions book.srt -o book.mp3`"""
)
def speak(
    context: typer.Context,
    text: Annotated[str | None, typer.Argument(help="What to say; `-` reads it from stdin.")] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", help="WAV, FLAC, MP3, OGG, Opus, .pcm; `-` is stdout.")
    ] = "speech.wav",
    voice: Annotated[str | None, typer.Option("--voice", "-v", help="A preset, auto, random or a voice file.")] = None,
    model: Model = BUNDLED,
    seed: Annotated[int | None, typer.Option(help="Repeats a result; without it every run differs.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, ...; by default cuda, else cpu.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Of the stages; auto: as on disk, nano in float32.")] = Dtype.auto,
    temperature: Annotated[float | None, typer.Option(help="Of semantic and coarse stage; Suno's is 0.7.")] = None,
    fine_temperature: Annotated[float | None, typer.Option(help="Of the fine stage; Suno's is 0.5.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest ids only.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest ids of this mass only.")] = None,
    min_eos_p: Annotated[float | None, typer.Option(help="End where p(end) reaches this; Suno's is 0.2.")] = None,
    max_duration: Annotated[float | None, typer.Option(help="Seconds at most; Suno's end at 15, nano at 8.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Int8 blocks, the fastest on a CPU; other ids.")] = False,
    save_voice: Annotated[Path | None, typer.Option(help="Save the result as a voice, .npz or .safetensors.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="To stdout piece by piece, the first soon.")] = False,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="A text or script of any length.")] = None,
    long: Annotated[bool, typer.Option("--long", help="The text may be of any length, as with --file.")] = False,
    cast: Annotated[list[str] | None, typer.Option(help="NAME=VOICE of a speaker, a preset or a file.")] = None,
    mode: Annotated[Mode, typer.Option(help="How a long text's chunks hang together.")] = Mode.fixed,
    language: Annotated[str | None, typer.Option(help="Of a long text: en, de, ...; by default found out.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Keep finished chunks in this folder, and go on there.")] = None,
    best_of: Annotated[int, typer.Option(help="Make each chunk so often and keep the best.")] = 1,
    retries: Annotated[int, typer.Option(help="Redo a chunk that went off its text so often at most.")] = 2,
    guard: Annotated[bool, typer.Option(help="Look whether a long text's chunks went well.")] = True,
    batch_size: Annotated[int, typer.Option(help="Chunks that are made together.")] = 8,
    captions: Annotated[Path | None, typer.Option(help="Word times as .srt, .vtt or .json.")] = None,
    report: Annotated[Path | None, typer.Option(help="What was made, chunk by chunk, as .json.")] = None,
    rate: Annotated[int | None, typer.Option(help="Hz, 8000 to 96000; by default the model's.")] = None,
    bits: Annotated[Bits | None, typer.Option(help="Of WAV, FLAC and .pcm; 16 by default.")] = None,
    loudness: Annotated[float | None, typer.Option(help="LUFS, such as -16; peaks stay below -1 dBTP.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Samples alone to stdout, 16 bits, little endian.")] = False,
    no_metadata: Annotated[bool, typer.Option("--no-metadata", help="Note no model, voice or seed there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no closing line.")] = False,
) -> None:
    """Text to a mono audio file, which notes model, voice and seed.

    `--voice auto` picks a preset of the text's language, `--voice random` any preset, by the seed. Texts beyond what a
    model says at once, 13 seconds (nano 6), go with `--file` or `--long`: sentence by sentence, in one voice, each
    checked and redone where it failed.
    A script may hold `[pause:1.5s]`, `[voice:NAME]`, and, with `--cast`, lines such as `NAME: words`."""
    from ..longform.script import read_script
    from ..models.bundled import NANO_VOICE
    from .speaking import Target, metadata_of, speak_all, speak_one, stream_one

    source = text if file is None else file
    if source is None or None not in (text, file):
        raise typer.BadParameter("Give a text, or a file with --file; not both.")
    is_long = file is not None or long
    if stream and (is_long or output != "-"):
        raise ValueError("--stream is for one text to stdout: -o -. Texts of any length stream there by themselves.")
    if stream and not (save_voice is captions is report is None):
        raise ValueError("--stream keeps nothing: leave it out for --save-voice, --captions or --report.")
    if is_long and save_voice is not None:
        raise ValueError("--save-voice is for one text; speak one sentence with it, and the long text with --voice.")
    roles = _cast(cast or [])
    if not is_long and (given := [name for name in LONG_ONLY if _is_given(context, name)]):
        raise ValueError(f"--{given[0].replace('_', '-')} is for texts of any length: add --long, or name a --file.")
    depth = None if bits is None else "float" if bits is Bits.floating else int(bits.value)
    target = Target(output, rate, depth, loudness, raw, captions, report, not no_metadata)
    target.check()
    options = {
        "temperature": temperature,
        "fine_temperature": fine_temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_eos_p": min_eos_p,
        "max_duration": max_duration,
    }
    options = {name: value for name, value in options.items() if value is not None}
    if save_voice is not None:
        need_folder(save_voice)
        if save_voice.suffix not in VOICE_FILES:
            raise ValueError(f"--save-voice needs a name that ends in .npz or .safetensors, not {save_voice.name}.")
    if source == "-":
        source = sys.stdin.read()
    lines = read_script(source, roles) if is_long else []
    if not _is_given(context, "model") and not quiet:
        say(f"with the bundled model, small and English only; the full one: --model {FULL_MODEL}")
    if model == BUNDLED and voice is None:
        voice = NANO_VOICE
    bark, processor = load(model, device, dtype, quiet)
    if int8:
        bark.quantize_int8()
    name = Path(model).resolve().name if Path(model).is_dir() else model
    if is_long:
        with ChunkBar(quiet) as bar:
            said = speak_all(
                bark, processor, lines, _voice(voice, processor), seed, name, target,
                mode=mode.value, language=language, resume_folder=resume, best_of=best_of, retries=retries,
                guard=guard, batch_size=batch_size, progress=bar.put, **options,
            )  # fmt: skip
    else:
        from ..sampling import row_seeds

        (own,) = row_seeds(1, seed)
        preset = processor.pick_voice(_voice(voice, processor), source, own)
        history = processor.voice(preset)
        by = f", seed {own}" + (f", voice {preset}" if preset is not None else "")
        if stream:
            said = stream_one(bark, processor, str(source), history, own, name, target, **options) + by
        else:
            with StageBars() as bars:
                shown = {"progress": None if quiet else bars.put}
                out, said = speak_one(bark, processor, str(source), history, own, name, target, **options, **shown)
            said += by
            if save_voice is not None:
                out.voice(0).save(save_voice, None if no_metadata else metadata_of(name, history, own))
    if not quiet:
        say(f"{'stdout' if output == '-' else output}: {said}")


@app.command(
    epilog="""**Examples**

`bark-hf voices --model suno/bark-small | grep en_`

`bark-hf voices mine.safetensors`"""
)
def voices(
    bank: Annotated[Path | None, typer.Argument(help="A bank of voices, instead of a checkpoint.")] = None,
    model: Model = BUNDLED,
    names_only: Annotated[bool, typer.Option(help="Names alone, without fetching voices from a hub.")] = False,
) -> None:
    """The voices of a checkpoint or of a bank file: name, language, seconds."""
    from ..voices.languages import preset_language
    from ..voices.presets import VoicePresets

    presets = VoicePresets.load(bank) if bank is not None else from_checkpoint(VoicePresets, folder_of(model))
    if not len(presets):
        say(f"{model} holds no voice presets")
        return
    if names_only:
        print("\n".join(presets))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("voice", "language", "seconds"):
        table.add_column(column, justify="right" if column == "seconds" else "left")
    for name in presets:
        table.add_row(name, preset_language(name), f"{presets.seconds(name):.1f}")
    Console().print(table)


@app.command(
    epilog="""**Examples**

`bark-hf clone me.wav -o me.npz --tokenizer semantic-tokenizer --model suno/bark-small`

`bark-hf clone anna.mp3 ben.flac -o both.safetensors --tokenizer semantic-tokenizer`"""
)
def clone(
    recordings: Annotated[list[Path], typer.Argument(help="WAV, FLAC, MP3 or OGG, one voice each.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .npz or .safetensors; a bank for several voices.")],
    tokenizer: Annotated[
        str,
        typer.Option(help="A folder or hub id; `python conversion/convert_semantic_tokenizer.py --help` makes one."),
    ],
    model: Model = FULL_MODEL,
) -> None:
    """Recordings to voices of a model, for `bark-hf speak --model` with `--voice`; clone only people who agreed to it.

    Best are 4 to 12 seconds of one person in a quiet room that end after a sentence. Several recordings become one
    bank, a `.safetensors` with voices named as the files are."""
    from transformers.utils import logging

    from ..cloning.clone import encode_voice
    from ..cloning.modeling_semantic_tokenizer import BarkSemanticTokenizer
    from ..codec.encodec import BarkCodec
    from ..configuration_bark import BarkConfig
    from ..files.atomic import whole_file
    from ..generation_configuration_bark import BarkGenerationConfig
    from ..voices.presets import VoicePresets

    names = _voice_names(recordings, output)
    prepared = [_prepared(path) for path in recordings]
    logging.disable_progress_bar()
    encoder = from_checkpoint(BarkSemanticTokenizer, tokenizer, BarkSemanticTokenizer.config_class.model_type).eval()
    folder = folder_of(model)
    config = from_checkpoint(BarkConfig, folder, BarkConfig.model_type).codec_config
    codec = from_checkpoint(BarkCodec, folder, config=config, key_mapping={r"^codec_model\.": ""}).eval()
    constants = from_checkpoint(BarkGenerationConfig, folder)
    voices = {
        name: encode_voice(samples, rate, encoder, codec, constants)
        for name, (samples, rate) in zip(names, prepared, strict=True)
    }
    if len(voices) > 1:
        VoicePresets(voices).save(output)
    else:
        with whole_file(output) as beside:
            voices[names[0]].save(beside)
    made = ", ".join(f"{name} ({voice.seconds:.1f} s)" for name, voice in voices.items())
    say(f"{output}: {made}; for --model {model}")


@app.command(
    epilog="""**Example**

`bark-hf convert --text text_2.pt --coarse coarse_2.pt --fine fine_2.pt --codec encodec_24khz-d7cc33bc.th
--tokenizer google-bert/bert-base-multilingual-cased --voices presets --output bark-large --dtype float16 --verify`"""
)
def convert(
    text: Annotated[Path, typer.Option(help="The original's text checkpoint, text.pt or text_2.pt.")],
    coarse: Annotated[Path, typer.Option(help="coarse.pt or coarse_2.pt.")],
    fine: Annotated[Path, typer.Option(help="fine.pt or fine_2.pt.")],
    codec: Annotated[Path, typer.Option(help="EnCodec's 24 kHz state dict (.th).")],
    tokenizer: Annotated[str, typer.Option(help="A vocab.txt (read cased), a folder or a hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write; it must not exist.")],
    voices: Annotated[Path | None, typer.Option(help="A folder of .npz voices; their paths become names.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Of the stages' weights; auto is float32.")] = Dtype.float32,
    generation_config: Annotated[Path | None, typer.Option(help="JSON of id constants that are not Suno's.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare the logits of source and result.")] = False,
    max_shard_size: Annotated[str, typer.Option(help="Of one weights file.")] = "5GB",
    with_code: Annotated[bool, typer.Option("--with-code", help="Add the code, for trust_remote_code=True.")] = False,
) -> None:
    """The original's checkpoints to a folder in hub layout (safetensors)."""
    import torch
    from transformers.utils import logging

    from ..convert import convert_checkpoint
    from ..hub.remote_code import add_remote_code

    logging.disable_progress_bar()
    convert_checkpoint(
        text=text,
        coarse=coarse,
        fine=fine,
        codec=codec,
        tokenizer=tokenizer,
        output=output,
        voices=voices,
        dtype=torch.float32 if dtype is Dtype.auto else getattr(torch, dtype.value),
        generation_config=generation_config,
        verify=verify,
        max_shard_size=max_shard_size,
        report=say,
    )
    if with_code:
        say(f"added {', '.join(add_remote_code(output))}")


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(context: typer.Context) -> None:
    """Train stages on recordings with texts, whole or by LoRA; `bark-hf train --help` lists all options."""
    try:
        from ..training.run import main as run
    except ImportError as error:
        raise ValueError(f'Training needs {error.name}: pip install "bark-hf[train]".') from error
    result = run(context.args)
    say(f"trained: {result}; try `bark-hf speak --model {result} ...`")


@app.command(
    epilog="""**Examples**

`bark-hf bench --model suno/bark-small --dtype bfloat16 --output mine.json`

`bark-hf bench --size tiny --seconds 2 --engine bark_hf,transformers --batch 1,8`"""
)
def bench(
    model: Annotated[str | None, typer.Option("--model", "-m", help="A checkpoint; else random weights.")] = None,
    size: Annotated[str, typer.Option(help="Of random weights: tiny, small, large or LAYERSxHEADSxWIDTH.")] = "small",
    engine: Annotated[str, typer.Option(help="bark_hf, transformers, suno; by default all that fit.")] = "",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16, int8.")] = "float32,bfloat16",
    batch: Annotated[str, typer.Option(help="Batch sizes.")] = "1",
    seconds: Annotated[float, typer.Option(help="Of audio, 15.4 at most.")] = 10.0,
    rounds: Annotated[int, typer.Option(help="Of all engines in turn; medians are shown.")] = 3,
    threads: Annotated[int | None, typer.Option(help="By default one for each core.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; by default cuda, else cpu.")] = None,
    warm_up: Annotated[str, typer.Option(help="few (ids) or whole (a round); by default whole on cuda.")] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the JSON here, pretty.")] = None,
) -> None:
    """Speed of this port, of transformers' Bark and of the original, on this machine; lists take commas.

    Tables go to stderr, one line of JSON to stdout."""
    import json

    import torch
    from transformers.utils import logging

    from .. import bench as benchmark
    from ..bench.machine import cores
    from ..configuration_bark import BarkConfig

    logging.disable_progress_bar()
    if model is not None:
        model = folder_of(model)
        from_checkpoint(BarkConfig, model)  # or a sentence, before anything starts
    if output is not None:
        need_folder(output)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    options = benchmark.Options(
        size=size,
        model=model,
        engines=_listed(engine) or ("bark_hf", "transformers", *(() if model else ("suno",))),
        dtypes=_listed(dtype),
        batches=_listed_numbers("batch", batch),
        seconds=seconds,
        rounds=rounds,
        threads=cores() if threads is None else threads,
        device=device,
        warm_up=warm_up or ("whole" if device.startswith("cuda") else "few"),
    )
    with BenchBar() as bar:
        result = benchmark.run(options, bar.report)
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    Console(stderr=True, width=max(stderr.width, 112)).print(benchmark.table(result), highlight=False)
    print(json.dumps(result))


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.replace(",", " ").split())


def _listed_numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _listed(text))
    except ValueError:
        raise ValueError(f"--{name} takes whole numbers with commas, like 1,8; got {text!r}.") from None


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _voice(voice: str | None, processor):
    """A preset's name wins; what ends like a voice file is a path."""
    if voice is not None and voice not in processor.voices and voice.endswith(VOICE_FILES):
        return Path(voice)
    return voice


def _cast(pairs: list[str]) -> dict[str, Any]:
    """`NAME=VOICE` of each speaker: a preset's name, or the voice itself where it is a file."""
    from ..voices.voice import Voice

    roles = dict(pair.partition("=")[::2] for pair in pairs)
    if wrong := [pair for pair in pairs if "=" not in pair or not all(pair.partition("=")[::2])]:
        raise ValueError(f"--cast takes NAME=VOICE, such as Anna=v2/en_speaker_9; got {wrong[0]!r}.")
    return {name: Voice.load(voice) if voice.endswith(VOICE_FILES) else voice for name, voice in roles.items()}


def _voice_names(recordings: list[Path], output: Path) -> list[str]:
    """Names from the recordings' own, after a check that the output can hold as many."""
    need_folder(output)
    if output.suffix not in VOICE_FILES:
        raise ValueError(f"A voice is saved as .npz or .safetensors; --output is {output.name}.")
    if len(recordings) > 1 and output.suffix != ".safetensors":
        raise ValueError(f"Several voices are saved as one .safetensors; --output is {output.name}.")
    names = [re.sub(r"[^\w.\-]+", "_", path.stem) for path in recordings]
    if len(set(names)) < len(names):
        raise ValueError(f"The recordings name the voices, so no two may be alike: {', '.join(names)}.")
    return names


def _prepared(path: Path):
    """What of a recording is cloned, and its rate; says on stderr how it is."""
    from ..audio.files import read_audio
    from ..cloning.clone import READ_SECONDS, prepare_reference

    audio, rate = read_audio(path, READ_SECONDS)
    try:
        samples, report = prepare_reference(audio, rate)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    say(
        f"{path}: {report.seconds_kept:.1f} of {report.seconds_given:.1f} s kept, speech at {report.level:.0f} dBFS, "
        f"noise floor at {report.noise_floor:.0f} dBFS, {report.clipped:.1%} clipped"
    )
    for sentence in report.advice:
        say(f"  {sentence}")
    return samples, rate


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; exits 0, 1 (an error, said in a sentence), 2 (usage) or 130 (interrupted)."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *rest, **more: say(f"warning: {message}")
        try:
            app(args=arguments, standalone_mode=True)
        except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
            say(f"error: {error}")
            sys.exit(1)
