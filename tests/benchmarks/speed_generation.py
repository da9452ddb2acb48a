"""Generation beside transformers; see speed.py."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import asdict

import torch
from peers import Llama
from record import in_turns, without_processor_seconds, write
from transformers import AutoModelForCausalLM, PreTrainedModel

from picolm_lib.config import PRESETS, PicoConfig
from picolm_lib.device import choose_precision
from picolm_lib.model.hf import PicoForCausalLM, PicoLMConfig
from picolm_lib.model.picolm import PicoLM
from picolm_lib.sampling import SampleConfig, generate

PROMPT, NEW = 16, 128  # tokens
TEMPERATURE, MIN_P = 0.8, 0.05
OURS, EXPORTED, LLAMA = "picolm_lib", "exported, in transformers", "Llama, in transformers"


def measure(options: argparse.Namespace) -> None:
    """Tokens per second of whole texts, and the time that the first token takes."""
    rows = []
    for preset in options.presets:
        for batch in options.batches:
            rows += race(preset, batch, options)
    write("speed-generation", rows, prompt_tokens=PROMPT, new_tokens=NEW, repeats=options.repeats,
          filters=f"temperature {TEMPERATURE}, min-p {MIN_P}")


@torch.inference_mode()
def race(preset: str, batch: int, options: argparse.Namespace) -> list[dict]:
    """All rivals in turns, for one preset and batch."""
    chosen, config = choose_precision(options.device, options.dtype), PRESETS[preset].model
    dtype = chosen.dtype if chosen.device.type == "cuda" else torch.float32
    pico, exported, llama = (m.to(chosen.device, dtype).eval() for m in _models(config))
    new = min(NEW, config.max_seq_len - PROMPT)
    prompt = torch.randint(config.vocab_size, (batch, PROMPT), device=chosen.device)

    def ours(count: int) -> Callable[[], object]:
        sample = SampleConfig(TEMPERATURE, min_p=MIN_P, max_new_tokens=count)
        return lambda: list(generate(pico, prompt, sample, seed=0))

    def theirs(model: PreTrainedModel, count: int) -> Callable[[], object]:
        return lambda: model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=True, top_k=0,
            temperature=TEMPERATURE, min_p=MIN_P, max_new_tokens=count, min_new_tokens=count,
            eos_token_id=None, pad_token_id=0)

    def of_each(count: int) -> dict[str, Callable[[], object]]:
        return {OURS: ours(count), EXPORTED: theirs(exported, count),
                LLAMA: theirs(llama, count)}

    first, whole = (in_turns(of_each(count), options.repeats) for count in (1, new))
    rows = [{"preset": preset, "batch": batch, "device": str(chosen.device),
             "dtype": str(dtype).removeprefix("torch."), "model": name,
             "first token, ms": round(1e3 * first[name][0], 1),
             "tokens/s": round(batch * new / whole[name][0]),
             "picolm_lib's tokens/s, times this": round(whole[name][0] / whole[OURS][0], 2),
             "in processor seconds": round(whole[name][1] / whole[OURS][1], 2)} for name in whole]
    return without_processor_seconds(rows) if chosen.device.type == "cuda" else rows


def _models(config: PicoConfig) -> tuple[PicoLM, PreTrainedModel, PreTrainedModel]:
    """PicoLM, the same model saved and loaded by transformers, and a Llama of the same shape."""
    pico = PicoLM(config)
    for parameter in pico.parameters():
        if not parameter.any():  # zeros would write a text of one word
            torch.nn.init.normal_(parameter, std=0.02)
    shell = PicoForCausalLM(PicoLMConfig(**asdict(config)))
    shell.model.load_state_dict(pico.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        shell.save_pretrained(folder)
        exported = AutoModelForCausalLM.from_pretrained(folder)
    return pico, exported, Llama(config).llama
