"""EnCodec at the end of the cascade: codebook ids to waveform and back, each sample as if it were alone.

Knows nothing of Bark's stages. The network is transformers' `EncodecModel`; it stays in float32."""

import copy
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EncodecModel

from ..files.errors import ModelErrors


def hooked_device(module: nn.Module) -> torch.device | None:
    """The device that accelerate's hooks run an offloaded module on; None where there are no hooks."""
    for part in module.modules():
        hook = part.__dict__.get("_hf_hook")
        wanted = vars(hook).get("execution_device") if hook is not None else None
        if wanted is not None:
            return torch.device(wanted)
    return None


def is_offloaded(module: nn.Module) -> bool:
    """Whether accelerate's hooks bring the weights, or some of them, only for a call of the module's forward."""
    hooks = (part.__dict__.get("_hf_hook") for part in module.modules())
    return any(hook is not None and vars(hook).get("offload", True) for hook in hooks)


class BarkCodec(ModelErrors, EncodecModel):
    """`EncodecModel` that accepts every attention setting (it has no attention) and that keeps its precision."""

    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict = {"encoder", "decoder", "quantizer"}
    _keys_to_ignore_on_load_unexpected = [r"^(semantic|coarse_acoustics|fine_acoustics)\."]  # of a whole Bark

    @property
    def device(self) -> torch.device:
        """Where inputs belong: the accelerator of an offloaded codec, else the parameters' device."""
        return hooked_device(self) or super().device

    def in_float32(self) -> AbstractContextManager:
        """A context that keeps an autocast around it out: the network would round, and give another type."""
        kind = self.device.type
        return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()

    def forward(
        self,
        input_values: Tensor | None = None,
        *args,
        audio_codes: Tensor | None = None,
        n_codebooks: int | None = None,
        **kwargs,
    ):
        """Codes alone, (B, K, T), give the waveform (B, N), and waveforms (B, 1, N) with `n_codebooks` their codes;
        else `EncodecModel.forward`. One door for all, since an offloaded codec has its weights in calls of it only.
        All of it runs in float32, under autocast too."""
        with self.in_float32():
            if input_values is None and audio_codes is not None:
                return self.decode(audio_codes[None], [None]).audio_values[:, 0]
            if n_codebooks is not None:
                bits = math.log2(self.config.codebook_size)
                bandwidth = (n_codebooks + 0.5) * self.config.frame_rate * bits / 1000  # kbps, rounded down
                return self.quantizer.encode(self.encoder(input_values), bandwidth).transpose(0, 1)
            return super().forward(input_values, *args, audio_codes=audio_codes, **kwargs)

    @property
    def is_causal(self) -> bool:
        """No sample depends on later codes: no look-ahead, and nothing is normalized over time."""
        config = self.config
        return config.use_causal_conv and config.norm_type == "weight_norm" and config.trim_right_ratio == 1.0

    def decode_all(self, codes: list[Tensor]) -> list[Tensor]:
        """List of (K, T_i) codes -> list of (N_i,) float32, each as if it were alone.

        A causal codec decodes a row with up to an eighth more frames and cuts them off: a CPU's library keeps memory
        for every length that it meets. A CPU takes the rows one by one, which is twice as fast."""
        waves: list[Tensor] = [torch.zeros(0, dtype=torch.float32, device=self.device) for _ in codes]
        by_length: dict[int, list[int]] = {}
        for row, one in enumerate(codes):
            if one.shape[-1]:
                by_length.setdefault(self._padded(one.shape[-1]), []).append(row)
        for length, rows in by_length.items():
            for group in [[row] for row in rows] if self.device.type == "cpu" else [rows]:
                padded = [nn.functional.pad(codes[row], (0, length - codes[row].shape[-1])) for row in group]
                audio = self(audio_codes=torch.stack(padded).to(self.device))
                for row, wave in zip(group, audio, strict=True):
                    waves[row] = wave[: codes[row].shape[-1] * self.config.hop_length].clone()
        return waves

    def _padded(self, length: int) -> int:
        """At least `length` frames, one of eight counts between a power of two and the next; small ones stay, as the
        first convolution's left edge would reflect their pad."""
        if not self.is_causal or length <= max(16, self.config.kernel_size):
            return length
        grain = 1 << ((length - 1).bit_length() - 4)
        return -(-length // grain) * grain

    @torch.inference_mode()
    def encode_all(self, waves: list[Tensor], n_codebooks: int) -> list[Tensor]:
        """List of (N_i,) waveforms at the codec's sample rate -> list of (n_codebooks, T_i) codes, one by one."""
        return [self(wave.to(self.device, torch.float32)[None, None], n_codebooks=n_codebooks)[0] for wave in waves]

    def _apply(self, fn, recurse=True):
        def keep_dtype(tensor):
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_dtype, recurse)

    def __reduce__(self):
        """Pickled, so by `torch.save(model)` too, as config and weights: modules with weight norms refuse it."""
        if is_offloaded(self):
            raise TypeError(
                "A model that is offloaded cannot be pickled: use `save_pretrained` and `from_pretrained`."
            )
        trainable = [parameter.requires_grad for parameter in self.parameters()]
        return _rebuilt, (type(self), self.config, dict(self.state_dict()), trainable, self.training)

    def __deepcopy__(self, memo: dict[int, Any]) -> "BarkCodec":
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied


def _rebuilt(
    codec_class: type[BarkCodec], config, weights: dict[str, Tensor], trainable: list[bool], training: bool
) -> BarkCodec:
    """A pickled codec, where its weights are."""
    with torch.random.fork_rng(devices=[]):  # the weights that it starts with are thrown away
        codec = codec_class(config)
    codec.load_state_dict(weights, assign=True)
    for parameter, wanted in zip(codec.parameters(), trainable, strict=True):
        parameter.requires_grad_(wanted)
    return codec.to(next(codec.parameters()).device).train(training)  # the buffers, which are no weights, follow
