"""Configuration of the semantic tokenizer: which features, which quantizer, their sizes and the windows of long audio.

Knows nothing of Bark's own stages; a size that follows from others is a property, not a field."""

from math import prod
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import HubertConfig, PreTrainedConfig

from ..files.errors import ConfigErrors

_DETERMINISTIC = dict.fromkeys(  # HuBERT is a fixed feature extractor here: the same in training mode, no masks
    (
        "hidden_dropout",
        "activation_dropout",
        "attention_dropout",
        "feat_proj_dropout",
        "layerdrop",
        "mask_time_prob",
        "mask_feature_prob",
    ),
    0.0,
)


@strict
class BarkSemanticTokenizerConfig(ConfigErrors, PreTrainedConfig):
    """Waveform to `vocab_size` semantic ids: `features` of each frame, then a `quantizer`.

    features: "hubert", the output of transformer layer `feature_layer` of `hubert_config` (which is cut to those
    layers), or "mfcc". quantizer: "lstm", of `num_layers` and `hidden_size`, with a linear layer of
    `intermediate_size` before the last where that is given; or "kmeans", `vocab_size` centroids.
    normalize: bring each waveform to mean 0 and variance 1 first.
    Audio longer than `window_seconds` goes in windows of that length, of which `context_seconds` at each cut are
    dropped. n_fft, hop_length: in samples; n_deltas: how many derivatives follow the `n_mfcc` coefficients;
    smoothing_width: in frames, odd, 1 is none."""

    model_type = "bark_semantic_tokenizer"
    sub_configs = {"hubert_config": HubertConfig}

    features: Literal["hubert", "mfcc"] = "hubert"
    quantizer: Literal["lstm", "kmeans"] = "lstm"
    vocab_size: int = 10_000
    sampling_rate: int = 16_000
    normalize: bool = False
    window_seconds: float | int = 30.0
    context_seconds: float | int = 2.0

    hubert_config: dict[str, Any] | PreTrainedConfig | None = None
    feature_layer: int = 9

    n_fft: int = 512
    hop_length: int = 320
    n_mels: int = 40
    n_mfcc: int = 13
    n_deltas: int = 2
    smoothing_width: int = 5

    hidden_size: int = 1024
    num_layers: int = 2
    intermediate_size: int | None = None

    def __post_init__(self, **kwargs):
        if self.features == "hubert":
            self.hubert_config = self._cut(self.hubert_config)
        elif self.hubert_config is not None:
            raise ValueError(f"`hubert_config` is given but `features` is {self.features!r}; leave one out.")
        super().__post_init__(**kwargs)

    def _cut(self, given: dict[str, Any] | PreTrainedConfig | None) -> HubertConfig:
        """A copy with the layers that are needed, without dropout and masks."""
        if isinstance(given, PreTrainedConfig):
            if given.model_type != "hubert":
                raise ValueError(f"`hubert_config` must be a HubertConfig, got {type(given).__name__}.")
            given = given.to_dict()
        config = HubertConfig(**{**(given or {}), **_DETERMINISTIC})
        config.num_hidden_layers = min(config.num_hidden_layers, self.feature_layer)
        return config

    def validate_architecture(self):
        for name in (
            "vocab_size",
            "sampling_rate",
            "feature_layer",
            "hop_length",
            "n_mels",
            "n_mfcc",
            "smoothing_width",
            "hidden_size",
            "num_layers",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` ({getattr(self, name)}) must be at least 1.")
        if self.intermediate_size is not None and self.intermediate_size < 1:
            raise ValueError(f"`intermediate_size` ({self.intermediate_size}) must be at least 1, or None (no layer).")
        if self.features == "hubert":
            self._validate_hubert()
        else:
            self._validate_mfcc()
        if self.context_seconds < 0 or self.window_frames <= 2 * self.context_frames:
            raise ValueError(
                f"`window_seconds` ({self.window_seconds}) must exceed twice `context_seconds` "
                f"({self.context_seconds}), which must not be negative, by a frame of {1 / self.frame_rate} s."
            )

    def _validate_hubert(self):
        layers = self.hubert_config.num_hidden_layers  # type: ignore[union-attr]
        if self.feature_layer > layers:
            raise ValueError(
                f"`feature_layer` ({self.feature_layer}) must be at most `num_hidden_layers` ({layers}) of "
                "`hubert_config`."
            )

    def _validate_mfcc(self):
        if self.n_mfcc > self.n_mels:
            raise ValueError(f"`n_mfcc` ({self.n_mfcc}) must be at most `n_mels` ({self.n_mels}).")
        if self.n_deltas < 0:
            raise ValueError(f"`n_deltas` ({self.n_deltas}) must be at least 0.")
        if self.smoothing_width % 2 == 0:
            raise ValueError(f"`smoothing_width` ({self.smoothing_width}) must be odd: a frame and as many each side.")
        overhang = self.n_fft - self.hop_length
        if overhang % 2 or not 0 <= overhang < 2 * self.hop_length:
            raise ValueError(
                f"`n_fft` ({self.n_fft}) must be `hop_length` ({self.hop_length}) or an even number of samples more, "
                f"and below {3 * self.hop_length}: the frame's own samples and as many on each side."
            )

    @property
    def samples_per_frame(self) -> int:
        """From one frame to the next."""
        return self.hop_length if self.features == "mfcc" else prod(self.hubert_config.conv_stride)  # type: ignore

    @property
    def min_samples(self) -> int:
        """The least that makes a frame: the hop (MFCC), or what one frame sees of HuBERT's unpadded convolutions."""
        if self.features == "mfcc":
            return self.hop_length
        field = 1
        convolutions = zip(self.hubert_config.conv_kernel, self.hubert_config.conv_stride, strict=True)  # type: ignore
        for kernel, stride in reversed(list(convolutions)):
            field = (field - 1) * stride + kernel
        return field

    @property
    def frame_rate(self) -> float:
        """Frames, and so semantic ids, per second."""
        return self.sampling_rate / self.samples_per_frame

    @property
    def feature_size(self) -> int:
        if self.features == "mfcc":
            return self.n_mfcc * (1 + self.n_deltas)
        return self.hubert_config.hidden_size  # type: ignore[union-attr]

    @property
    def window_frames(self) -> int:
        return round(self.window_seconds * self.frame_rate)

    @property
    def context_frames(self) -> int:
        return round(self.context_seconds * self.frame_rate)

    def count_frames(self, samples: int) -> int:
        """How many frames, and so semantic ids, a waveform of that many samples has."""
        return max(0, samples - self.min_samples + self.samples_per_frame) // self.samples_per_frame
