"""What the benchmarks measure against: transformers' Llama, of the same shape as a PicoLM."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from picolm_lib.config import PicoConfig
from picolm_lib.model.mlp import pyramid_widths
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.muon import MuonAdamW, parameter_groups


class Llama(nn.Module):
    """LlamaForCausalLM with the same depth, width, heads, context and vocabulary, untied.

    Its MLPs are as wide as the pyramid is on the average, so they have as many parameters. What is
    left over on PicoLM's side: two norms more in a block, QK-norm, biases and the output gate.
    """

    def __init__(self, config: PicoConfig) -> None:
        super().__init__()
        self.config, widths = config, pyramid_widths(config)
        self.llama = LlamaForCausalLM(LlamaConfig(
            vocab_size=config.vocab_size, hidden_size=config.d_model,
            intermediate_size=round(sum(widths) / len(widths)),
            num_hidden_layers=config.n_layers, num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads, max_position_embeddings=config.max_seq_len,
            tie_word_embeddings=False))
        self.output = self.llama.lm_head

    def hidden(self, tokens: Tensor) -> Tensor:
        """(B, T) token ids to (B, T, D)."""
        return self.llama.model(tokens).last_hidden_state

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over all logits at once, as LlamaForCausalLM computes it."""
        return self.llama(input_ids=tokens, labels=targets, shift_labels=targets).loss


class FullLogits(nn.Module):
    """PicoLM with all logits held at once."""

    def __init__(self, config: PicoConfig) -> None:
        super().__init__()
        self.config, self.pico = config, PicoLM(config)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """F.cross_entropy of model(tokens)."""
        return F.cross_entropy(self.pico(tokens).flatten(0, 1), targets.flatten())


class TorchMuon:
    """torch.optim.Muon and torch.optim.AdamW over the groups of `parameter_groups`.

    torch.optim.Muon takes single matrices, so q, k, v and the heads' gates are views of their
    parameters, and so are their gradients.
    """

    def __init__(self, model: PicoLM) -> None:
        self.whole = [(parameter, group["rows"]) for group in parameter_groups(model)
                      if group["kind"] == "muon" for parameter in group["params"]]
        self.split = MuonAdamW(parameter_groups(model)).matrices
        self.pieces = [[nn.Parameter(piece) for piece in self.split(whole.detach(), rows)]
                       for whole, rows in self.whole]
        others = [p for group in parameter_groups(model) if group["kind"] == "adamw"
                  for p in group["params"]]
        self.muon = torch.optim.Muon([p for each in self.pieces for p in each], lr=0.01)
        self.adamw = torch.optim.AdamW(others, lr=0.01, fused=others[0].is_cuda)

    def step(self) -> None:
        """Both optimizers, one after the other."""
        for (whole, rows), pieces in zip(self.whole, self.pieces, strict=True):
            for piece, grad in zip(pieces, self.split(whole.grad, rows), strict=True):
                piece.grad = grad
        self.muon.step()
        self.adamw.step()

    def zero_grad(self) -> None:
        """Of the whole parameters and of their pieces."""
        self.adamw.zero_grad()
        for (whole, _), pieces in zip(self.whole, self.pieces, strict=True):
            whole.grad = None
            for piece in pieces:
                piece.grad = None
