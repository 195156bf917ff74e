"""A codec that speaks before it has learned: a channel vocoder, encoder and decoder, in closed form.

The encoder measures how loud mel bands are, in logarithms, and guesses the voice's pitch; the decoder lets these gains
excite one snippet a band, of multiples of 100, 150 or 200 Hz where frames are 20 ms, more for a higher voice (Dudley,
1939): a voice without melody. What else the network has stays nearly silent and random, for training to use.
Knows nothing of quantizers, files or the Trainer. Waveforms are (N,), -1..1.

How a linear map goes through ELUs: with an offset above its lowest value a channel passes unchanged, and a channel
that is always 1 takes the offset away behind a transposed convolution. How an exponential does: ELU(x) + 1 is exp(x)
below 0. How a logarithm does: 1 - exp(-a x) for several a span it well enough for a linear readout. How a decision
does: an LSTM that adds up the evidence of some frames is at 1 or -1 behind its tangent, which makes a gain e times
larger or smaller than its mean; less the smaller, it is there or not."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EncodecConfig, EncodecModel
from transformers.audio_utils import hertz_to_mel, mel_filter_bank, mel_to_hertz

from ..evaluation.similarity import median_pitch

BANDS, GAINS = 40, 1  # mel bands, and how many gains each has in a frame
REGISTERS = (2, 3, 4)  # multiples of the frame rate that are the pitch: 100, 150, 200 Hz
BETWEEN = (2.3, 3.0)  # frame rates, from which on a voice has the next: in the middle of flite's rms, awb and slt
PITCH_SCALE = 8.0  # of a frame's last number, the pitch in nepers from 130 Hz
EVIDENCE, MEMORY = 5.0, 2.2  # of a frame for a register, a neper; the bias of what is remembered of it: 0.9 a frame
FADE = 80  # samples in which a snippet rises and falls
WINDOW = 400  # samples in which loudness is measured
FLOOR = 1e-10  # the least power of a band, of a snippet's at full scale
SCALE = 4.0  # standard deviation of a frame's first number
OFFSET = 100.0  # of the decoder's coefficients, whose size in average speech is 1
CENTERS, PHASES = 42, 3  # the encoder's narrow filters
RECTIFY = 3e4  # their gain: what is at -90 dBFS still goes beyond ELU's bend
LEVELS = (0.05, 0.35, 0.8)  # quantiles of loudness around which a filter's saturating copies tell most
RIDGE = 1e-5  # of the readout's least squares, a frame
SHAPE: dict[str, Any] = {
    "num_filters": 32,
    "upsampling_ratios": [4, 2, 40],
    "hidden_size": 19,
    "num_residual_layers": 0,
}
PIECE = 500  # frames that go through the encoder at once
READ_SECONDS = 1200.0  # of speech that the encoder is fitted to


def check_vocoder(config: EncodecConfig) -> None:
    """Raises ValueError for a shape in which there is no room for a vocoder."""
    ratios, filters = list(config.upsampling_ratios), config.num_filters
    if len(ratios) != 3 or not config.use_causal_conv or config.norm_type != "weight_norm":
        raise ValueError(f"A vocoder needs three causal strides and weight norm, such as [4, 2, 40]; got {ratios}.")
    if config.num_residual_layers or config.hop_length % (GAINS * FADE) or 2 * ratios[2] < FADE:
        raise ValueError(
            f"A vocoder needs `num_residual_layers` 0, got {config.num_residual_layers}, and frames of a multiple of "
            f"{GAINS * FADE} samples, got {config.hop_length}."
        )
    if config.num_lstm_layers != 1 or config.hidden_size < 2:
        raise ValueError(
            f"A vocoder needs `num_lstm_layers` 1, got {config.num_lstm_layers}, and `hidden_size` of 2 at least, got "
            f"{config.hidden_size}: the last number of a frame is the pitch."
        )
    gains = BANDS * GAINS * len(REGISTERS)
    widths = (1, 1 + ratios[2], max(1 + ratios[1] * ratios[2], CENTERS * PHASES), 2 + gains)
    widths = (*widths[:3], max(widths[3], 2 * CENTERS * len(LEVELS)))
    needed = max(-(-width // 2**level) for level, width in enumerate(widths))
    if filters < needed:
        raise ValueError(f"A vocoder with strides {ratios} needs `num_filters` of {needed} at least; got {filters}.")


def start_as_vocoder(codec: EncodecModel, waves: Sequence[Tensor], seed: int = 0) -> float:
    """Gives a codec the weights of a vocoder for speech like `waves`; its frames are what a quantizer is made for.

    Returns what share of the frames' variance the encoder misses, but for the pitch, on some of the waves that it was
    not fitted to.
    Raises ValueError for a shape without room (`check_vocoder`)."""
    check_vocoder(codec.config)
    torch.manual_seed(seed)
    hop = codec.config.hop_length
    pieces = [piece[: len(piece) // hop * hop] for wave in waves for piece in wave.split(PIECE * hop)]
    waves = [pieces[i] for i in torch.randperm(len(pieces)).tolist() if len(pieces[i]) >= 2 * hop]
    if len(waves) < 2:
        raise ValueError(
            f"A vocoder is fitted to some recordings and checked on others; {len(waves)} of two frames or more is "
            "too few."
        )
    with torch.no_grad():
        target = Loudness(codec.config, waves)
        start_decoder(codec, target)
        return start_encoder(codec, target, waves)


class Loudness:
    """(N,) waveforms as frames (T, D): the cosine transform over bands of their logarithmic gains, its first numbers,
    and behind them the median pitch of the whole waveform.

    What is left out is how single harmonics rise and fall in the bands: melody, which the decoder cannot give back."""

    def __init__(self, config: EncodecConfig, waves: Sequence[Tensor]):
        self.hop, self.rate = config.hop_length, config.sampling_rate
        self.filters = _mel_filters(WINDOW, self.rate)
        step = self.hop // GAINS
        self.centers = torch.arange(1, GAINS + 1) * step - WINDOW // 2  # no window ends after its frame
        made = torch.stack([_snippets(self.hop, self.rate, every) for every in REGISTERS])
        made *= (made[:1].square().sum(2, keepdim=True) / made.square().sum(2, keepdim=True)).sqrt()
        self.snippets = _windows(self.hop)[:, None] * made[:, None]  # (REGISTERS, GAINS, BANDS, 2 hop)
        all_on = torch.zeros(100 * self.hop)
        for start in range(0, len(all_on) - 2 * self.hop, self.hop):
            all_on[start : start + 2 * self.hop] += self.snippets[0].sum((0, 1))
        self.unit = torch.ones(())
        self.unit = self.power(all_on)[20:80].mean((0, 1))
        logs = torch.cat([self.logs(wave) for wave in waves[:200]])
        self.mean, self.top = logs.mean(0), logs.amax(0) + 0.5  # louder gains than these are cut by the bend
        self.axes = _cosines(GAINS * BANDS)[: config.hidden_size - 1].T
        self.scale = SCALE / ((logs - self.mean) @ self.axes[:, 0]).std()
        smooth = (logs - self.mean) @ self.axes @ self.axes.T + self.mean
        self.lost = 0.5 * ((2 * logs).exp().mean(0) / (2 * smooth).exp().mean(0)).log()  # of a band's loudness

    @classmethod
    @torch.no_grad()
    def of(cls, codec: EncodecModel, waves: Sequence[Tensor]) -> "Loudness":
        """As a codec that began as a vocoder has it in its frames, but for what its encoder misses."""
        target = cls(codec.config, waves)
        first = _convolutions(codec.decoder)[0].weight[: GAINS * BANDS, : target.axes.shape[1], -1]
        target.scale = 1 / ((first * target.axes).sum() / target.axes.square().sum())
        pairs = [(target.cosines(wave), codec.encoder(wave[None, None])[0, :-1].T) for wave in waves]
        apart = torch.cat([measured - heard[: len(measured)] for measured, heard in pairs]).mean(0)
        target.mean = target.mean + target.axes @ apart / target.scale
        return target

    def power(self, wave: Tensor) -> Tensor:
        """(N,) -> (T, GAINS, BANDS) of what one snippet at full gain has."""
        starts = torch.arange(len(wave) // self.hop)[:, None] * self.hop + self.centers
        wave = nn.functional.pad(wave, (WINDOW // 2, WINDOW))
        pieces = wave[starts[..., None] + torch.arange(WINDOW)] * torch.hann_window(WINDOW)
        return torch.fft.rfft(pieces).abs().square() @ self.filters / self.unit

    def logs(self, wave: Tensor) -> Tensor:
        """(N,) -> (T, GAINS * BANDS) nepers."""
        return 0.5 * (self.power(wave) + FLOOR).log().flatten(1)

    def cosines(self, wave: Tensor) -> Tensor:
        """(N,) -> (T, D - 1): all but the pitch."""
        return (self.logs(wave) - self.mean) @ self.axes * self.scale

    def __call__(self, wave: Tensor) -> Tensor:
        try:
            pitch = _nepers(median_pitch(wave.numpy(), self.rate))
        except ValueError:  # hardly voiced
            pitch = 0.0
        return nn.functional.pad(self.cosines(wave), (0, 1), value=PITCH_SCALE * pitch)


def start_decoder(codec: EncodecModel, target: Loudness) -> None:
    """Frames -> gains -> what the gains' snippets are made of, block by block -> the waveform.

    A snippet is given by the cosine transforms of its blocks: joined blocks at the second stride's rate, single ones
    at the third's."""
    _, joined, block = codec.config.upsampling_ratios
    gains, pairs = GAINS * BANDS, joined * block
    first, *ups, last = _convolutions(codec.decoder)
    transform = _cosines(block)
    one, pitch = len(REGISTERS) * gains, len(REGISTERS) * gains + 1  # channels: always 1; the pitch

    weight, bias = _small(first), torch.zeros(first.out_channels)
    weight[: pitch + 1] = 0
    usual_gain = target.mean + target.lost - target.top  # ELU: gain - 1
    for register in range(len(REGISTERS)):
        own = slice(register * gains, (register + 1) * gains)
        weight[own, : target.axes.shape[1], -1] = target.axes / target.scale
        bias[own] = usual_gain - float(register > 0)  # the LSTM adds 1 where the pitch is as high, else takes 1
    bias[one] = 1
    weight[pitch, target.axes.shape[1], -1] = 1 / PITCH_SCALE
    _put(first, weight, bias)

    snippets = target.snippets.reshape(len(REGISTERS), gains, -1, joined, block)
    made = snippets @ transform.T * target.top.exp()[:, None, None, None]  # (REGISTERS, gains, blocks, joined, block)
    usual = (made[0] * usual_gain.exp()[:, None, None, None]).square().sum(0).mean((0, 1)).sqrt() + 1e-4
    made = (made / usual).flatten(3).transpose(2, 3)  # (REGISTERS, gains, coefficients, blocks)
    low = math.exp(-2)  # of a gain whose register is not there
    higher = made.diff(dim=0) / (1 - low)
    made = torch.cat([made[0] - low * higher.sum(0), *higher])  # (REGISTERS * gains, coefficients, blocks)

    weight, bias = _small(ups[0]), torch.zeros(ups[0].out_channels)
    weight[:, : pairs + 1] = 0
    weight[pitch] = 0
    weight[:one, :pairs], weight[one, :pairs] = made, made.sum(0)
    bias[:pairs], bias[pairs] = OFFSET, 1
    _put(ups[0], weight, bias)

    weight, bias = 0.1 * _small(ups[1]), torch.zeros(ups[1].out_channels)
    weight[:, : block + 1] = 0
    for part, k in product(range(joined), range(block)):
        weight[part * block + k, k, part] = 1
    weight[pairs] = -OFFSET * weight[:pairs].sum(0)
    bias[:block], bias[block] = OFFSET, 1
    _put(ups[1], weight, bias)

    loud = 10.0  # a waveform's, before the last bend
    weight, bias = _small(ups[2]), torch.zeros(ups[2].out_channels)
    weight[:, 0] = 0
    weight[:block, 0, :block] = transform * usual[:, None] * loud
    weight[block] = -OFFSET * weight[:block].sum(0)
    bias[0] = 2 * loud
    _put(ups[2], weight, bias)

    weight = 1e-3 * _small(last)
    weight[0, 0] = 0
    weight[0, 0, -1] = 1 / loud
    _put(last, weight, torch.full((1,), -2.0))
    lstm = _silence_lstm(codec.decoder)
    size = lstm.hidden_size
    for register, multiple in enumerate(BETWEEN, 1):
        hertz = multiple * codec.config.sampling_rate / codec.config.hop_length
        into, forget, cell, out = (
            slice(k * size + register * gains, k * size + (register + 1) * gains) for k in range(4)
        )
        lstm.bias_ih_l0[into] = lstm.bias_ih_l0[out] = 20
        lstm.bias_ih_l0[forget] = MEMORY
        lstm.weight_ih_l0[cell, pitch] = EVIDENCE
        lstm.bias_ih_l0[cell] = -EVIDENCE * _nepers(hertz)


def start_encoder(codec: EncodecModel, target: Loudness, waves: Sequence[Tensor]) -> float:
    """The waveform's blocks -> narrow filters, rectified -> their loudness in saturating copies -> the readout."""
    _, joined, block = codec.config.upsampling_ratios
    first, blocks, filters, levels, last = _convolutions(codec.encoder)
    transform = _cosines(block)

    weight, bias = _small(first), torch.zeros(first.out_channels)
    weight[0] = 0
    weight[0, 0, -1], bias[0] = 1, 2
    _put(first, weight, bias)

    weight, bias = _small(blocks), torch.zeros(blocks.out_channels)
    weight[:block] = 0
    weight[:block, 0, block:] = transform
    bias[:block] = 8 - 2 * transform.sum(1)  # no coefficient of a block of full scale is below -8
    _put(blocks, weight, bias)

    count = CENTERS * PHASES
    narrow = _narrow_filters(2 * joined * block, codec.config.sampling_rate).reshape(count, 2 * joined, block)
    weight, bias = _small(filters), torch.zeros(filters.out_channels)
    weight[:count] = 0
    weight[:count, :block] = RECTIFY * (narrow @ transform.T).transpose(1, 2)
    bias[:count] = -8 * weight[:count].sum((1, 2), dtype=torch.float64).float()
    _put(filters, weight, bias)

    taps = levels.kernel_size[0]
    heard = torch.cat([_before(codec.encoder, levels, wave)[:count] + 1 for wave in waves[:60]], dim=1)
    heard = nn.functional.avg_pool1d(heard.reshape(CENTERS, PHASES, -1).mean(1), 2).clamp(min=1e-3)
    heard = heard[:, :: max(1, heard.shape[1] // 20_000)]
    sizes = torch.quantile(heard, torch.tensor(LEVELS), dim=1) + 0.3  # (LEVELS, CENTERS)
    weight, bias = 1e-3 * _small(levels), torch.zeros(levels.out_channels)
    halves = [(taps // 2, 3 * taps // 4), (3 * taps // 4, taps)]
    used = 0
    for (begin, end), size, center in ((h, s, c) for h in halves for s in sizes for c in range(CENTERS)):
        share = 1 / (size[center] * PHASES * (end - begin))
        weight[used] = 0
        weight[used, center * PHASES : (center + 1) * PHASES, begin:end] = -share
        bias[used] = -1 / size[center]  # ELU's bend is at -1
        used += 1
    _put(levels, weight, bias)
    _silence_lstm(codec.encoder)

    limit, width = READ_SECONDS * codec.config.sampling_rate, last.kernel_size[0]
    total = np.cumsum([len(wave) for wave in waves])
    kept = waves[: int(np.searchsorted(total, limit)) + 1]
    held = kept[: max(1, len(kept) // 25)]

    def seen(wave: Tensor) -> Tensor:
        found = _before(codec.encoder, last, wave)[:used]
        found = nn.functional.pad(found[None], (width - 1, 0), mode="reflect")[0]
        found = found.unfold(1, width, 1).permute(1, 0, 2).flatten(1)
        return nn.functional.pad(found, (0, 1), value=1.0).double()

    squares, products, frames = torch.zeros(()), torch.zeros(()), 0
    for wave in kept[len(held) :]:
        rows = seen(wave)
        squares, products = squares + rows.T @ rows, products + rows.T @ target(wave).double()
        frames += len(rows)
    ridge = RIDGE * frames * torch.eye(len(squares), dtype=torch.float64)
    ridge[-1, -1] = 0
    found = torch.linalg.solve(squares + ridge, products).float()
    weight = torch.zeros_like(last.weight)
    weight[: found.shape[1], :used] = found[:-1].T.reshape(-1, used, width)
    bias = torch.zeros(last.out_channels)
    bias[: found.shape[1]] = found[-1]
    _put(last, weight, bias)
    wanted = torch.cat([target(wave) for wave in held])
    error = wanted - torch.cat([seen(wave).float() @ found for wave in held])
    return float(error[:, :-1].square().sum() / (wanted - wanted.mean(0))[:, :-1].square().sum())


def _before(part: Any, convolution: Any, wave: Tensor) -> Tensor:
    """(N,) -> (C, T), what reaches that convolution."""
    found = wave[None, None]
    for layer in part.layers:
        if hasattr(layer, "conv") and layer.conv is convolution:
            break
        found = layer(found)
    return found[0]


def _convolutions(part: Any) -> list[Any]:
    return [layer.conv for layer in part.layers if hasattr(layer, "conv")]


def _small(layer: Any) -> Tensor:
    """Random weights that give a tenth of what comes in."""
    weight = torch.randn_like(layer.weight)
    inputs = weight[0].numel() if isinstance(layer, nn.Conv1d) else 2 * weight.shape[0]
    return 0.1 * weight / inputs**0.5


def _put(layer: Any, weight: Tensor, bias: Tensor) -> None:
    """Weight norm cannot hold rows of zeros: they get next to nothing."""
    empty = weight.flatten(1).norm(dim=1) == 0
    weight[empty] = 1e-6 * torch.randn_like(weight[empty])
    layer.weight = weight
    layer.bias.copy_(bias)


def _silence_lstm(part: Any) -> Any:
    """What it adds to its input becomes 0."""
    (lstm,) = (layer.lstm for layer in part.layers if hasattr(layer, "lstm"))
    for weight in lstm.parameters():
        weight.zero_()
    return lstm


def _nepers(hertz: float) -> float:
    return math.log(hertz / 130)


def _cosines(size: int) -> Tensor:
    """(size, size): the orthonormal cosine transform of the second kind (Ahmed et al., 1974)."""
    k, n = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    rows = torch.cos(torch.pi * (n + 0.5) * k / size) * (2 / size) ** 0.5
    rows[0] /= 2**0.5
    return rows.float()


def _windows(hop: int) -> Tensor:
    """(GAINS, 2 hop): where in two frames a gain counts; from frame to frame they add up to 1."""
    fade = 0.5 - 0.5 * torch.cos(torch.pi * (torch.arange(FADE) + 0.5) / FADE)
    step = hop // GAINS
    one = torch.cat([fade, torch.ones(step - FADE), fade.flip(0)])
    windows = torch.zeros(GAINS, 2 * hop)
    for gain in range(GAINS):
        windows[gain, gain * step : gain * step + len(one)] = one
    return windows


def _snippets(hop: int, rate: int, every: int) -> Tensor:
    """(BANDS, 2 hop) all multiples of `every` frame rates, in random phases, as much of each as the band has of it."""
    shares = _mel_filters(hop, rate)  # (hop / 2 + 1, BANDS)
    heard = torch.arange(len(shares)) % every == 0
    for band in shares.T:
        if not (band * heard).any():  # too narrow to hold a line: it takes the nearest
            band[(band.argmax() / every).round().int().clamp(min=1) * every] = band.amax()
    shares[~heard] = 0
    shares = (shares / shares.sum(1, keepdim=True).clamp(min=1e-9)).sqrt()
    shares[[0, -1]] = 0
    lines = torch.arange(hop // 2 + 1)[:, None] * torch.arange(2 * hop) * 2 * torch.pi / hop
    phases = torch.from_numpy(np.random.default_rng(0).uniform(0, 2 * np.pi, (len(lines), 1))).float()
    return shares.T @ torch.cos(lines + phases)


def _mel_filters(size: int, rate: int) -> Tensor:
    return torch.tensor(mel_filter_bank(size // 2 + 1, BANDS, 0.0, rate / 2, rate), dtype=torch.float32)


def _narrow_filters(size: int, rate: int) -> Tensor:
    """(CENTERS * PHASES, size) tones under a window, at frequencies that are even in mels."""
    centers = mel_to_hertz(np.linspace(hertz_to_mel(60.0), hertz_to_mel(0.475 * rate), CENTERS))
    window = np.hanning(size + 2)[1:-1]
    phases = 2 * np.pi * np.arange(PHASES) / PHASES
    angles = 2 * np.pi * centers[:, None, None] * np.arange(size) / rate + phases[:, None]
    return torch.tensor(window / window.sum() * np.cos(angles), dtype=torch.float32)
