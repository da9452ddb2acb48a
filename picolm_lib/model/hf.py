"""PicoLM as a model of the `transformers` library, so that its tools work with it.

Importing this module makes `AutoConfig` and `AutoModelForCausalLM` know the model. A folder that
`save_pretrained` writes carries its own code, too: this file, and those beside it that it imports
*relatively*, which is how transformers knows what belongs to a model's code. Whoever has the folder
and no `picolm_lib` can load it with `trust_remote_code=True`, after reading it.

The weights are those of `PicoLM`, under the prefix "model.". Positions are never stored: RoPE is
computed on every call, so there is no buffer that a load could lose.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

# Not used here, but transformers up to 5.9 copies only what this file imports itself.
from .attention import Attention  # noqa: F401
from .config import PicoConfig
from .fast import rms_norm  # noqa: F401
from .init import initial_value
from .loss import linear_cross_entropy  # noqa: F401
from .mlp import MLP  # noqa: F401
from .norm import RMSNorm  # noqa: F401
from .picolm import PicoLM
from .rope import rope_tables  # noqa: F401


class PicoLMConfig(PretrainedConfig):
    """The fields of `PicoConfig`, with its defaults, as a configuration of transformers.

    The names that other models use, such as `hidden_size`, work as well.

    Raises:
        PicoError: the values describe no model, as in `PicoConfig`.
    """

    model_type = "picolm"
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {"hidden_size": "d_model", "num_hidden_layers": "n_layers",
                     "num_attention_heads": "n_heads", "num_key_value_heads": "n_kv_heads",
                     "max_position_embeddings": "max_seq_len"}

    def __init__(self, use_cache: bool = True, **kwargs: Any) -> None:
        own = {self.attribute_map.get(name, name): value for name, value in kwargs.items()}
        names = [field.name for field in fields(PicoConfig)]
        described = PicoConfig(**{name: own.pop(name) for name in names if name in own})
        for name in names:
            setattr(self, name, getattr(described, name))
        self.use_cache = use_cache
        super().__init__(**{"tie_word_embeddings": False, **own})

    def to_pico(self) -> PicoConfig:
        """The same model as a `PicoConfig`."""
        return PicoConfig(**{field.name: getattr(self, field.name) for field in fields(PicoConfig)})


class PicoForCausalLM(PreTrainedModel, GenerationMixin):
    """A `PicoLM` that transformers can load, save, fine-tune, and generate with."""

    config_class = PicoLMConfig
    base_model_prefix = "model"
    _no_split_modules = ["Block"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_sdpa = True

    def __init__(self, config: PicoLMConfig) -> None:
        super().__init__(config)
        self.model = PicoLM(config.to_pico())
        # The model has initialized itself, unless it is on the meta device.
        for module in self.model.modules():
            module._is_hf_initialized = not self.model.output.weight.is_meta
        self.post_init()

    @classmethod
    def wrap(cls, model: PicoLM, **special_tokens: Any) -> PicoForCausalLM:
        """Wraps a trained model for transformers. They share their weights.

        Args:
            special_tokens: such as `eos_token_id`, for the configuration.
        """
        sizes: dict[str, Any] = {
            field.name: getattr(model.config, field.name) for field in fields(PicoConfig)}
        with torch.device("meta"):
            wrapped = cls(PicoLMConfig(**sizes, **special_tokens))
        wrapped.model = model
        return wrapped

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None,
                position_ids: Tensor | None = None, past_key_values: Cache | None = None,
                labels: Tensor | None = None, use_cache: bool | None = None,
                logits_to_keep: int | Tensor = 0, output_attentions: bool | None = None,
                output_hidden_states: bool | None = None, return_dict: bool | None = None,
                **kwargs: Any) -> CausalLMOutputWithPast | tuple:
        """One pass, with the arguments of every causal model of transformers.

        Args:
            input_ids: (B, T).
            attention_mask: (B, S), 0 where a token is padding, for all S tokens with the cached
                ones; or (B, 1, T, S), True where a token may see another.
            position_ids: (B, T). None continues from the end of the cache.
            past_key_values: keys and values of the tokens before these; new ones are added.
            labels: (B, T), the input ids; -100 where no loss is wanted. They are shifted here.
            use_cache: whether to begin a cache where there is none; not while training.
            logits_to_keep: only the last so many positions, or those of an index (0: all).

        Returns:
            Logits (B, T, V) in float32, the cache, and with labels the mean loss in nats.

        Raises:
            ValueError: the tokens exceed the model's context, or something is asked for that this
                model does not give.
        """
        if output_attentions or output_hidden_states:
            raise ValueError("PicoLM returns logits only, no attentions and no hidden states; "
                             "picolm_lib.course shows how to record them.")
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if isinstance(past, int):
            self._check_length(past + input_ids.shape[1])
        if position_ids is None:
            position_ids = past + torch.arange(input_ids.shape[1], device=input_ids.device)
        mask = visible(attention_mask, input_ids, past, _static_length(past_key_values))
        state = self.model.hidden(input_ids, past_key_values, position_ids, mask)  # (B, T, D)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.model.output(state[:, kept]).float()                  # (B, T or fewer, V)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=logits.shape[-1], **kwargs)
        output = CausalLMOutputWithPast(loss, logits, past_key_values if use_cache else None)
        return output if return_dict is not False else output.to_tuple()

    def _check_length(self, length: int) -> None:
        if length > self.config.max_seq_len:
            raise ValueError(
                f"{length} tokens exceed this model's context of {self.config.max_seq_len}; "
                f"shorten the prompt, or generate with max_length={self.config.max_seq_len}.")

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Values for what a checkpoint did not contain. What it contained is marked, and stays."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for parameter in module.parameters(recurse=False):
            if not (parameter.is_meta or getattr(parameter, "_is_hf_initialized", False)):
                name = names.get(id(parameter), "embedding.weight")  # new: a larger vocabulary
                parameter.copy_(initial_value(name, parameter.shape, self.model.config))

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.embedding = value

    def get_output_embeddings(self) -> nn.Module:
        return self.model.output

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.model.output = new_embeddings


def visible(attention_mask: Tensor | None, input_ids: Tensor, past: int | Tensor = 0,
            static_length: int | None = None) -> Tensor | None:
    """Which keys each query sees.

    Args:
        attention_mask: (B, S), 0 where a token is padding. (B, 1, T, S) is returned as it is.
        input_ids: (B, T), the queries.
        past: tokens that are in the cache already.
        static_length: tokens for which the cache has memory, where it always returns all of it.

    Returns:
        (B, 1, T, S) bool. None where there is neither padding nor unused memory: then attention is
        simply causal, which has faster kernels.
    """
    if attention_mask is not None and attention_mask.ndim == 4:
        return attention_mask
    # A value decides: not while compiling, when values are unknown.
    if attention_mask is not None and not torch.compiler.is_compiling() and attention_mask.all():
        attention_mask = None
    if attention_mask is None and static_length is None:
        return None
    batch, length = input_ids.shape
    keys = torch.arange(static_length or cast(int, past) + length, device=input_ids.device)
    queries = (past + torch.arange(length, device=input_ids.device))[:, None]  # (T, 1)
    mask = (keys <= queries).expand(batch, 1, -1, -1)                       # (B, 1, T, S)
    if attention_mask is None:
        return mask
    known = F.pad(attention_mask.bool(), (0, len(keys) - attention_mask.shape[1]), value=True)
    # Padding at the left sees nothing, and a softmax over nothing is NaN: it may see itself.
    return mask & known[:, None, None, :] | (keys == queries)


def _static_length(cache: Cache | None) -> int | None:
    layers = getattr(cache, "layers", None)
    return getattr(layers[0], "max_cache_len", None) if layers else None


PicoLMConfig.register_for_auto_class()
PicoForCausalLM.register_for_auto_class("AutoModelForCausalLM")
if __name__ == "picolm_lib.model.hf":  # a copy in a folder is found by that folder's config.json
    AutoConfig.register(PicoLMConfig.model_type, PicoLMConfig)
    AutoModelForCausalLM.register(PicoLMConfig, PicoForCausalLM)
