"""Waveforms to Bark's semantic ids: HuBERT or MFCC features of each frame, then an LSTM or k-means quantizer.

Knows nothing of Bark's stages, of audio files or of resampling: waveforms come at `config.sampling_rate`."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import HubertModel, PreTrainedModel
from transformers import initialization as init
from transformers.audio_utils import mel_filter_bank
from transformers.utils import ModelOutput

from ..files.errors import ModelErrors
from .configuration_semantic_tokenizer import BarkSemanticTokenizerConfig

LOWEST_HZ = 20.0  # of the mel filters: below it is no speech
ENERGY_FLOOR = 1e-5  # of a mel band; above the dither of 16-bit samples, so that every digital silence is one sound
DELTA_KERNEL = (-0.2, -0.1, 0.0, 0.1, 0.2)  # slope of the least-squares line through five frames


@dataclass
class BarkSemanticTokenizerOutput(ModelOutput):
    """logits: (B, S, vocab_size), whose argmax are the ids (k-means: negative squared distances);
    lengths: (B,) frames of each row. What `logits` holds beyond a row's length means nothing.
    loss: the mean cross-entropy of `labels`, where they were given."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    lengths: Tensor | None = None


class MfccFeatures(nn.Module):
    """Standardized mel cepstra and their deltas, smoothed over time: N samples give N // hop_length frames.

    Frame i is centered on its own samples, i * hop_length on; at both ends the waveform is mirrored."""

    window: Tensor
    filters: Tensor
    dct: Tensor
    smoothing: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, config: BarkSemanticTokenizerConfig):
        super().__init__()
        self.config = config
        for name, value in self.constants().items():
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("mean", torch.zeros(config.feature_size))
        self.register_buffer("std", torch.ones(config.feature_size))

    def constants(self) -> dict[str, Tensor]:
        """What follows from the config: window (n_fft,), filters (n_fft // 2 + 1, n_mels), dct (n_mels, n_mfcc),
        smoothing (smoothing_width,)."""
        config = self.config
        filters = mel_filter_bank(
            config.n_fft // 2 + 1, config.n_mels, LOWEST_HZ, config.sampling_rate / 2, config.sampling_rate
        )
        places = (torch.arange(config.n_mels) + 0.5) / config.n_mels
        dct = torch.cos(torch.pi * places[:, None] * torch.arange(config.n_mfcc)) * (2 / config.n_mels) ** 0.5
        dct[:, 0] /= 2**0.5  # orthonormal DCT-II
        smoothing = torch.hann_window(config.smoothing_width + 2, periodic=False)[1:-1]
        return {
            "window": torch.hann_window(config.n_fft),
            "filters": torch.tensor(filters, dtype=torch.float32),
            "dct": dct,
            "smoothing": smoothing / smoothing.sum(),
        }

    def forward(self, audio: Tensor) -> Tensor:
        """(B, N) waveforms -> (B, S, D) float32."""
        return (self.cepstra(audio) - self.mean.float()) / self.std.float()

    def cepstra(self, audio: Tensor) -> Tensor:
        """(B, N) waveforms -> (B, S, D) smoothed coefficients and deltas, not standardized."""
        config = self.config
        overhang = (config.n_fft - config.hop_length) // 2
        mirrored = nn.functional.pad(audio.float(), (overhang, overhang), mode="reflect")
        spectrum = torch.stft(
            mirrored, config.n_fft, config.hop_length, window=self.window.float(), center=False, return_complex=True
        )
        energies = spectrum.abs().square().transpose(1, 2) @ self.filters.float()
        layers = [_over_time(energies.clamp(min=ENERGY_FLOOR).log() @ self.dct.float(), self.smoothing.float())]
        for _ in range(config.n_deltas):
            layers.append(_over_time(layers[-1], layers[-1].new_tensor(DELTA_KERNEL)))
        return torch.cat(layers, dim=-1)


class LSTMQuantizer(nn.Module):
    """The community's quantizer: an LSTM over the frames, one or two linear layers, a logit for each id."""

    def __init__(self, config: BarkSemanticTokenizerConfig):
        super().__init__()
        self.lstm = nn.LSTM(config.feature_size, config.hidden_size, config.num_layers, batch_first=True)
        size = config.intermediate_size
        self.intermediate = nn.Identity() if size is None else nn.Linear(config.hidden_size, size)
        self.fc = nn.Linear(size or config.hidden_size, config.vocab_size)

    def forward(self, features: Tensor, state: tuple[Tensor, Tensor] | None = None):
        """(B, S, D) and the state after earlier frames -> (B, S, V) logits and the state after these."""
        hidden, state = self.lstm(features.to(self.fc.weight.dtype), state)
        return self.fc(self.intermediate(hidden)), state


class KMeansQuantizer(nn.Module):
    """The nearest of `vocab_size` centroids; each frame for itself."""

    def __init__(self, config: BarkSemanticTokenizerConfig):
        super().__init__()
        self.centroids = nn.Parameter(torch.randn(config.vocab_size, config.feature_size))

    def forward(self, features: Tensor, state: None = None) -> tuple[Tensor, None]:
        """(B, S, D) -> (B, S, V) negative squared distances in float32, and no state."""
        features, centroids = features.float(), self.centroids.float()
        squares = features.square().sum(-1, keepdim=True) + centroids.square().sum(-1)
        return 2 * features @ centroids.T - squares, None

    @torch.no_grad()
    def fit(self, frames: np.ndarray, seed: int = 0, iterations: int = 100, batch_size: int = 10_000) -> float:
        """Learns the centroids from features (M, D) by mini-batch k-means (Sculley, 2010), from k-means++ starts.

        iterations: passes over the frames at most. Centroids that few frames choose are drawn anew on the way.
        Returns the mean squared distance of the frames to their centroids."""
        try:
            from sklearn.cluster import MiniBatchKMeans
        except ImportError as error:
            raise ImportError("Learning k-means units needs scikit-learn: pip install 'bark-hf[train]'.") from error
        units = len(self.centroids)
        if len(frames) < units:
            raise ValueError(f"{len(frames)} frames cannot make {units} units; pass more audio or lower `vocab_size`.")
        learner = MiniBatchKMeans(units, batch_size=batch_size, max_iter=iterations, n_init=3, random_state=seed)
        learner.fit(frames)
        self.centroids.copy_(torch.from_numpy(learner.cluster_centers_))
        return float(learner.inertia_ / len(frames))


class BarkSemanticTokenizer(ModelErrors, PreTrainedModel):
    """Audio to semantic ids, `frame_rate` of them a second: `hubert` or `mfcc` features and a `quantizer`."""

    config_class = BarkSemanticTokenizerConfig
    main_input_name = "input_values"
    input_modalities = ("audio",)
    _no_split_modules = ["HubertEncoderLayer", "ParametrizedConv1d", "LSTMQuantizer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    hubert: HubertModel
    mfcc: MfccFeatures

    def __init__(self, config: BarkSemanticTokenizerConfig):
        super().__init__(config)
        if config.features == "hubert":
            self.hubert = HubertModel(config.hubert_config)
            if config.hubert_config.do_stable_layer_norm:  # type: ignore[union-attr]
                self.hubert.encoder.layer_norm = nn.Identity()  # the full model's is after its last layer, not ours
        else:
            self.mfcc = MfccFeatures(config)
        self.quantizer = LSTMQuantizer(config) if config.quantizer == "lstm" else KMeansQuantizer(config)
        self.post_init()

    @property
    def sampling_rate(self) -> int:
        return self.config.sampling_rate

    @property
    def frame_rate(self) -> float:
        """Semantic ids per second."""
        return self.config.frame_rate

    def forward(
        self, input_values: Tensor, lengths: Tensor | None = None, labels: Tensor | None = None
    ) -> BarkSemanticTokenizerOutput:
        """(B, N) waveforms, padded on the right, and their lengths (B,) in samples -> logits (B, S, vocab_size).

        labels: (B, S) ids, -100 where there is none. A whole waveform at once: `encode` goes in windows. Raises
        ValueError for a row too short for one frame."""
        features, lengths = self.features(input_values, lengths)
        logits = self.quantizer(features)[0]
        loss = None if labels is None else nn.functional.cross_entropy(logits.transpose(1, 2), labels)
        return BarkSemanticTokenizerOutput(loss=loss, logits=logits, lengths=lengths)

    def features(self, input_values: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, N) waveforms and their lengths (B,) in samples -> (B, S, D) features and their lengths (B,) in frames.

        Rows of one length go together and no row sees a pad: HuBERT base normalizes over time, and would."""
        batch, longest = input_values.shape
        samples = [longest] * batch if lengths is None else lengths.tolist()
        if len(samples) != batch or max(samples) > longest:
            raise ValueError(f"`lengths` must be {batch} numbers of at most {longest} samples, got {samples}.")
        found: dict[int, Tensor] = {}
        for length in set(samples):
            self._check_length(length)
            rows = [row for row, other in enumerate(samples) if other == length]
            found.update(zip(rows, self._extract(self._normalized(input_values[rows, :length])), strict=True))
        features = [found[row] for row in range(batch)]
        frames = torch.tensor([len(row) for row in features], device=input_values.device)
        return nn.utils.rnn.pad_sequence(features, batch_first=True), frames

    @torch.no_grad()
    def encode(self, waves: Iterable[np.ndarray | Tensor]) -> list[Tensor]:
        """Waveforms (N_i,), floats of -1..1 at `sampling_rate` -> their semantic ids (S_i,), int64, on the CPU.

        One by one, so each is exactly what it is alone. Audio longer than `config.window_seconds` goes in windows, in
        bounded memory: the LSTM's state and k-means are exact then; MFCC are where `config.context_seconds` covers
        their few frames; HuBERT, which sees all of its input, is approximated.
        Raises ValueError for audio that is not one row of finite floats, or too short for one frame."""
        return [torch.cat(list(self._ids(self._waveform(wave, row)))) for row, wave in enumerate(waves)]

    @torch.no_grad()
    def fit(
        self,
        waves: Iterable[np.ndarray | Tensor],
        seed: int = 0,
        iterations: int = 100,
        batch_size: int = 10_000,
        max_frames: int = 500_000,
    ) -> float:
        """Learns the k-means centroids, and the mean and deviation of MFCC features, from waveforms as in `encode`.

        The waveforms are read once, one by one (wrap them in a progress bar if you like), and at most `max_frames`
        frames of theirs, drawn evenly, are held: 4 * D bytes each. `iterations`, `batch_size` and the result, a mean
        squared distance, are those of `KMeansQuantizer.fit`.
        Raises ValueError for another quantizer or too little audio, ImportError without scikit-learn."""
        if not isinstance(self.quantizer, KMeansQuantizer):
            raise ValueError(f"`fit` learns k-means units; this model's `quantizer` is {self.config.quantizer!r}.")
        frames = self._some_frames(waves, seed, max_frames)
        mean, std = self._moments(frames)
        distance = self.quantizer.fit((frames - mean) / std, seed, iterations, batch_size)
        self._take(mean, std)
        return distance

    @torch.no_grad()
    def standardize(self, waves: Iterable[np.ndarray | Tensor], seed: int = 0, max_frames: int = 500_000) -> None:
        """Learns the mean and deviation of MFCC features alone, from waveforms as in `fit`: before a quantizer is
        trained (`training.quantizer`). HuBERT's features stay what they are."""
        if self.config.features == "mfcc":
            self._take(*self._moments(self._some_frames(waves, seed, max_frames)))

    def _some_frames(self, waves: Iterable[np.ndarray | Tensor], seed: int, limit: int) -> np.ndarray:
        """(M, D) features of `limit` frames at most, drawn evenly; MFCC as they are, not standardized."""
        extract = self.mfcc.cepstra if self.config.features == "mfcc" else self._extract
        blocks = (
            features.float().cpu().numpy()
            for row, wave in enumerate(waves)
            for features in self._feature_windows(self._waveform(wave, row), extract)
        )
        frames = sample_rows(blocks, limit, np.random.default_rng(seed))
        if not len(frames):
            raise ValueError("There is no audio to learn from.")
        return frames

    def _moments(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(M, D) -> the mean and deviation (D,) to standardize MFCC by; those of HuBERT do not differ by decades."""
        if self.config.features != "mfcc":
            return np.zeros(frames.shape[1], np.float32), np.ones(frames.shape[1], np.float32)
        mean, std = frames.mean(0, dtype=np.float64), frames.std(0, dtype=np.float64)
        return mean.astype(np.float32), std.astype(np.float32).clip(min=1e-5)

    def _take(self, mean: np.ndarray, std: np.ndarray) -> None:
        if self.config.features == "mfcc":
            self.mfcc.mean.copy_(torch.from_numpy(mean))
            self.mfcc.std.copy_(torch.from_numpy(std))

    def _ids(self, wave: Tensor) -> Iterator[Tensor]:
        """(N,) waveform -> its ids, window by window."""
        state = None
        for features in self._feature_windows(wave, self._extract):
            logits, state = self.quantizer(features[None], state)
            yield logits[0].argmax(-1).cpu()

    def _feature_windows(self, wave: Tensor, extract: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
        """(N,) waveform -> its features (S_i, D), window by window; each of its frames once."""
        config = self.config
        wave = self._normalized(wave)
        hop, total = config.samples_per_frame, config.count_frames(len(wave))
        for first, last, keep in windows(total, config.window_frames, config.context_frames):
            end = len(wave) if last == total else (last - 1) * hop + config.min_samples
            yield extract(wave[None, first * hop : end].to(self.device))[0, keep]

    def _extract(self, audio: Tensor) -> Tensor:
        """(B, N) waveforms of one length -> (B, S, D) features."""
        if self.config.features == "mfcc":
            return self.mfcc(audio)
        return self.hubert(audio.to(self.hubert.dtype)).last_hidden_state

    def _normalized(self, audio: Tensor) -> Tensor:
        if not self.config.normalize:
            return audio
        variance, mean = torch.var_mean(audio.float(), dim=-1, correction=0, keepdim=True)
        return (audio - mean) / (variance + 1e-7).sqrt()  # as Wav2Vec2FeatureExtractor does

    def _waveform(self, audio: np.ndarray | Tensor, row: int) -> Tensor:
        """One of the caller's waveforms as (N,) float32, checked."""
        array = audio.detach() if isinstance(audio, Tensor) else np.asarray(audio)
        if array.ndim != 1 or "float" not in str(array.dtype):
            raise ValueError(
                f"Audio {row} must be one row of floats, -1 to 1 at {self.sampling_rate} Hz; "
                f"got {array.dtype} of shape {tuple(array.shape)}."
            )
        self._check_length(len(array), f"Audio {row}")
        wave = array.float() if isinstance(array, Tensor) else torch.from_numpy(array.astype(np.float32))
        if not wave.isfinite().all():
            raise ValueError(f"Audio {row} holds values that are not finite.")
        return wave

    def _check_length(self, samples: int, name: str = "Audio") -> None:
        if samples < (least := self.config.min_samples):
            raise ValueError(
                f"{name} has {samples} samples; one frame needs {least}, {least / self.sampling_rate:.4g} s at "
                f"{self.sampling_rate} Hz."
            )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, KMeansQuantizer):
            init.normal_(module.centroids)
        elif isinstance(module, MfccFeatures):
            for name, value in module.constants().items():
                init.copy_(getattr(module, name), value)
            init.zeros_(module.mean)
            init.ones_(module.std)


def windows(total: int, window: int, context: int) -> Iterator[tuple[int, int, slice]]:
    """Windows of at most `window` of `total` frames: first frame, end, and which frames of the window to keep.

    Each frame is kept once, in order, and has `context` frames on either side, or else all that there are.
    The last window reaches back to be a full one."""
    done = 0
    while done < total:
        first = max(0, min(done - context, total - window))
        last = min(first + window, total)
        kept = last if last == total else last - context
        yield first, last, slice(done - first, kept - first)
        done = kept


def sample_rows(blocks: Iterable[np.ndarray], limit: int, random: np.random.Generator) -> np.ndarray:
    """At most `limit` rows of blocks (M_i, D), each as likely as any other (Vitter's algorithm R) -> (M, D)."""
    kept, seen = np.empty((0, 0), np.float32), 0
    for block in blocks:
        if not seen:
            kept = np.empty((limit, block.shape[1]), np.float32)
        places = np.arange(seen, seen + len(block))
        late = places >= limit
        places[late] = random.integers(places[late] + 1)
        here = places < limit
        kept[places[here]] = block[here]
        seen += len(block)
    return kept[:seen]


def _over_time(frames: Tensor, kernel: Tensor) -> Tensor:
    """(B, S, D) correlated with an odd kernel along S; the first and last frame are repeated at the ends."""
    side = len(kernel) // 2
    rows = nn.functional.pad(frames[:, None], (0, 0, side, side), mode="replicate")
    return nn.functional.conv2d(rows, kernel[:, None][None, None])[:, 0]
