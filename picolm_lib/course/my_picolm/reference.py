"""The functions that the learner writes, as the course writes them: PicoLM in nine parts.

They stand in my_picolm.py until the learner's are there; given.py has the rest, and the letters.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


# ---- Part 1 of 9: the tokenizer's merges ----
# merge: the course's, until you write it
def merge(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """The ids with `new` in place of every occurrence of the pair, from left to right."""
    merged, place = [], 0
    while place < len(ids):
        found = tuple(ids[place:place + 2]) == pair
        merged.append(new if found else ids[place])
        place += 2 if found else 1
    return merged


# learn_merges: the course's, until you write it
def learn_merges(words: dict[tuple[int, ...], int], count: int, first_new: int = 262,
                 ) -> dict[tuple[int, int], int]:
    """{pair: new id} of the first merges; words is {the ids of a word: how often it occurs}."""
    merges: dict[tuple[int, int], int] = {}
    for new in range(first_new, first_new + count):
        pairs: Counter[tuple[int, int]] = Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:], strict=False):
                pairs[pair] += times
        if not pairs:
            break
        # The most frequent pair; among equals the smallest.
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges[best] = new
        words = {tuple(merge(list(word), best, new)): times for word, times in words.items()}
    return merges


# encode_word: the course's, until you write it
def encode_word(ids: list[int], merges: dict[tuple[int, int], int]) -> list[int]:
    """The ids of a word's bytes, merged in the order in which the merges were learned."""
    for pair, new in merges.items():
        ids = merge(ids, pair, new)
    return ids


# decode: the course's, until you write it
def decode(ids: list[int], vocabulary: list[bytes]) -> str:
    """The text; a character whose bytes are not all there becomes a replacement sign."""
    return b"".join(vocabulary[token] for token in ids).decode("utf-8", errors="replace")


# ---- Part 2 of 9: causal attention ----
# causal_attention: the course's, until you write it
def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, H, T, E) queries, the last T of the S positions of (B, H, S, E) k and v: (B, H, T, E)."""
    length, total = q.shape[2], k.shape[2]
    scores = q @ k.mT / math.sqrt(q.shape[3])                        # (B, H, T, S)
    visible = torch.ones(length, total, dtype=torch.bool, device=q.device).tril(total - length)
    return scores.masked_fill(~visible, float("-inf")).softmax(dim=-1) @ v


# ---- Part 3 of 9: RoPE ----
# rope_tables: the course's, until you write it
def rope_tables(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (T, E/2), of position * theta^(-2i/E), for (T,) positions."""
    pair = torch.arange(0, head_dim, 2, device=positions.device)     # (E/2,): 2i
    angles = positions.float()[..., None] * theta ** (-pair / head_dim)
    return angles.cos(), angles.sin()


# apply_rope: the course's, until you write it
def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns features i and i + E/2 of (B, T, H, E) by their position's angle: (B, T, H, E)."""
    cos, sin = cos.unsqueeze(-2).to(x.dtype), sin.unsqueeze(-2).to(x.dtype)  # (T, 1, E/2)
    first, second = x.chunk(2, dim=-1)                               # (B, T, H, E/2)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


# ---- Part 4 of 9: shared keys and values, with a cache ----
# expand_kv: the course's, until you write it
def expand_kv(kv: Tensor, n_heads: int) -> Tensor:
    """(B, K, S, E) to (B, H, S, E): neighboring query heads share a KV head."""
    return kv.repeat_interleave(n_heads // kv.shape[1], dim=1)


# KVCache: the course's, until you write it
class KVCache:
    """The keys and values of the tokens read so far, by layer."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Adds (B, K, T, E) keys and values, returns all of the layer's: (B, K, S, E)."""
        if layer in self.kept:
            keys, values = self.kept[layer]
            key, value = torch.cat((keys, key), dim=2), torch.cat((values, value), dim=2)
        self.kept[layer] = key, value
        return key, value

    def get_seq_length(self) -> int:
        """Tokens read so far: S."""
        return self.kept[0][0].shape[2] if self.kept else 0


# ---- Part 5 of 9: RMSNorm ----
# rms_norm: the course's, until you write it
def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * gain, in float32: (..., D) to (..., D)."""
    x = x.float()
    return x / (x.pow(2).mean(dim=-1, keepdim=True) + eps).sqrt() * gain


# ---- Part 6 of 9: SwiGLU ----
# swiglu: the course's, until you write it
def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of (..., W) both."""
    return F.silu(gate) * up


# ---- Part 7 of 9: block and model ----
# attention: the course's, until you write it
def attention(x: Tensor, w: dict[str, Tensor], config: dict[str, Any], cos: Tensor, sin: Tensor,
              cache: KVCache, layer: int) -> Tensor:
    """Mixes the tokens, (B, T, D) to (B, T, D). w: the weights of one block, by name."""
    heads, kv_heads, eps = config["n_heads"], config["n_kv_heads"], config["norm_eps"]
    qkv = F.linear(x, w["attn.qkv.weight"], w["attn.qkv.bias"])      # (B, T, (H + 2K) E)
    qkv = qkv.unflatten(-1, (heads + 2 * kv_heads, -1))              # (B, T, H + 2K, E)
    q, k, v = qkv.split((heads, kv_heads, kv_heads), dim=2)          # (B, T, H or K, E)
    q, k = rms_norm(q, w["attn.q_norm.weight"], eps), rms_norm(k, w["attn.k_norm.weight"], eps)
    gate = torch.einsum("bthe,hfe->bthf", q, w["attn.gate"]).sigmoid()   # (B, T, H, E)
    q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))                 # (B, H or K, T, E)
    k, v = cache.update(k, v, layer)                                 # (B, K, S, E)
    y = causal_attention(q, expand_kv(k, heads), expand_kv(v, heads))    # (B, H, T, E)
    y = y.transpose(1, 2) * gate                                     # (B, T, H, E)
    return F.linear(y.flatten(2), w["attn.out.weight"])              # (B, T, D)


# mlp: the course's, until you write it
def mlp(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    """Each token alone: (B, T, D) to (B, T, W) and back."""
    inside = swiglu(F.linear(x, w["mlp.gate.weight"]), F.linear(x, w["mlp.up.weight"]))
    return F.linear(inside, w["mlp.down.weight"])


# block: the course's, until you write it
def block(x: Tensor, w: dict[str, Tensor], config: dict[str, Any], cos: Tensor, sin: Tensor,
          cache: KVCache, layer: int) -> Tensor:
    """Attention, then the MLP, each between two norms and added to x: (B, T, D) to (B, T, D)."""
    eps = config["norm_eps"]
    y = attention(rms_norm(x, w["attn_norm.weight"], eps), w, config, cos, sin, cache, layer)
    x = x + rms_norm(y, w["attn_post_norm.weight"], eps)
    y = mlp(rms_norm(x, w["mlp_norm.weight"], eps), w)
    return x + rms_norm(y, w["mlp_post_norm.weight"], eps)


# model: the course's, until you write it
def model(ids: Tensor, weights: dict[str, Tensor], config: dict[str, Any], cache: KVCache,
          ) -> Tensor:
    """(B, T) ids, which follow those in the cache, to (B, T, V) logits."""
    positions = cache.get_seq_length() + torch.arange(ids.shape[1], device=ids.device)
    cos, sin = rope_tables(positions, config["d_model"] // config["n_heads"], config["rope_theta"])
    x = weights["embedding.weight"][ids] * math.sqrt(config["d_model"])  # (B, T, D)
    for layer in range(config["n_layers"]):
        w = {name.removeprefix(f"blocks.{layer}."): weight for name, weight in weights.items()}
        x = block(x, w, config, cos, sin, cache, layer)
    x = rms_norm(x, weights["final_norm.weight"], config["norm_eps"])
    return F.linear(x, weights["output.weight"])


# ---- Part 8 of 9: sampling filters ----
# apply_repetition_penalty: the course's, until you write it
def apply_repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Makes the (B, S) tokens `seen` less likely: (B, V) to (B, V)."""
    score = logits.gather(1, seen)
    return logits.scatter(1, seen, torch.where(score > 0, score / penalty, score * penalty))


# apply_temperature: the course's, until you write it
def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Below 1 the likely tokens become likelier, above 1 the unlikely ones: (B, V) to (B, V)."""
    return logits / temperature


# apply_top_k: the course's, until you write it
def apply_top_k(logits: Tensor, k: int) -> Tensor:
    """Keeps the k largest logits of each row; the others become minus infinity."""
    kth = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]
    return logits.masked_fill(logits < kth, float("-inf"))


# apply_top_p: the course's, until you write it
def apply_top_p(logits: Tensor, p: float) -> Tensor:
    """Keeps the smallest set of likeliest tokens whose probabilities reach p."""
    ascending, order = logits.sort(dim=-1)
    rejected = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    rejected[:, -1] = False                                          # the likeliest always stays
    return logits.masked_fill(rejected.scatter(1, order, rejected), float("-inf"))


# apply_min_p: the course's, until you write it
def apply_min_p(logits: Tensor, p: float) -> Tensor:
    """Keeps the tokens that are at least p times as probable as the likeliest."""
    probs = logits.softmax(dim=-1)
    return logits.masked_fill(probs < p * probs.amax(dim=-1, keepdim=True), float("-inf"))


# ---- Part 9 of 9: the generation loop ----
END = 0  # the id of the end of text

def sample_next_token(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """(B,) ids from (B, V) logits: where a random point falls on the line of probabilities."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    ends = logits.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    point = torch.rand(len(ends), 1, generator=generator, dtype=torch.float64, device="cpu")
    return torch.searchsorted(ends / ends[:, -1:], point, right=True)[:, 0]


# generate: the course's, until you write it
def generate(ids: list[int], weights: dict[str, Tensor], config: dict[str, Any],
             tokens: int = 400, temperature: float = 0.8, top_k: int = 0, top_p: float = 1.0,
             min_p: float = 0.05, repetition_penalty: float = 1.0, seed: int = 0) -> Iterator[int]:
    """The ids that follow, one at a time, to the end of the text. Temperature 0: no randomness."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    cache, seen = KVCache(), torch.tensor([ids], device="cpu")       # (1, S)
    for _ in range(min(tokens, config["max_seq_len"] - len(ids))):
        unread = seen[:, cache.get_seq_length():]                    # (1, T)
        logits = model(unread, weights, config, cache)[:, -1]        # (1, V)
        logits = apply_repetition_penalty(logits, seen, repetition_penalty)
        logits = apply_temperature(logits, temperature or 1)
        logits = apply_top_k(logits, top_k or logits.shape[-1])
        logits = apply_min_p(apply_top_p(logits, top_p), min_p)
        token = sample_next_token(logits, temperature, generator)    # (1,)
        yield int(token)
        if token == END:
            return
        seen = torch.cat((seen, token[:, None]), dim=1)
