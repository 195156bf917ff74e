"""Bark's networks: semantic, coarse and fine stage, and the composite. Ids in, logits and loss out.

Knows nothing of sampling, windows, text or files; `generate` comes from the mixin in `generation_bark`."""

import copy
import inspect

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast, MaskedLMOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .codec.encodec import BarkCodec, hooked_device
from .configuration_bark import BarkCoarseConfig, BarkConfig, BarkFineConfig, BarkSemanticConfig, BarkSubModelConfig
from .engine.decoding import RowCache, SessionPool
from .engine.step import is_plain, stock_forward
from .files.errors import ModelErrors
from .generation_bark import BarkGenerationMixin
from .generation_configuration_bark import BarkGenerationConfig
from .generation_single_stage import (
    CausalStageGenerationMixin,
    CoarseGenerationMixin,
    FineStageGenerate,
    SemanticGenerationMixin,
)

# transformers 5.24 renamed the argument that holds a cache
CACHE_ARGUMENT = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """Attention in plain torch, (B, H, Q, D) -> (B, Q, H, D) and the weights; masks are boolean or additive."""
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2), weights


@stock_forward
class BarkAttention(nn.Module):
    """Multi-head self-attention with a fused projection in q, k, v order; causal or not is a flag."""

    def __init__(self, config: BarkSubModelConfig, layer_idx: int, is_causal: bool):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = is_causal
        self.head_dim = config.hidden_size // config.num_heads
        self.scaling = self.head_dim**-0.5
        self.att_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.bias)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_states: Tensor, attention_mask=None, cache=None, output_attentions=False, last=0):
        """(B, Q, D) -> (B, Q, D) and weights or None; `last` > 0 asks only for that many last positions."""
        batch, length, _ = hidden_states.shape
        heads = self.att_proj(hidden_states).view(batch, length, 3, self.config.num_heads, self.head_dim)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        if last:
            query = query[:, :, -last:]
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(
            self._implementation(cache, output_attentions), eager_attention_forward
        )
        output, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.dropout if self.training else 0.0,
            scaling=self.scaling,
            is_causal=self.is_causal,
        )
        output = self.out_proj(output.reshape(batch, last or length, -1))
        return self.resid_dropout(output), weights

    def _implementation(self, cache, output_attentions: bool) -> str:
        """Only eager gives weights; flash and flex cannot read a decode session's rows of different lengths."""
        wanted = self.config._attn_implementation
        if output_attentions:
            return "eager"
        return "sdpa" if wanted != "eager" and isinstance(cache, RowCache) else wanted


@stock_forward
class BarkMLP(nn.Module):
    def __init__(self, config: BarkSubModelConfig):
        super().__init__()
        self.in_proj = nn.Linear(config.hidden_size, 4 * config.hidden_size, bias=config.bias)
        self.out_proj = nn.Linear(4 * config.hidden_size, config.hidden_size, bias=config.bias)
        self.gelu = nn.GELU()
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.dropout(self.out_proj(self.gelu(self.in_proj(hidden_states))))


@stock_forward
class BarkBlock(GradientCheckpointingLayer):
    """Pre-norm block. LayerNorms follow `bias` where causal and always have one in the fine stage."""

    def __init__(self, config: BarkSubModelConfig, layer_idx: int, is_causal: bool):
        super().__init__()
        bias = config.bias or not is_causal
        self.layernorm_1 = nn.LayerNorm(config.hidden_size, bias=bias)
        self.attn = BarkAttention(config, layer_idx, is_causal)
        self.layernorm_2 = nn.LayerNorm(config.hidden_size, bias=bias)
        self.mlp = BarkMLP(config)

    def forward(self, hidden_states: Tensor, attention_mask=None, cache=None, output_attentions=False, last=0):
        attended, weights = self.attn(self.layernorm_1(hidden_states), attention_mask, cache, output_attentions, last)
        hidden_states = (hidden_states[:, -last:] if last else hidden_states) + attended
        return hidden_states + self.mlp(self.layernorm_2(hidden_states)), weights


class BarkPreTrainedModel(ModelErrors, PreTrainedModel):
    config_class = BarkConfig
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # the Trainer gives `num_items_in_batch` to what says so
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["BarkBlock"]
    _skip_keys_device_placement = ["cache", "past_key_values"]
    _keys_to_ignore_on_load_unexpected = [r"\.attn\.bias$"]  # mask buffers of older files

    @property
    def device(self) -> torch.device:
        """Where inputs belong: the accelerator of an offloaded module, else the parameters' device."""
        return hooked_device(self) or super().device

    def tie_weights(self, *args, **kwargs) -> None:
        """As in transformers; the ties also hold inside accelerate's `init_empty_weights`, which sets a copy of every
        parameter that is assigned. Else `load_checkpoint_and_dispatch` finds nothing to fill tied heads with."""
        ties = self.get_expanded_tied_weights_keys(all_submodels=True)
        before = {target: self.get_parameter(target) for target in ties}
        super().tie_weights(*args, **kwargs)
        for target, source in ties.items():
            if self.get_parameter(target) is not before[target]:
                parent, _, name = target.rpartition(".")
                self.get_submodule(parent)._parameters[name] = self.get_parameter(source)


class BarkStage(BarkPreTrainedModel):
    """What the three stages share: position embeddings, blocks, final norm."""

    config_class = BarkSubModelConfig
    is_causal = True

    def __init__(self, config: BarkSubModelConfig):
        super().__init__(config)
        self.position_embeds_layer = nn.Embedding(config.block_size, config.hidden_size)
        self.drop = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(BarkBlock(config, i, self.is_causal) for i in range(config.num_layers))
        self.layernorm_final = nn.LayerNorm(config.hidden_size, bias=config.bias or not self.is_causal)
        self.gradient_checkpointing = False

    def _run(self, embeds, attention_mask, position_ids, cache, output_hidden_states, output_attentions, last=0):
        """Token embeddings (B, Q, D) -> final hidden states, all hidden states or None, all attentions or None.

        Where only the `last` positions are wanted, the last block computes no others."""
        hidden = self.drop(embeds + self.position_embeds_layer(position_ids))
        all_hidden, all_attentions = [], []
        if attention_mask is not None or output_hidden_states or output_attentions:
            last = 0
        for layer in self.layers:
            wanted = last if layer is self.layers[-1] else 0
            if output_hidden_states:  # what nobody asked for is freed as the layers go
                all_hidden.append(hidden)
            hidden, weights = layer(hidden, attention_mask, cache, output_attentions, wanted)
            if output_attentions:
                all_attentions.append(weights)
        hidden = self.layernorm_final(hidden)
        return (
            hidden,
            (*all_hidden, hidden) if output_hidden_states else None,
            tuple(all_attentions) if output_attentions else None,
        )

    def _embeds(self, input_ids, inputs_embeds, embed) -> Tensor:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of `input_ids` and `inputs_embeds`.")
        return embed(input_ids) if inputs_embeds is None else inputs_embeds

    def _positions(self, embeds: Tensor, position_ids: Tensor | None, past) -> Tensor:
        """Positions of the new tokens, after `past` tokens (an int, or a tensor that is never read on the host)."""
        length, block = embeds.shape[1], self.config.block_size
        if length + (past if isinstance(past, int) else 0) > block:
            raise ValueError(
                f"{length} new positions after {past} exceed `block_size` ({block}); Bark has no positions beyond it."
            )
        if position_ids is not None:
            return position_ids
        return (torch.arange(length, device=embeds.device) + past)[None]

    def _mask_config(self, output_attentions: bool) -> BarkSubModelConfig:
        """What masks are made for: the kernel that will run, which is eager where weights are wanted."""
        if not output_attentions:
            return self.config
        config = copy.copy(self.config)
        config._attn_implementation = "eager"
        return config

    def _loss(self, logits: Tensor, labels: Tensor, num_items_in_batch: int | Tensor | None) -> Tensor:
        divisor = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
        return self.loss_function(logits, labels, vocab_size=self.config.output_vocab_size, **divisor)

    def _flags(self, output_hidden_states, output_attentions, return_dict):
        config = self.config
        return (
            config.output_hidden_states if output_hidden_states is None else output_hidden_states,
            config.output_attentions if output_attentions is None else output_attentions,
            config.return_dict if return_dict is None else return_dict,
        )


@stock_forward
class BarkCausalModel(BarkStage, CausalStageGenerationMixin):
    """A causal stage: `input_vocab_size` embeddings, an untied head of `output_vocab_size`."""

    _can_compile_fullgraph = True

    def __init__(self, config: BarkSubModelConfig):
        super().__init__(config)
        self.sessions = SessionPool()
        self.loss_type = "ForCausalLM"
        self.input_embeds_layer = nn.Embedding(config.input_vocab_size, config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.output_vocab_size, bias=False)
        self.post_init()

    def _apply(self, fn, recurse: bool = True):
        self.sessions.clear()  # of the stage's own `generate`; their caches are where the weights were
        return super()._apply(fn, recurse)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.input_embeds_layer

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.input_embeds_layer = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache=None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        history_ids: Tensor | None = None,
        logits_range: tuple[int, int] | None = None,
        num_items_in_batch: int | Tensor | None = None,
        past_key_values=None,
    ) -> CausalLMOutputWithPast | tuple:
        """input_ids (B, Q) or inputs_embeds (B, Q, D) -> logits (B, Q or kept, output_vocab_size).

        Semantic inputs are (B, 257 + S): text, the infer token, semantic ids; their history_ids (B, 256) is semantic
        history, whose embeddings are added to those of the first 256 positions.
        `logits_to_keep` is a number of last positions (0: all), a tensor of positions, or one of (B, n) positions for
        each row; `logits_range` cuts the vocabulary to [first, end). `labels` (B, Q) are shifted inside, -100 is
        ignored; `num_items_in_batch` sets the loss's divisor. `cache` is any of transformers' caches;
        `past_key_values` is its name before transformers 5.24 and means the same in every version."""
        if cache is not None and past_key_values is not None:
            raise ValueError("`cache` and `past_key_values` are two names of one argument; pass only `cache`.")
        cache = past_key_values if cache is None else cache
        embeds = self._embeds(input_ids, inputs_embeds, self.input_embeds_layer)
        if history_ids is not None:
            embeds = self._add_history(embeds, history_ids)
        output_hidden_states, output_attentions, return_dict = self._flags(
            output_hidden_states, output_attentions, return_dict
        )
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and cache is None and not self.training and labels is None:
            cache = DynamicCache(config=self.config)
        if isinstance(cache, RowCache):
            attention_mask = cache.mask
            if attention_mask is None and embeds.shape[1] > 1 and self.config._attn_implementation == "eager":
                attention_mask = torch.ones(
                    1, 1, *2 * embeds.shape[1:2], dtype=torch.bool, device=embeds.device
                ).tril()
        else:
            past = cache.get_seq_length() if cache is not None else 0
            position_ids = self._positions(embeds, position_ids, past)
            attention_mask = create_causal_mask(
                config=self._mask_config(output_attentions),
                inputs_embeds=embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                **{CACHE_ARGUMENT: cache},
            )
        # a static cache returns its empty positions, which only a mask or causality over all positions hides
        one = isinstance(logits_to_keep, int) and logits_to_keep == 1 and labels is None
        last = int(one and (cache is None or isinstance(cache, RowCache | DynamicCache)))
        hidden, all_hidden, attentions = self._run(
            embeds, attention_mask, position_ids, cache, output_hidden_states, output_attentions, last
        )
        logits = _head(self.lm_head, _keep(hidden, logits_to_keep), logits_range)
        loss = None
        if labels is not None:
            loss = self._loss(logits, labels, num_items_in_batch)
        output = CausalLMOutputWithPast(loss, logits, cache if use_cache else None, all_hidden, attentions)
        return output if return_dict else output.to_tuple()

    def _add_history(self, embeds: Tensor, history_ids: Tensor) -> Tensor:
        length, covered = embeds.shape[1], history_ids.shape[1]
        if covered > length:
            raise ValueError(f"`history_ids` covers {covered} positions, the input only {length}.")
        return embeds + nn.functional.pad(self.input_embeds_layer(history_ids), (0, 0, 0, length - covered))


class BarkSemanticModel(SemanticGenerationMixin, BarkCausalModel):
    """Text to semantic tokens."""

    config_class = BarkSemanticConfig
    base_model_prefix = "semantic"
    _keys_to_ignore_on_load_unexpected = [r"\.attn\.bias$", r"^(coarse_acoustics|fine_acoustics|codec_model)\."]

    def get_output_embeddings(self) -> None:
        """None: the head has a vocabulary of its own, which resizing the input must not touch."""


class BarkCoarseModel(CoarseGenerationMixin, BarkCausalModel):
    """Semantic tokens to the first two codebooks; one id space at both ends, so both ends are resized together."""

    config_class = BarkCoarseConfig
    base_model_prefix = "coarse_acoustics"
    _keys_to_ignore_on_load_unexpected = [r"\.attn\.bias$", r"^(semantic|fine_acoustics|codec_model)\."]

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.lm_head = value

    def resize_token_embeddings(self, *args, **kwargs):
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        self.config.output_vocab_size = self.lm_head.out_features
        return embeddings


@stock_forward
class BarkCodebookEmbeddings(nn.ModuleList):
    """One embedding table for each codebook; called as one module, so that hooks on it see its output."""

    def forward(self, input_ids: Tensor, codebook_idx: int | list[int]) -> Tensor:
        """(B, T, K) ids -> (B, T, D), the sum over codebooks 0..codebook_idx, which may be each row's own."""
        if not isinstance(codebook_idx, int):
            rows = zip(input_ids.split(1), codebook_idx, strict=True)
            return torch.cat([self.forward(row, codebook) for row, codebook in rows])
        embeds = self[0](input_ids[..., 0])
        for codebook in range(1, codebook_idx + 1):
            embeds = embeds + self[codebook](input_ids[..., codebook])
        return embeds


@stock_forward
class BarkFineModel(FineStageGenerate, BarkStage):
    """Codebooks to the next codebook, not causal: 8 embedding tables, 7 heads; head i is tied to table i + 1."""

    config_class = BarkFineConfig
    base_model_prefix = "fine_acoustics"
    is_causal = False
    _keys_to_ignore_on_load_unexpected = [r"\.attn\.bias$", r"^(semantic|coarse_acoustics|codec_model)\."]

    def __init__(self, config: BarkFineConfig):
        super().__init__(config)
        self.loss_type = "ForMaskedLM"  # labels are not shifted
        heads = config.n_codes_total - config.n_codes_given
        self.input_embeds_layers = BarkCodebookEmbeddings(
            nn.Embedding(config.input_vocab_size, config.hidden_size) for _ in range(config.n_codes_total)
        )
        self.lm_heads = nn.ModuleList(
            nn.Linear(config.hidden_size, config.output_vocab_size, bias=False) for _ in range(heads)
        )
        self._tied_weights_keys = {f"lm_heads.{i}.weight": f"input_embeds_layers.{i + 1}.weight" for i in range(heads)}
        self.post_init()

    def get_input_embeddings(self) -> BarkCodebookEmbeddings:
        return self.input_embeds_layers

    def set_input_embeddings(self, value: BarkCodebookEmbeddings) -> None:
        self.input_embeds_layers = value

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> BarkCodebookEmbeddings:
        """Resizes all tables and, through their ties, all heads; new rows start at the old rows' mean by default."""
        if new_num_tokens is None and pad_to_multiple_of is None:
            return self.input_embeds_layers
        resized = [
            self._get_resized_embeddings(table, new_num_tokens, pad_to_multiple_of, mean_resizing)
            for table in self.input_embeds_layers
        ]
        self.input_embeds_layers = BarkCodebookEmbeddings(resized)
        size = resized[0].num_embeddings
        if self.config.tie_word_embeddings:
            self.config.output_vocab_size = size
            for head in self.lm_heads:
                head.out_features = size
        self.config.input_vocab_size = size
        self.tie_weights()
        return self.input_embeds_layers

    def forward(
        self,
        codebook_idx: int | Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        logits_range: tuple[int, int] | None = None,
        num_items_in_batch: int | Tensor | None = None,
    ) -> MaskedLMOutput | tuple:
        """input_ids (B, T, n_codes_total) -> logits (B, T, output_vocab_size) of codebook `codebook_idx`.

        inputs_embeds (B, T, D) is the sum of the tables instead. `logits_to_keep` is a number of last frames (0: all),
        `logits_range` cuts the vocabulary to [first, end).

        The input is the sum of the tables of codebooks 0..codebook_idx, so codebook_idx itself is read at its old id.
        `codebook_idx` is one for all or (B,), each row's own; without it, the first codebook that has a head,
        `config.n_codes_given`. `labels` (B, T) are that codebook's ids, not shifted; -100 is ignored;
        `num_items_in_batch` sets the loss's divisor."""
        first, total = self.config.n_codes_given, self.config.n_codes_total
        if codebook_idx is None:
            codebook_idx = first
        if isinstance(codebook_idx, Tensor) and codebook_idx.dim() > 1:
            raise ValueError(
                f"`codebook_idx` must be an integer or one for each row (B,), got {tuple(codebook_idx.shape)}. Pass "
                "the codes by name: model(input_ids=codes, codebook_idx=2)."
            )
        codebooks = torch.as_tensor(codebook_idx, device="cpu").flatten().tolist()
        per_row = isinstance(codebook_idx, Tensor) and codebook_idx.dim() > 0
        if not all(first <= codebook < total for codebook in codebooks):
            raise ValueError(f"`codebook_idx` must be {first} to {total - 1}, got {codebook_idx}.")
        output_hidden_states, output_attentions, return_dict = self._flags(
            output_hidden_states, output_attentions, return_dict
        )
        upto = codebooks if per_row else codebooks[0]
        embeds = self._embeds(input_ids, inputs_embeds, lambda ids: self.input_embeds_layers(ids, upto))
        position_ids = self._positions(embeds, position_ids, 0)
        mask = create_bidirectional_mask(
            config=self._mask_config(output_attentions), inputs_embeds=embeds, attention_mask=attention_mask
        )
        hidden, all_hidden, attentions = self._run(
            embeds, mask, position_ids, None, output_hidden_states, output_attentions, last=logits_to_keep
        )
        rows = _keep(hidden, logits_to_keep).split(1 if per_row else len(hidden))
        heads = [self.lm_heads[codebook - first] for codebook in codebooks]
        parts = [_head(head, row, logits_range) for head, row in zip(heads, rows, strict=True)]
        logits = torch.cat(parts) if per_row else parts[0]
        loss = None
        if labels is not None:
            loss = self._loss(logits, labels, num_items_in_batch)
        output = MaskedLMOutput(loss=loss, logits=logits, hidden_states=all_hidden, attentions=attentions)
        return output if return_dict else output.to_tuple()


class BarkModel(BarkPreTrainedModel, BarkGenerationMixin):
    """Text to waveform: `semantic`, `coarse_acoustics`, `fine_acoustics`, `codec_model`, and `generate` over them."""

    config_class = BarkConfig
    output_modalities = ("audio",)
    generation_config_class = BarkGenerationConfig
    main_input_name = "input_ids"
    _no_split_modules = ["BarkBlock", "BarkCodebookEmbeddings"]  # automatic device maps cannot divide tied lists

    def __init__(self, config: BarkConfig):
        super().__init__(config)
        self.generation_config = BarkGenerationConfig()
        self.sessions = SessionPool()
        self.semantic = BarkSemanticModel(config.semantic_config)  # type: ignore[arg-type]
        self.coarse_acoustics = BarkCoarseModel(config.coarse_acoustics_config)  # type: ignore[arg-type]
        self.fine_acoustics = BarkFineModel(config.fine_acoustics_config)  # type: ignore[arg-type]
        self.codec_model = BarkCodec(config.codec_config)
        self.post_init()
        kind = type(self._keys_to_ignore_on_load_unexpected)  # list or set, by transformers' version
        self._keys_to_ignore_on_load_unexpected = kind([r"\.attn\.bias$"])  # not the stages', which ignore each other

    def forward(self, *args, **kwargs):
        raise TypeError(
            "BarkModel is a cascade and has no forward. Use `generate`, or train a stage: `model.semantic`, "
            "`model.coarse_acoustics`, `model.fine_acoustics`."
        )

    def _apply(self, fn, recurse: bool = True):
        self.sessions.clear()
        return super()._apply(fn, recurse)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.semantic.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.semantic.set_input_embeddings(value)

    def resize_token_embeddings(self, *args, **kwargs):
        raise TypeError(
            "Each stage has its own vocabulary: call `resize_token_embeddings` of `model.semantic`, "
            "`model.coarse_acoustics` or `model.fine_acoustics`."
        )


def _head(head: nn.Module, hidden: Tensor, logits_range: tuple[int, int] | None) -> Tensor:
    """The head's logits, or those of the ids in [first, end); a plain head then reads only their weights."""
    if logits_range is None:
        return head(hidden)
    first, end = logits_range
    if is_plain(head) and head.bias is None:
        return nn.functional.linear(hidden, head.weight[first:end])
    return head(hidden)[..., first:end]


def _keep(hidden: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """(B, Q, D) -> the positions that logits are wanted for."""
    if isinstance(logits_to_keep, Tensor) and logits_to_keep.dim() == 2:
        return hidden.gather(1, logits_to_keep.to(hidden.device)[..., None].expand(-1, -1, hidden.shape[-1]))
    if isinstance(logits_to_keep, Tensor):
        return hidden[:, logits_to_keep.to(hidden.device)]
    return hidden[:, -logits_to_keep:] if logits_to_keep else hidden
