"""A codec as something to train: `EncodecModel` with a quantizer that learns, and the loss of what it gives back.

Knows nothing of audio files or of the Trainer. Waveforms are (B, N) at the codec's sampling rate."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EncodecConfig, EncodecModel
from transformers.audio_utils import mel_filter_bank

FFT_SIZES = (256, 512, 1024, 2048)  # samples; hops are a quarter
MELS = 5 / 64  # mel bands of each sample of the FFT: 80 for 1024
DEAD = 0.1  # uses a step, on average, below which a codebook's entry is drawn anew
FLOOR = 1e-4  # what logarithms of magnitudes start from: a sine at -80 dBFS


@dataclass(frozen=True)
class LossWeights:
    """What each part of a codec's loss counts."""

    mel: float = 1.0
    magnitude: float = 0.5
    convergence: float = 0.5
    waveform: float = 1.0
    commitment: float = 0.25


class SpectralDistance(nn.Module):
    """How far apart spectrograms are, the mean over several resolutions.

    Log-mel bands as in neural vocoders (Kong et al., 2020); log magnitude and spectral convergence of Yamamoto et al.
    (2020). One transform serves all three."""

    def __init__(self, sampling_rate: int):
        super().__init__()
        for size in FFT_SIZES:
            window = torch.hann_window(size)
            filters = mel_filter_bank(size // 2 + 1, int(MELS * size), 0.0, sampling_rate / 2, sampling_rate)
            self.register_buffer(f"window_{size}", 2 * window / window.sum(), persistent=False)  # a full sine gives 1
            self.register_buffer(f"filters_{size}", torch.tensor(filters, dtype=torch.float32), persistent=False)

    def forward(self, audio: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Two (B, N) -> (B,) mean absolute difference of log-mel bands in nepers, the same of log magnitudes, and ()
        the difference's norm as a share of the target's."""
        parts = [self.at(size, audio.float(), target.float()) for size in FFT_SIZES]
        mel, magnitude, convergence = (torch.stack(part).mean(0) for part in zip(*parts, strict=True))
        return mel, magnitude, convergence

    def at(self, size: int, audio: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same at one resolution."""
        window, filters = getattr(self, f"window_{size}"), getattr(self, f"filters_{size}")

        def spectra(wave: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            found = torch.stft(wave, size, size // 4, window=window, return_complex=True).abs()
            return found, (filters.T @ found + FLOOR).log(), (found + FLOOR).log()

        ours, mels, logs = spectra(audio)
        theirs, wanted_mels, wanted_logs = spectra(target)
        mel, magnitude = (mels - wanted_mels).abs().mean((1, 2)), (logs - wanted_logs).abs().mean((1, 2))
        return mel, magnitude, (ours - theirs).norm() / theirs.norm().clamp(min=FLOOR)


class CodecForTraining(nn.Module):
    """`EncodecModel` between waveforms and their loss, at first without a quantizer, then with one.

    The quantizer is residual vector quantization with codebooks that follow their frames' moving averages and are
    drawn anew where nobody uses them (Zeghidour et al., 2021), from `vector-quantize-pytorch`."""

    quantizing: Tensor

    def __init__(
        self,
        config: EncodecConfig,
        weights: LossWeights = LossWeights(),
        codebook_decay: float = 0.95,
        quantizer_dropout: bool = False,
    ):
        """codebook_decay: what a codebook keeps of itself in a step. quantizer_dropout: batches use the first few
        codebooks only, a number drawn for each.

        Raises ValueError for configs of what is not trained here: stereo, chunks, normalized volume."""
        try:
            from vector_quantize_pytorch import ResidualVQ
        except ImportError as error:
            raise ImportError(
                "Training a codec needs vector-quantize-pytorch: pip install 'bark-hf[train]'."
            ) from error
        super().__init__()
        for name, only in (("audio_channels", 1), ("normalize", False), ("chunk_length_s", None)):
            if (given := getattr(config, name)) != only:
                raise ValueError(f"Codecs are trained with `{name}` {only!r} only; the config has {given!r}.")
        if config.codebook_dim != config.hidden_size:
            raise ValueError(
                f"`codebook_dim` ({config.codebook_dim}) must equal `hidden_size` ({config.hidden_size}): "
                "EncodecModel has no layer between them."
            )
        self.codec = EncodecModel(config)
        self.weights = weights
        self.spectral = SpectralDistance(config.sampling_rate)
        self.quantizer = ResidualVQ(
            dim=config.hidden_size,
            num_quantizers=config.num_quantizers,
            codebook_size=config.codebook_size,
            decay=codebook_decay,
            kmeans_init=True,
            threshold_ema_dead_code=DEAD,
            rotation_trick=False,
            quantize_dropout=quantizer_dropout,
        )
        self.register_buffer("quantizing", torch.tensor(False))
        self.encoder_frozen = False

    def forward(self, input_values: Tensor) -> dict[str, Tensor]:
        """(B, N) waveforms -> `loss` (), `mel` (B,) their log-mel distances and, once there are any, `codes`
        (B, K, T)."""
        with torch.no_grad() if self.encoder_frozen else nullcontext():
            frames = self.codec.encoder(input_values[:, None]).transpose(1, 2)  # (B, T, D)
        found: dict[str, Tensor] = {}
        commitment = frames.new_zeros(())
        if self.quantizing:
            quantized, codes, losses = self.quantizer(frames, freeze_codebook=self.encoder_frozen)
            found["codes"], commitment = codes.transpose(1, 2), losses.sum()
            frames = frames + (quantized - frames).detach()  # gradients pass as if nothing had been quantized
        audio = self.codec.decoder(frames.transpose(1, 2))[:, 0, : input_values.shape[1]]
        mel, magnitude, convergence = self.spectral(audio, input_values)
        loss = (
            self.weights.mel * mel.mean()
            + self.weights.magnitude * magnitude.mean()
            + self.weights.convergence * convergence
            + self.weights.waveform * (audio - input_values).abs().mean()
            + self.weights.commitment * commitment
        )
        return {"loss": loss, "mel": mel.detach(), **found}

    @torch.no_grad()
    def start_quantizing(self, batches: list[Tensor], split: Sequence[int] = ()) -> None:
        """Codebooks from the frames of many (B, N) waveforms, one after the other by k-means; used from now on.

        split: where a frame's numbers are cut; each part makes a codebook of its own, in order, and what is left of
        all goes to the others. Without cuts every codebook is made of all that is left."""
        frames = torch.cat([self.codec.encoder(batch[:, None]).transpose(1, 2).flatten(0, 1) for batch in batches])
        numbers, ends = torch.arange(frames.shape[1]), [0, *split, frames.shape[1]]
        parts = [((numbers >= a) & (numbers < b)).to(frames) for a, b in pairwise(ends)] if split else []
        left = frames[None]
        self.quantizer.train()
        for number, layer in enumerate(self.quantizer.layers):
            quantized, *_ = layer(left * parts[number] if number < len(parts) else left)
            left = left - quantized
        self.quantizer.train(self.training)
        self.quantizing.fill_(True)

    @torch.no_grad()
    def scale_layers(self, waves: Tensor) -> None:
        """Gains and biases with which every convolution gives mean 0 and variance 1 on (B, N) waveforms, and the last
        one the waveforms' variance (Salimans & Kingma, 2016).

        With torch's own weights nearly nothing comes through as many layers as a codec has."""
        if self.codec.config.norm_type != "weight_norm":
            return
        last = self.codec.decoder.layers[-1].conv

        def scale(layer: Any, inputs: tuple, output: Tensor) -> Tensor:
            mean, deviation = output.mean((0, 2)), output.std((0, 2)).clamp(min=1e-5)
            gain = (waves.std() if layer is last else 1) / deviation
            outputs_at = 1 if isinstance(layer, nn.ConvTranspose1d) else 0
            layer.weight = layer.weight * gain.reshape([-1 if axis == outputs_at else 1 for axis in range(3)])
            layer.bias.sub_(mean).mul_(gain)
            return (output - mean[:, None]) * gain[:, None]

        layers = [part for part in self.codec.modules() if isinstance(part, nn.Conv1d | nn.ConvTranspose1d)]
        hooks = [layer.register_forward_hook(scale) for layer in layers]
        self.codec.decoder(self.codec.encoder(waves[:, None]))
        for hook in hooks:
            hook.remove()

    @torch.no_grad()
    def finished(self) -> EncodecModel:
        """The codec, its quantizer with the codebooks as they are now."""
        for ours, theirs in zip(self.quantizer.layers, self.codec.quantizer.layers, strict=True):
            theirs.codebook.embed.copy_(ours.codebook)
            theirs.codebook.embed_avg.copy_(ours.codebook)
            theirs.codebook.cluster_size.fill_(1.0)
        return self.codec.eval()
