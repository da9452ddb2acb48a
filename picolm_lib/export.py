"""A trained run as a folder that the `transformers` library loads, ready for the Hugging Face Hub.

    config.json, generation_config.json   the model's shape; how it samples by default
    model.safetensors                     the weights
    hf.py, model.py, attention.py, ...    the model's code, for those without this package
    tokenizer.json, tokenizer_config.json the tokenizer; it begins every text as training did
    README.md                             the model card, written from the run's own numbers
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from picolm_lib.card import model_card
from picolm_lib.checkpoint import load_run
from picolm_lib.config import PicoError
from picolm_lib.files import disk_errors, replace_text
from picolm_lib.model import PicoLM
from picolm_lib.sampling import SampleConfig

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerFast

    from picolm_lib.hf import PicoForCausalLM


def export(run: str | Path, out: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Writes a run as a folder of transformers, all of it or nothing.

    Args:
        run: the run's folder, or "bundled".
        out: the new folder.
        dtype: of the stored weights.

    Returns:
        The new folder.

    Raises:
        PicoError: the run cannot be loaded, `out` is there already, or the disk is full.
    """
    out = Path(out)
    if out.exists():
        raise PicoError(f"{str(out)!r} is there already; choose another --out.")
    from transformers.utils import logging

    logging.disable_progress_bar()
    model, tokenizer, config = load_run(run)
    part = out.with_name(out.name + ".part")
    with disk_errors(out):
        part.mkdir(parents=True, exist_ok=True)
        try:
            replace_text(part / "README.md", model_card(out.name, run, model, tokenizer, config))
            for piece in for_transformers(model.to(dtype), tokenizer):
                piece.save_pretrained(part)
            part.replace(out)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    return out


def for_transformers(model: PicoLM, tokenizer: PreTrainedTokenizerFast,
                     ) -> tuple[PicoForCausalLM, PreTrainedTokenizerFast]:
    """Model and tokenizer as transformers knows them, with the defaults of `sampling.py`.

    In training a story follows an end of text. So this tokenizer puts one before each text, as
    `prompt_ids` does, and batches of prompts are padded with it at the left.
    """
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    from picolm_lib.hf import PicoForCausalLM

    end, end_id = tokenizer.eos_token, tokenizer.eos_token_id
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    begins = processors.TemplateProcessing(
        single=f"{end} $A", pair=f"{end} $A {end} $B:1", special_tokens=[(end, end_id)])
    backend.post_processor = (begins if backend.post_processor is None else
                              processors.Sequence([backend.post_processor, begins]))
    prepared = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=end, eos_token=end, pad_token=end, padding_side="left",
        model_max_length=model.config.max_seq_len, clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"])
    wrapped = PicoForCausalLM.wrap(model, bos_token_id=end_id, eos_token_id=end_id,
                                   pad_token_id=end_id)
    wrapped.generation_config = _generation_config(model, end_id)
    return wrapped, prepared


def _generation_config(model: PicoLM, end_id: int) -> GenerationConfig:
    from transformers import GenerationConfig

    usual = SampleConfig()
    return GenerationConfig(
        do_sample=True, temperature=usual.temperature, top_k=usual.top_k, top_p=usual.top_p,
        min_p=usual.min_p, max_length=model.config.max_seq_len, bos_token_id=end_id,
        eos_token_id=end_id, pad_token_id=end_id)
