"""The text-to-speech pipeline with a voice and a seed for each text, and batches whose results are trimmed.

Knows nothing of stages: it pairs texts with voices and seeds, and calls the processor and `generate`."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, TextToAudioPipeline

from .generation.inputs import join_turns
from .generation.options import return_sequences
from .sampling import MAX_SEED, row_seeds

_OWN = ("voice_preset", "seed", "voices")


class BarkPipeline(TextToAudioPipeline):
    """`pipe(texts, voice_preset=..., seed=..., batch_size=...)` -> {"audio": (N,) float32, "sampling_rate": 24000}.

    voice_preset and seed: one for all or a list with one for each text; an integer seed gives text i seed + i, so
    a text's result does not depend on the batch size. A chat, a list of {"role": ..., "content": ...}, takes the place
    of a text and becomes one audio of its turns; voices={speaker: voice}, as in `BarkProcessor.chat_turns`, says who
    speaks how, and turn j of a chat with seed s has seed s + j. Built for another model, it is transformers' own."""

    def __new__(cls, *args, model=None, **kwargs):
        model = args[0] if args and model is None else model
        if not hasattr(model, "generate_semantic"):
            kwargs = {name: value for name, value in kwargs.items() if name not in _OWN}
            return TextToAudioPipeline(model=model, **kwargs)
        return super().__new__(cls)

    def __init__(self, *args, voice_preset: Any = None, seed: int | list[int] | None = None, **kwargs):
        names = kwargs.keys() & {"generation_config", *vars(GenerationConfig())}
        generate_kwargs = {name: kwargs.pop(name) for name in names} | (kwargs.pop("generate_kwargs", None) or {})
        super().__init__(*args, generate_kwargs=generate_kwargs, **kwargs)
        if self.processor is None:
            raise ValueError(
                "BarkPipeline needs a processor: pipeline(..., processor=BarkProcessor.from_pretrained(...))."
            )
        self.voice_preset, self.seed = voice_preset, seed

    def __call__(self, text_inputs, *, voice_preset: Any = None, seed: int | list[int] | None = None, **kwargs):
        """text_inputs: a text, a list of texts, or an iterable or dataset of texts (then an iterator of results); or
        chats in place of texts.

        Other keywords: `voices` for chats, `batch_size`, `generate_kwargs` and `forward_params` (for `generate`)."""
        voice_preset = self.voice_preset if voice_preset is None else voice_preset
        seed = self.seed if seed is None else seed
        try:
            iter(text_inputs)  # a dataset need not be an `Iterable`: transformers' KeyDataset has indices alone
        except TypeError:
            raise ValueError(f"Pass a text, a list or another iterable of texts, got {text_inputs!r}.") from None
        alone = isinstance(text_inputs, str) or (
            isinstance(text_inputs, list | tuple) and bool(text_inputs) and isinstance(text_inputs[0], Mapping)
        )
        texts: Any = [text_inputs] if alone else text_inputs
        if not isinstance(texts, list | tuple):
            return super().__call__(_items(texts, voice_preset, seed), **kwargs)
        if not texts:
            raise ValueError("Pass a text or a non-empty list of texts.")
        for name, given in (("voice_preset", voice_preset), ("seed", seed)):
            if isinstance(given, list | tuple) and len(given) != len(texts):
                raise ValueError(f"`{name}` lists {len(given)} for {len(texts)} texts; pass one for each, or one.")
        items = list(_items(texts, voice_preset, seed))
        return super().__call__(items[0] if alone else items, **kwargs)

    def save_pretrained(self, save_directory: str | Path, voice_layout: str = "safetensors", **kwargs) -> None:
        """Writes the model, and the processor with its voices: what `pipeline(..., model=save_directory)` loads.

        Args:
            save_directory: The folder; it is made where it is not there.
            voice_layout: As in `BarkProcessor.save_pretrained`.
            **kwargs: For the model's `save_pretrained` (`max_shard_size`, ...) and `push_to_hub`.
        """
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, voice_layout=voice_layout, **kwargs)

    def _sanitize_parameters(self, voices: Mapping[str, Any] | None = None, **kwargs):
        """As transformers', but a call without options keeps the constructor's."""
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        if voices is not None:
            preprocess = {**preprocess, "voices": voices}
        return preprocess, {name: options for name, options in forward.items() if options}, postprocess

    def preprocess(self, item: dict[str, Any], voices: Mapping[str, Any] | None = None, **kwargs) -> dict[str, Any]:
        """Resolves the voices of a text or a chat's turns; tokenization waits for `_forward`, which has the batch."""
        text, seed = item["text"], item["seed"]
        if not isinstance(text, str):
            turns = [(turn.text, turn.voice) for turn in self.processor.chat_turns(text, voices, seed)]
        elif voices is None:
            turns = [(text, self.processor.voice(self.processor.pick_voice(item["voice"], text, seed)))]
        else:
            raise ValueError("`voices` has those of a chat's speakers; a text's voice is `voice_preset`.")
        seeds = [None] * len(turns) if seed is None else row_seeds(len(turns), seed)
        return {"turns": [(*turn, seed) for turn, seed in zip(turns, seeds, strict=True)], "options": kwargs}

    def _forward(self, batch: dict[str, Any], **kwargs) -> dict[str, Any]:
        alone = isinstance(batch["turns"][0], tuple)
        chats, preprocess = ([batch["turns"]], batch["options"]) if alone else (batch["turns"], batch["options"][0])
        texts, voices, seeds = map(list, zip(*(turn for chat in chats for turn in chat), strict=True))
        inputs = self.processor(texts, voice_preset=voices, **preprocess)
        options = {**kwargs.get("forward_params", {}), **kwargs.get("generate_kwargs", {})}
        if seeds[0] is not None:
            options["seed"] = seeds
        given = options.get("generation_config"), options.get("num_return_sequences")
        if (count := return_sequences(self.model.generation_config, *given)) != 1:
            raise ValueError(
                f"The pipeline gives one result for each text; for {count} samples call `model.generate`."
            )
        out = self.model.generate(**inputs, **{**options, "return_dict_in_generate": True})
        waves = [wave[:length] for wave, length in zip(out.audio, out.audio_lengths.tolist(), strict=True)]
        audio = join_turns(waves, [len(chat) for chat in chats])
        return {"audio": audio[0] if alone else audio}

    def postprocess(self, output: dict[str, Any], **kwargs) -> dict[str, Any]:
        return {"audio": output["audio"].float().cpu().numpy().reshape(-1), "sampling_rate": self.sampling_rate}


def _items(texts: Iterable[Any], voice_preset: Any, seed: int | list[int] | None) -> Iterator[dict[str, Any]]:
    return (_item(text, i, voice_preset, seed) for i, text in enumerate(texts))


def _item(text: Any, i: int, voice_preset: Any, seed: int | list[int] | None) -> dict[str, Any]:
    if not isinstance(text, str | list | tuple):
        raise ValueError(f"Text {i} is {type(text).__name__}, not a text or a chat (a list of messages).")
    for name, given in (("voice_preset", voice_preset), ("seed", seed)):
        if isinstance(given, list | tuple) and i >= len(given):
            raise ValueError(f"`{name}` lists {len(given)}, too few for the texts; pass one for each, or one.")
    voice = voice_preset[i] if isinstance(voice_preset, list | tuple) else voice_preset
    if voice is not None and not isinstance(text, str):
        raise ValueError("Each speaker of a chat has a voice: pass voices={speaker: voice}, not `voice_preset`.")
    if isinstance(seed, list | tuple):
        (seed,) = row_seeds(1, [seed[i]])
    elif seed is not None:
        seed = (row_seeds(1, seed)[0] + i) % (MAX_SEED + 1)
    return {"text": text, "voice": voice, "seed": seed}
