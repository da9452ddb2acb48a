"""Exports a run as a folder that the `transformers` library loads, ready for the Hugging Face Hub.

    config.json, generation_config.json   the model's configuration; its sampling defaults
    model.safetensors                     the weights
    hf.py, picolm.py, attention.py, ...   the model's code, for those without this package
    tokenizer.json, tokenizer_config.json the tokenizer; it starts every text as in training
    README.md                             the model card, written from the run's own numbers

EleutherAI's lm-evaluation-harness (pip install "lm_eval[hf]") scores such a folder:

    lm_eval --model hf --tasks hellaswag --batch_size 8 \\
      --model_args pretrained=my-model,trust_remote_code=True,add_bos_token=True

With add_bos_token=True its tasks put one end-of-text token before each text, as in training. Those
of perplexity (loglikelihood_rolling) put one there anyway: for them, add_bos_token=False.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from picolm_lib.card import model_card
from picolm_lib.config import PicoError, SampleConfig
from picolm_lib.files import atomic_write_text, disk_errors
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.checkpoint import load_run

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerFast

    from picolm_lib.model.hf import PicoForCausalLM


def export(run: str | Path, out: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Writes a run as a folder that transformers loads, all of it or nothing.

    Args:
        run: the run's folder, or "bundled".
        out: the new folder.
        dtype: of the stored weights.

    Returns:
        The new folder.

    Raises:
        PicoError: the run cannot be loaded, `out` already exists, or the disk is full.
    """
    out = Path(out)
    if out.exists():
        raise PicoError(f"{str(out)!r} already exists; choose another --out.")
    from transformers.utils import logging

    logging.disable_progress_bar()
    model, tokenizer, config = load_run(run)
    part = out.with_name(out.name + ".part")
    with disk_errors(out):
        part.mkdir(parents=True, exist_ok=True)
        try:
            card = model_card(out.name, run, model, tokenizer, config)
            atomic_write_text(part / "README.md", card)
            for piece in for_transformers(model.to(dtype), tokenizer):
                piece.save_pretrained(part)
            part.replace(out)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    return out


def for_transformers(model: PicoLM, tokenizer: PreTrainedTokenizerFast,
                     ) -> tuple[PicoForCausalLM, PreTrainedTokenizerFast]:
    """Wraps a model and its tokenizer in the classes of transformers.

    In training each document follows an end-of-text token. So this tokenizer puts one before each
    text, as `prompt_ids` does. Batches of prompts are padded at the left, with the tokenizer's own
    pad token where it has one. Where it has none, the end of text takes its place; a data collator
    that ignores padding in the loss then ignores the end of text, too.

    Returns:
        The model, with the defaults of SampleConfig for `generate`, and the tokenizer.
    """
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    from picolm_lib.model.hf import PicoForCausalLM

    end, end_id = tokenizer.eos_token, tokenizer.eos_token_id
    pad = tokenizer.pad_token or end
    pad_id = end_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    start = processors.TemplateProcessing(
        single=f"{end} $A", pair=f"{end} $A {end} $B:1", special_tokens=[(end, end_id)])
    backend.post_processor = (start if backend.post_processor is None else
                              processors.Sequence([backend.post_processor, start]))
    prepared = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=end, eos_token=end, pad_token=pad, padding_side="left",
        model_max_length=model.config.max_seq_len, clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"])
    wrapped = PicoForCausalLM.wrap(model, bos_token_id=end_id, eos_token_id=end_id,
                                   pad_token_id=pad_id)
    wrapped.generation_config = _generation_config(model, end_id, pad_id)
    return wrapped, prepared


def _generation_config(model: PicoLM, end_id: int, pad_id: int) -> GenerationConfig:
    from transformers import GenerationConfig

    default = SampleConfig()
    return GenerationConfig(
        do_sample=True, temperature=default.temperature, top_k=default.top_k, top_p=default.top_p,
        min_p=default.min_p, max_length=model.config.max_seq_len, bos_token_id=end_id,
        eos_token_id=end_id, pad_token_id=pad_id)
