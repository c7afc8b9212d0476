"""The classes that `transformers` loads: a causal language model, and its configuration. Needs the extra `transformers`.

A folder has this module together with the parts of its model, as one file. The model is the package's own: a cache of
transformers is not used, because parts keep more than keys and values.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (  # pyright: ignore[reportMissingImports]
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast  # pyright: ignore[reportMissingImports]

from bitgolf.config.build_context import BuildContext
from bitgolf.config.parse import from_json
from bitgolf.model.decoding.context import decode
from bitgolf.model.decoding.kv_cache import KVCache

CACHE = (
    "cache"
    if "cache" in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    else "past_key_values"
)
"""Name of the argument with what was decoded, which depends on the version of transformers."""


class BitgolfConfig(PretrainedConfig):
    """Configuration of a model. bitgolf: JSON form of the model in the recipe."""

    model_type = "bitgolf"

    def __init__(self, bitgolf: Any = None, vocab_size: int = 0, bos_token_id: int = 1, **kwargs: Any) -> None:
        self.bitgolf, self.vocab_size, self.bos_token_id = bitgolf, vocab_size, bos_token_id
        super().__init__(bos_token_id=bos_token_id, **{"tie_word_embeddings": False, **kwargs})


class DecodedTexts:
    """What was decoded of B texts. seen: columns of `input_ids`, padding included."""

    def __init__(self, rows: int, capacity: int, device: torch.device) -> None:
        self.texts, self.seen = KVCache(rows, capacity, device), 0

    def reserve(self, tokens: int) -> None:
        """Make space for more tokens in each text: at least double the capacity if they do not fit."""
        cache, needed = self.texts, int(self.texts.lengths.max()) + tokens
        if needed > cache.capacity:
            cache.capacity = max(needed, 2 * cache.capacity)
            cache.ids = _lengthened(cache.ids, cache.capacity)
            cache.buffers = {key: _lengthened(buffer, cache.capacity) for key, buffer in cache.buffers.items()}

    def reorder(self, rows: Tensor) -> None:
        """Replace the texts by those of these rows (B,)."""
        cache, on_cpu = self.texts, rows.cpu()
        cache.lengths, cache.oldest, cache.offsets = (x[on_cpu] for x in (cache.lengths, cache.oldest, cache.offsets))
        cache.ids = cache.ids[rows]
        cache.buffers = {key: buffer[rows] for key, buffer in cache.buffers.items()}
        cache.recurrent_state = {key: state[rows] for key, state in cache.recurrent_state.items()}


def _lengthened(buffer: Tensor, slots: int) -> Tensor:
    """A buffer (B, n, …) with `slots` slots, of which the new ones are zero."""
    return torch.cat([buffer, buffer.new_zeros(len(buffer), slots - buffer.shape[1], *buffer.shape[2:])], 1)


class BitgolfForCausalLM(PreTrainedModel, GenerationMixin):
    """A language model of Bitgolf: token ids (B, T) to logits, float32 (B, T, V).

    Texts begin with the token `bos_token_id`, as the tokenizer writes them; the model ends a text with it.
    """

    config_class = BitgolfConfig
    base_model_prefix = "model"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        context = BuildContext(vocab=config.vocab_size, bos=config.bos_token_id)
        self.model = from_json(config.bitgolf)(context)
        for module in self.model.modules():
            for name in module._non_persistent_buffers_set.copy():  # `from_pretrained` would leave them without values
                constant = module._buffers[name]
                delattr(module, name)
                setattr(module, name, constant)
        self.post_init()

    def get_input_embeddings(self) -> Any:
        """Return the embedding."""
        return self.model.embed

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the logits after each token, or after the last `logits_to_keep`, and the mean loss of the labels.

        attention_mask: 0 for padding, which may stand on either side. labels: as input_ids, -100 for none.
        """
        state, counts, order = kwargs.get(CACHE), None, None
        if attention_mask is not None:
            valid = attention_mask[:, -input_ids.shape[1] :] != 0
            if not bool(valid.all()):  # texts first, then padding, which nothing before it attends to
                order = torch.argsort(~valid, dim=1, stable=True, descending=False)
                input_ids, counts = input_ids.gather(1, order), valid.sum(1).cpu()
        if use_cache or state is not None:
            state = state or DecodedTexts(len(input_ids), 2 * input_ids.shape[1], input_ids.device)
            state.reserve(input_ids.shape[1])
            hidden = decode(self.model, state.texts, input_ids, None, counts)
            state.seen += input_ids.shape[1]
        else:
            hidden = self.model.hidden(self.model.forward_context(input_ids))
        if order is not None:
            hidden = hidden.gather(1, torch.argsort(order, dim=1)[..., None].expand_as(hidden))
        logits = self.model.logits(hidden[:, -logits_to_keep:]).float()
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        found = CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: state})
        return found.to_tuple() if return_dict is False else found

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Return the arguments of `forward` for the tokens that are not decoded yet."""
        state = kwargs.get(CACHE)
        new = input_ids[:, state.seen :] if state else input_ids
        kept = {name: kwargs[name] for name in ("use_cache", "logits_to_keep") if kwargs.get(name) is not None}
        return {"input_ids": new, "attention_mask": attention_mask, CACHE: state, **kept}

    def _reorder_cache(self, state: DecodedTexts, beam_idx: Tensor) -> DecodedTexts:
        """Beam search continues the texts of these rows (B,)."""
        state.reorder(beam_idx)
        return state

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False
