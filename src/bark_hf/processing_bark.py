"""Texts and voices in, model inputs out: BERT tokenization, and a voice for each text by name, language or draw.

Knows nothing of networks or of voice files. What it gives the model is plain mappings of arrays."""

import difflib
import inspect
import random
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoTokenizer, BatchEncoding, BatchFeature
from transformers.processing_utils import ProcessorMixin

from .generation.chats import choose_presets, read_chat
from .sampling import row_seeds
from .voices.languages import preset_language, text_language
from .voices.presets import BANK, HUB_KEYWORDS, INDEX, SAMPLE_RATE, VoicePresets, model_sample_rate, save_npy
from .voices.voice import KEYS, Voice

_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_BERT = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "clean_up_tokenization_spaces")
_TOKENIZER_KEYWORDS = (*_TOKENS, "extra_special_tokens", "model_max_length", "split_special_tokens", *_BERT)
# keywords that callers of transformers pass, and the values that change nothing here
_SIDES: dict[str, tuple] = {"padding_side": ("right", None), "truncation_side": ("right", None)}
_HARMLESS_AT_CALL = {
    **_SIDES,
    "truncation": (True, None, "longest_first", "only_first"),
    "text_kwargs": ({}, None),
    "common_kwargs": ({}, None),
}
_HARMLESS_IN_CHATS: dict[str, tuple] = {
    "chat_template": (None,),
    "tools": (None, []),
    "documents": (None, []),
    "add_generation_prompt": (True, False),
    "continue_final_message": (False,),
    "return_assistant_tokens_mask": (False,),
    "load_audio_from_video": (False,),
    "sanitize_control_tokens": (True, False),
}
_HARMLESS_AT_LOAD = {**_SIDES, "use_fast": (True, None)}


class Turn(NamedTuple):
    """What a speaker says at a time in a chat."""

    speaker: str
    text: str
    voice: Voice | None


class _Voices(list):
    """For each text a voice's arrays or None."""

    def to(self, *args, **kwargs) -> "_Voices":
        """The same with all tensors moved, as `BatchFeature.to` does for one voice."""
        return _Voices(voice if voice is None else voice.to(*args, **kwargs) for voice in self)


class BarkProcessor(ProcessorMixin):
    """Wraps a BERT tokenizer and a checkpoint's voice presets."""

    attributes = ["tokenizer"]
    tokenizer_class = "AutoTokenizer"

    def __init__(self, tokenizer, voices: Mapping[str, Any] | None = None):
        """tokenizer: `bert-base-multilingual-cased` for Bark. voices: name -> voice, or `VoicePresets`."""
        super().__init__(tokenizer)
        self.voices: VoicePresets = voices if isinstance(voices, VoicePresets) else VoicePresets(voices)
        self.sampling_rate = SAMPLE_RATE  # Hz, for `save_audio`; `from_pretrained` takes the checkpoint's

    @classmethod
    def from_pretrained(
        cls,
        pretrained_processor_name_or_path: str | Path,
        speaker_embeddings_dict_path: str | None = INDEX,
        **kwargs,
    ) -> "BarkProcessor":
        """Loads a processor from a folder or hub id, ours or one in transformers' layout.

        Args:
            pretrained_processor_name_or_path: the folder or hub id.
            speaker_embeddings_dict_path: None loads no voices. Other names than the default are refused.
            kwargs: of the hub (`revision`, `token`, `cache_dir`, ...), and settings of the tokenizer: its special
                tokens (`bos_token`, ...), `extra_special_tokens`, `model_max_length`, `split_special_tokens`, and
                those of BERT (`do_lower_case`, ...).

        Raises:
            TypeError: for a keyword that nothing reads.
            ValueError: for a setting that Bark cannot have, such as `padding_side="left"`, and for files that cannot
                be read.
            OSError: for files that are missing or cannot be fetched.
        """
        source = pretrained_processor_name_or_path
        if speaker_embeddings_dict_path not in (INDEX, None):
            raise ValueError(f"Voices are read from {BANK} and {INDEX} only, not {speaker_embeddings_dict_path!r}.")
        hub_names = (*HUB_KEYWORDS, "trust_remote_code", "code_revision")
        if "_from_pipeline" not in kwargs:  # a pipeline passes the model's keywords to all that it loads
            # those with an underscore come from transformers' Auto classes
            named = {name: value for name, value in kwargs.items() if not name.startswith("_")}
            _refuse_unknown(named, (*hub_names, *_TOKENIZER_KEYWORDS), _HARMLESS_AT_LOAD)
        hub = {name: kwargs[name] for name in hub_names if name in kwargs}
        settings = {name: kwargs[name] for name in _TOKENIZER_KEYWORDS if name in kwargs}
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, **hub, **settings)
        except (OSError, ImportError):
            raise
        except Exception as error:  # a config's own, or the tokenizer library's, which has no class of its own
            raise ValueError(f"The tokenizer of {source} cannot be read: {error.__cause__ or error}") from error
        voices = None if speaker_embeddings_dict_path is None else VoicePresets.from_pretrained(source, **hub)
        processor = cls(tokenizer, voices)
        processor.sampling_rate = model_sample_rate(source, **hub)
        return processor

    def save_pretrained(
        self, save_directory: str | Path, push_to_hub: bool = False, voice_layout: str = "safetensors", **kwargs
    ) -> list[str]:
        """Writes tokenizer and voices; returns the paths that transformers' own processors return.

        voice_layout: "safetensors" (one file) or "npy" (transformers' layout).

        Files of the folder that list other voices go: what is saved is what is loaded. Raises ValueError for another
        layout, for "npy" with `push_to_hub`, and for voices that "npy" cannot hold (rates not Bark's)."""
        if voice_layout not in ("safetensors", "npy"):
            raise ValueError(f'`voice_layout` must be "safetensors" or "npy", got {voice_layout!r}.')
        if push_to_hub and voice_layout == "npy":
            raise ValueError(
                '`push_to_hub` publishes voice_layout="safetensors" only. Save "npy" in a folder, then '
                "huggingface_hub.upload_folder."
            )
        folder = Path(save_directory)
        written = super().save_pretrained(folder)
        files = {"safetensors": folder / BANK, "npy": folder / INDEX}
        if len(self.voices) and voice_layout == "safetensors":
            self.voices.save(files.pop(voice_layout))
        elif len(self.voices):
            save_npy(self.voices, files.pop(voice_layout))
        for stale in files.values():
            stale.unlink(missing_ok=True)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)
        return written

    @property
    def available_voice_presets(self) -> list[str]:
        return list(self.voices)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "history_prompt"]

    def add_voice(self, name: str, voice: Any) -> None:
        """Makes a voice known by a name, for `voice_preset=` and `save_pretrained`."""
        self.voices.add(name, voice)

    def voice(self, preset: Any) -> Voice | None:
        """A preset's name, a Voice, a mapping of arrays or a Path -> the voice. A name is never taken for a path.

        A mapping has the rates of the checkpoint that the processor came from, Bark's where it came from none."""
        if preset is None:
            return None
        if isinstance(preset, Path):
            return Voice.load(preset)
        if not isinstance(preset, str):
            return Voice.of(preset, self.voices.rates)
        if preset in self.voices:
            return self.voices[preset]
        near = difflib.get_close_matches(preset, list(self.voices), 3)
        names = near or sorted(self.voices)[:20]
        if names:
            choice = f"one of the {len(self.voices)} presets, for example {', '.join(names)}"
        else:
            choice = "a voice of your own (this checkpoint has no presets)"
        raise ValueError(f"Unknown voice {preset!r}. Pass {choice}; or Voice.load(path), or a pathlib.Path.")

    def pick_voice(self, preset: Any, text: str, seed: int | None = None) -> Any:
        """The preset that `preset` stands for: "auto" the first one of the text's language (those under `v2/` before
        others), "random" any, drawn from `seed` or torch's global generator; anything else stands for itself.

        "auto" gives None, no voice, and warns where py3langid is missing, the text is too short to tell, or no preset
        has its language: Bark then makes up a voice. A preset that is itself named "auto" or "random" wins."""
        if not self._picks(preset):
            return preset
        if preset == "random":
            if not len(self.voices):
                raise ValueError('voice_preset="random" draws from the presets, and this checkpoint has none.')
            (seed,) = row_seeds(1, seed)
            return list(self.voices)[int(random.Random(seed).random() * len(self.voices))]
        try:
            language = text_language(text)
        except ImportError as error:
            reason = str(error)
        else:
            names = [name for name in self.voices if language and preset_language(name) == language]
            if names:
                return min(names, key=lambda name: (not name.startswith("v2/"), name))
            reason = f"No preset speaks {language!r}." if language else f"Which language is {text!r:.60}? Too short."
        warnings.warn(f'{reason} voice_preset="auto" speaks without a voice.', stacklevel=2)
        return None

    def __call__(
        self,
        text: str | list[str] | None = None,
        voice_preset: Any = None,
        return_tensors: str = "pt",
        max_length: int = 256,
        add_special_tokens: bool = False,
        return_attention_mask: bool = True,
        return_token_type_ids: bool = False,
        padding: str | bool = "max_length",
        voice_seed: int | list[int] | None = None,
        **kwargs,
    ) -> BatchEncoding:
        """Makes the model's inputs of texts and voices.

        White space is folded; what exceeds `max_length` ids is cut, with a warning. Of other keywords of tokenizers
        only those are accepted that change nothing here, such as `truncation=True`.

        Args:
            text: a text or a list of them.
            voice_preset: a preset's name, a `Voice`, a mapping of its arrays or a `Path`; "auto" or "random" pick a
                preset for each text (`pick_voice`). One for all texts, or a list with one or None for each.
            return_tensors: "pt" or "np".
            max_length: the most ids of a text, 256 for Bark.
            add_special_tokens: puts [CLS] and [SEP] around a text, which Bark was trained without.
            return_attention_mask: False leaves the mask out; `generate` then takes trailing zeros as padding.
            return_token_type_ids: adds zeros in the shape of the ids, which `generate` ignores.
            padding: "max_length", or "longest" (True) for the longest text's number of ids.
            voice_seed: repeats what "random" picks: text i uses voice_seed + i, or its own seed in a list.

        Returns:
            input_ids (B, max_length), attention_mask (B, max_length) and, with voices, history_prompt: a mapping of
            a voice's arrays, or a list of such mappings and None. `.to(device)` moves all of it.

        Raises:
            TypeError: for an unknown keyword.
            ValueError: for empty texts, unknown voices, files that are no voices, and values that Bark cannot honor.
        """
        _refuse_unknown(kwargs, inspect.signature(self.__call__).parameters.keys() - {"kwargs"}, _HARMLESS_AT_CALL)
        texts = _clean(text)
        if return_tensors not in ("pt", "np"):
            raise ValueError(f'`return_tensors` must be "pt" or "np", got {return_tensors!r}.')
        if padding not in ("max_length", "longest", True):
            raise ValueError(f'`padding` must be "max_length" or "longest" (True), got {padding!r}.')
        voices = self._history(voice_preset, texts, voice_seed, return_tensors)
        encoded = self.tokenizer(texts, add_special_tokens=add_special_tokens)
        pad = self.tokenizer.pad_token_id or 0
        width = max_length if padding == "max_length" else min(max_length, max(map(len, encoded["input_ids"])))
        ids = np.full((len(texts), width), pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, one in enumerate(encoded["input_ids"]):
            if not one:
                raise ValueError(f"Text {row} ({texts[row]!r}) has nothing that the tokenizer knows.")
            if len(one) > max_length:
                share = round(100 * (1 - max_length / len(one)))
                warnings.warn(
                    f"Text {row} has {len(one)} ids, the model reads {max_length}: {share}% are cut, from "
                    f"{self.tokenizer.decode(one[max_length : max_length + 12])!r} on.",
                    stacklevel=2,
                )
            ids[row, : len(one)] = one[:max_length]
            mask[row, : len(one)] = 1
        data: dict[str, Any] = {"input_ids": ids}
        if return_attention_mask:
            data["attention_mask"] = mask
        if return_token_type_ids:
            data["token_type_ids"] = np.zeros_like(ids)
        if return_tensors == "pt":
            data = {name: torch.from_numpy(array) for name, array in data.items()}
        if voices is not None:
            data["history_prompt"] = voices
        return BatchEncoding(data)

    def chat_turns(
        self,
        conversation: list[dict[str, Any]],
        voices: Mapping[str, Any] | None = None,
        voice_seed: int | None = None,
    ) -> list[Turn]:
        """Reads from a chat who says what in which voice, a turn for each message.

        A message is {"role": ..., "content": ...} and may have a "name"; its speaker is the name, else the role. A
        speaker's voice is what `voices` has for the name or the role, else the preset that is called like one of them.
        Without `voices`, each speaker who is still without a voice gets a preset that nobody else in the chat has,
        first those of the chat's language (English where it is not known, for want of py3langid or of text).

        Args:
            conversation: the chat's messages; a content is a text or a list of {"type": "text", "text": ...}.
            voices: speakers -> what `voice_preset` takes; None is no voice.
            voice_seed: repeats what "random" picks.

        Raises:
            ValueError: for what is no chat, for speakers without a voice, and for a system message that has none.
        """
        messages = read_chat(conversation)
        presets = choose_presets(messages, voices, self.voices)
        chosen: dict[tuple[str, ...], Voice | None] = {}
        for message in messages:
            if message.names not in chosen:
                seed = None if voice_seed is None else voice_seed + len(chosen)
                chosen[message.names] = self.voice(self.pick_voice(presets[message.names], message.text, seed))
        return [Turn(message.names[0], message.text, chosen[message.names]) for message in messages]

    def apply_chat_template(
        self,
        conversation: list[dict[str, Any]] | list[list[dict[str, Any]]],
        *,
        voices: Mapping[str, Any] | None = None,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str = "pt",
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs,
    ) -> Any:
        """Makes the model's inputs of a chat, or of a list of chats, whose speakers have voices as in `chat_turns`.

        `model.generate(**processor.apply_chat_template(chat, tokenize=True, return_dict=True))` speaks a dialogue: one
        audio for each chat, its turns joined in order.

        Args:
            conversation: messages, or a list of such lists.
            voices: speakers -> voices, as in `chat_turns`.
            tokenize: False gives the chat as a text, a line `speaker: text` for each message.
            return_dict: with `tokenize`, False gives input_ids alone.
            return_tensors: "pt" or "np".
            processor_kwargs: keywords of `__call__`, such as `max_length`; they may also be passed directly.
            kwargs: of other keywords of transformers' method only those are accepted that change nothing here.

        Returns:
            input_ids and attention_mask (B, T, max_length), where T is the longest chat's number of turns and turns
            without ids pad the others, and history_prompt, a list with a voice or None for each turn; or a text, or a
            list of texts for a list of chats.

        Raises:
            ValueError, TypeError: as `chat_turns` and `__call__` do.
        """
        is_one = bool(conversation) and isinstance(conversation[0], Mapping)
        chats: list[Any] = [conversation] if is_one else list(conversation)
        if not chats:
            raise ValueError("Pass a chat, a non-empty list of messages, or a list of chats.")
        keywords = {**kwargs, **(processor_kwargs or {})}
        harmless = {name: keywords.pop(name) for name in _HARMLESS_IN_CHATS if name in keywords}
        _refuse_unknown(harmless, (), _HARMLESS_IN_CHATS)
        if keywords.pop("voice_preset", None) is not None:
            raise ValueError("Each speaker of a chat has a voice: pass voices={speaker: voice}, not `voice_preset`.")
        if not tokenize:
            texts = ["\n".join(f"{one.names[0]}: {one.text}" for one in read_chat(chat)) for chat in chats]
            return texts[0] if is_one else texts
        turns = [self.chat_turns(chat, voices, keywords.get("voice_seed")) for chat in chats]
        inputs = self(
            [turn.text for chat in turns for turn in chat],
            voice_preset=[turn.voice for chat in turns for turn in chat],
            return_tensors="pt" if return_tensors == "auto" else return_tensors,
            **keywords,
        )
        history = inputs.pop("history_prompt", _Voices(None for chat in turns for _ in chat))
        for name in list(inputs):
            inputs[name] = _by_chat(inputs[name], [len(chat) for chat in turns])
        inputs["history_prompt"] = history
        return inputs if return_dict else inputs["input_ids"]

    def save_audio(
        self,
        audio: Any,
        saving_path: str | Path | list[str | Path],
        sampling_rate: int | None = None,
        audio_lengths: Any = None,
    ) -> None:
        """Writes generated speech to mono audio files, in the format that each path's ending names.

        Args:
            audio: samples (N,) or (B, N), a list of (N,), each a tensor or an array; or what `generate` gives with
                `return_dict_in_generate=True`, or a pipeline's result: their lengths and rate are used.
            saving_path: a path, or a list with one for each row.
            sampling_rate: in Hz; None takes the result's, else the checkpoint's.
            audio_lengths: (B,) samples of each row, as `return_output_lengths=True` gives them; what follows in a row
                is padding. None writes rows as they are.

        Raises:
            ValueError: for what is no audio, for another number of paths or lengths than of rows, and for what the
                format cannot hold.
        """
        if isinstance(audio, Mapping) and "audio" in audio:
            sampling_rate = audio.get("sampling_rate") if sampling_rate is None else sampling_rate
            audio_lengths = audio.get("audio_lengths") if audio_lengths is None else audio_lengths
            audio = audio["audio"]
        rows = _rows(audio)
        paths = [saving_path] if isinstance(saving_path, str | Path) else list(saving_path)
        lengths = [len(row) for row in rows] if audio_lengths is None else [int(length) for length in audio_lengths]
        if not len(rows) == len(paths) == len(lengths):
            raise ValueError(
                f"Pass a path and, if any, a length for each audio; got {len(rows)} audios, {len(paths)} paths and "
                f"{len(lengths)} lengths."
            )
        write = _audio_writer()
        for row, path, length in zip(rows, paths, lengths, strict=True):
            write(path, row[:length], self.sampling_rate if sampling_rate is None else sampling_rate)

    def to_dict(self) -> dict[str, Any]:
        """What `processor_config.json` holds; voices have a file of their own."""
        own = {"processor_class": type(self).__name__}
        return {**own, "auto_map": self.auto_map} if hasattr(self, "auto_map") else own

    def _picks(self, preset: Any) -> bool:
        return isinstance(preset, str) and preset in ("auto", "random") and preset not in self.voices

    def _history(self, preset: Any, texts: list[str], seed: int | list[int] | None, return_tensors: str):
        if self._picks(preset):
            preset = [preset] * len(texts)
        if not isinstance(preset, list | tuple):
            return _arrays(self.voice(preset), return_tensors)
        if len(preset) != len(texts):
            raise ValueError(
                f"`voice_preset` lists {len(preset)} voices for {len(texts)} texts; pass one for each, or one."
            )
        seeds = [None] * len(texts) if seed is None else row_seeds(len(texts), seed)
        picked = (self.pick_voice(*parts) for parts in zip(preset, texts, seeds, strict=True))
        voices = _Voices(_arrays(self.voice(one), return_tensors) for one in picked)
        return voices if any(voice is not None for voice in voices) else None


def _clean(text: Any) -> list[str]:
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(one, str) for one in texts):
        raise ValueError(f"Pass a text or a non-empty list of texts, got {text!r:.80}.")
    cleaned = [" ".join(one.split()) for one in texts]
    for row, one in enumerate(cleaned):
        if not one:
            raise ValueError(f"Text {row} is empty.")
        try:
            one.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"Text {row} is not valid Unicode: {error}.") from error
    return cleaned


def _by_chat(rows: Any, counts: list[int]) -> Any:
    """(R, L) of all turns -> (B, T, L), zeros behind the chats that have fewer than T."""
    padded = torch.nn.utils.rnn.pad_sequence(torch.as_tensor(rows).split(counts), batch_first=True)
    return padded if isinstance(rows, torch.Tensor) else padded.numpy()


def _arrays(voice: Voice | None, return_tensors: str):
    if voice is None:
        return None
    convert = torch.tensor if return_tensors == "pt" else np.array
    return BatchFeature({key: convert(voice[key]) for key in KEYS})


def _rows(audio: Any) -> list[np.ndarray]:
    """(N,), (B, N) or a list of (N,) or (1, N) -> (N,) float arrays."""
    if not isinstance(audio, list | tuple):
        array = _float_array(audio)
        return list(array) if array.ndim == 2 else _rows([array])
    arrays = [_float_array(part) for part in audio]
    arrays = [array[0] if array.ndim == 2 and len(array) == 1 else array for array in arrays]
    if wrong := [f"{array.dtype} of shape {array.shape}" for array in arrays if array.ndim != 1]:
        raise ValueError(f"Audio is samples (N,) or (B, N), or a list of (N,); got {', '.join(wrong)}.")
    return arrays


def _float_array(audio: Any) -> np.ndarray:
    if isinstance(audio, torch.Tensor):
        audio = audio.detach().cpu()
        audio = audio.float() if audio.is_floating_point() else audio  # NumPy has no bfloat16
    array = np.asarray(audio)
    if array.dtype.kind != "f":
        raise ValueError(f"Audio is floating point samples from -1 to 1, got {array.dtype} of shape {array.shape}.")
    return array


def _audio_writer() -> Callable[[Any, np.ndarray, int], None]:
    """`write_audio`; or, in the code that a hub folder carries, which is the core alone, soundfile's own."""
    try:
        from . import audio
    except ImportError:
        try:
            import soundfile
        except ImportError as error:
            raise ImportError("`save_audio` writes with soundfile: pip install soundfile.") from error
        return soundfile.write
    return audio.write_audio


def _refuse_unknown(keywords: Mapping[str, Any], known: Iterable[str], harmless: Mapping[str, tuple]) -> None:
    for name, value in keywords.items():
        if name in harmless:
            if value not in harmless[name]:
                accepted = " or ".join(map(repr, harmless[name]))
                raise ValueError(f"`{name}` can only be {accepted} for Bark, got {value!r}; leave it out.")
        elif name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(sorted(known))}."
            raise TypeError(f"Unknown keyword {name!r}. {hint}")
