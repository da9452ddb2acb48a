"""A run of the GPU, exported, and loaded by transformers onto the GPU."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from gpu.policies import POLICIES, compared, distance, model_config, random_tokens, token_files
from helpers import bpe

from picolm_lib.config import PicoConfig, SampleConfig, TrainConfig
from picolm_lib.data.tokenizer import save_tokenizer
from picolm_lib.export import export
from picolm_lib.sampling import generate
from picolm_lib.train.checkpoint import RunConfig, load_run, save_config
from picolm_lib.train.trainer import Trainer

LENGTH = 8  # tokens
GREEDY = SampleConfig(temperature=0, min_p=0, max_new_tokens=LENGTH)


def part(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Three steps of pico with a small vocabulary; the logits of transformers, and its tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    import picolm_lib.model.hf  # noqa: F401, which makes transformers know the model

    # Of options of sampling, which greedy decoding leaves unused.
    logging.set_verbosity_error()

    config = model_config(options, vocab_size=len(bpe()))
    tokens, _ = random_tokens(config, sequences=2)
    with TemporaryDirectory() as name:
        run = Path(name) / "run"
        losses = train(config, run)
        model, tokenizer, _ = load_run(run)
        wanted = model(tokens).detach()
        yield {"check": "trained", "passed": all(map(math.isfinite, losses)), "losses": losses}
        for policy in POLICIES:
            out = export(run, Path(name) / policy.option, policy.dtype)
            loaded = AutoModelForCausalLM.from_pretrained(
                out, dtype=policy.dtype, trust_remote_code=False).to("cuda").eval()
            with policy.kernels(), torch.no_grad():
                logits = loaded(tokens.to("cuda")).logits
                ours = model.to("cuda", policy.dtype)(tokens.to("cuda"))
                theirs = loaded.generate(tokens[:, :5].to("cuda"), max_length=5 + LENGTH,
                                         do_sample=False, eos_token_id=None).cpu()
            # The weights are in 16 bits, too.
            row = compared("exported logits", policy, distance(logits, wanted), policy.gradient,
                           equal=bool(torch.equal(logits, ours)))
            written = torch.cat([tokens[:, :5], *(token.cpu()[:, None] for token in generate(
                model, tokens[:, :5], GREEDY))], dim=1)
            # In 16 bits two tokens may be equally likely.
            same = torch.equal(theirs, written)
            yield {**row, "same_tokens": same,
                   "passed": row["passed"] and (same or policy.dtype != torch.float32)}
            model, _, _ = load_run(run)
        ids = AutoTokenizer.from_pretrained(out)("The cat saw a red ball.").input_ids
        yield {"check": "exported tokenizer", "passed": ids == [
            tokenizer.eos_token_id, *tokenizer("The cat saw a red ball.").input_ids]}


def train(config: PicoConfig, folder: Path) -> list[float]:
    """A short run with all that `picolm train` writes; returns its losses."""
    training = TrainConfig(max_tokens=0, max_steps=3, batch_size=2, device="cuda", prompt="The",
                           evals=1, eval_tokens=64)
    folder.mkdir()
    losses: list[float] = []

    def listen(trainer: Trainer, line: dict[str, Any]) -> None:
        if "lr_factor" in line:
            losses.append(math.nan if line["loss"] is None else line["loss"])

    trainer = Trainer(config, training, bpe(), token_files(config, windows=8), folder, show=False,
                      run_name="gpu", listener=listen)
    save_config(folder, RunConfig("pico", config, training, "gpu"))
    save_tokenizer(folder / "tokenizer", bpe())
    trainer.run()
    return losses
