"""The training loop: batches in, weights out, and at every moment ready to be interrupted.

One optimizer step: gradients of a batch (accumulate.py); clipped by their global norm; then
MuonAdamW at the schedule's learning rate. A step whose gradients are not finite is skipped:
weights, momenta and schedule stay as they were.

Sources: Paulius Micikevicius et al., "Mixed Precision Training", 2018. Razvan Pascanu et al., "On
the difficulty of training Recurrent Neural Networks", 2013, for clipping.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from picolm_lib.accumulate import Accumulator
from picolm_lib.batches import Batches
from picolm_lib.config import PicoConfig, PicoError, TrainConfig
from picolm_lib.data import TokenFile
from picolm_lib.distributed import Objective, join_processes, local_device, share_gradients
from picolm_lib.doctor import Numerics, numerics, peak_memory_gib, peak_tflops
from picolm_lib.evaluate import Scores, evaluate
from picolm_lib.interrupt import Interrupted, stop_requests
from picolm_lib.loss import IGNORE
from picolm_lib.model import PicoLM, flops_per_token
from picolm_lib.muon import parameter_groups
from picolm_lib.pace import Pace, Progress
from picolm_lib.peers import part_ways
from picolm_lib.report import Report, draw_loss
from picolm_lib.resumable import Resumable
from picolm_lib.sampling import SampleConfig, prompt_ids, tell
from picolm_lib.schedule import lr_factor, momentum
from picolm_lib.sharded import place
from picolm_lib.split_muon import make_optimizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHORTEST_S = 1e-6  # of a step: a clock of coarse ticks may stand still meanwhile
MOST_SKIPS = 20  # in a row; fp16's loss scale needs up to about 10 to find its place
SAMPLE = SampleConfig(max_new_tokens=60)
Listener = Callable[["Trainer", dict[str, Any]], None]


class Trainer(Resumable):
    """One run.

    Args:
        model_config: the model; its vocabulary is the tokenizer's.
        config: the run.
        tokenizer: of the token files, for the story told at each evaluation.
        files: {"train": TokenFile, "validation": TokenFile}.
        folder: the run's folder, or None to keep nothing.
        show: whether to print progress.
        model: one to train in place of a new PicoLM.
        listener: called with this trainer and each line of metrics, in the main process, and with
            {"kind": "note", "note": text} when there is something to say.
    """

    def __init__(self, model_config: PicoConfig, config: TrainConfig,
                 tokenizer: PreTrainedTokenizerFast, files: dict[str, TokenFile],
                 folder: Path | None = None, show: bool = True,
                 model: PicoLM | None = None,
                 listener: Listener | None = None) -> None:
        self.listener = listener
        self.config, self.tokenizer, self.files, self.folder = config, tokenizer, files, folder
        self.numerics: Numerics = numerics(config.device, config.dtype)
        self.device = local_device(self.numerics.device)
        self.processes = join_processes(self.device)
        self.show = show and self.processes.is_main
        self.model = model or PicoLM(model_config, config.seed)
        self.sharded = place(self.model, self.device, self.processes, config.parallel)
        loss = torch.compile(self.model.loss) if config.compile else self.model.loss
        self.objective = share_gradients(Objective(self.model, loss), self.processes, self.sharded)
        self.optimizer = make_optimizer(parameter_groups(self.model), self.processes, self.sharded,
                                        betas=(config.adamw_beta1, config.adamw_beta2),
                                        weight_decay=config.weight_decay, dtype=self.numerics.dtype)
        self.scaler = torch.amp.GradScaler(self.device.type,
                                           enabled=self.numerics.scales_gradients)
        self.accumulator = Accumulator(self.objective, self.numerics, self.scaler,
                                       self.processes, config.micro_batch_size, self._say)
        self.batches = Batches(files["train"].tokens, model_config.max_seq_len,
                               config.batch_size, config.seed)
        self.batch_tokens = config.batch_size * model_config.max_seq_len
        self.progress = Progress()
        self.pace = Pace(self.batch_tokens, len(files["validation"].tokens))
        prompt_ids(model_config, tokenizer, config.prompt)           # too long? say so now
        self.flops, self.peak = flops_per_token(model_config), peak_tflops(self.device)

    def run(self) -> Scores:
        """Trains to the end of the budget, evaluating and saving on the way.

        Returns:
            The scores on all validation documents.

        Raises:
            Interrupted: by Ctrl-C or SIGTERM, after saving.
            PicoError: loss or weights are not finite any more, or the disk is full.
        """
        progress, config, processes = self.progress, self.config, self.processes
        total = self.plan()
        self.clock = saved = processes.agree(time.monotonic(), self.device)
        report = Report(self.folder if processes.is_main else None, progress.tokens, total,
                        self.show, self._tell if processes.is_main else None)
        try:
            with stop_requests() as stop:
                while progress.tokens < (total := self.plan()):
                    before = progress.tokens
                    report.step(self.step(), total)
                    progress.notice(progress.tokens - before, self._lap())
                    if self._evaluation_due(total):
                        self.evaluate(report, config.eval_tokens)
                        self.pace.evaluating = self._lap()
                    stopping = processes.any(bool(stop), self.device)
                    if stopping or self.clock - saved > 60 * config.checkpoint_minutes:
                        self.save()
                        saved = self.clock
                        self._lap()
                    self._stop(stopping)
                self.save()  # before the last evaluation, which may take long
                self._stop(processes.any(bool(stop), self.device))
            scores = self.evaluate(report)
        finally:
            report.close()
            part_ways()
        if self.folder and processes.is_main:
            draw_loss(self.folder)
        return scores

    def _stop(self, asked: float) -> None:
        if asked:
            raise Interrupted(f"stopped at step {self.progress.step}; nothing is lost: the same "
                              "command with --resume goes on from there.")

    def _lap(self) -> float:
        """Seconds since the last lap, the same in all processes."""
        now = self.processes.agree(time.monotonic(), self.device)
        seconds, self.clock = max(now - self.clock, SHORTEST_S), now
        self.progress.elapsed += seconds
        return seconds

    def _tell(self, line: dict[str, Any]) -> None:
        if self.listener:
            self.listener(self, line)

    def _say(self, line: str) -> None:
        self._tell({"kind": "note", "note": line})
        if self.show:
            tqdm.write(line)  # above the progress bar, where there is one

    def plan(self) -> int:
        """Tokens at which the run ends: the first of its limits."""
        begins = not (self.progress.step or self.pace.rate_at_first)
        if self.config.max_minutes and begins:
            self.pace.rate_at_first = self._warm_up()
        return self.pace.plan(self.config, self.progress)

    def _warm_up(self) -> float:
        """Tokens per second of two passes whose gradients are thrown away."""
        begin = time.monotonic()
        for _ in range(2):
            started = time.monotonic()
            self.accumulator.backward(*self.batches.next(), self.batch_tokens)
        now = time.monotonic()
        seconds = self.processes.agree(max(now - started, SHORTEST_S), self.device)
        self.pace.warming += self.processes.agree(now - begin, self.device)
        self.optimizer.zero_grad()
        self.batches.load_state_dict({"epoch": 0, "window": 0})
        return self.batch_tokens / seconds

    def step(self) -> dict[str, Any]:
        """One optimizer step; returns what it measured.

        Raises:
            PicoError: the loss was not finite for many steps in a row.
        """
        progress, config, started = self.progress, self.config, time.monotonic()
        total = self.plan()
        counted = min(self.batch_tokens, total - progress.tokens)
        inputs, targets = self.batches.next()
        targets.view(-1)[counted:] = IGNORE                          # the budget is met exactly
        factor = lr_factor((progress.tokens + counted / 2) / total, config)
        self._set_rates(factor)
        loss = self.accumulator.backward(inputs, targets, counted)
        norm = self._update(loss)
        self._count(counted if math.isfinite(loss + norm) else 0)
        seconds = max(time.monotonic() - started, SHORTEST_S)
        progress.seconds += seconds
        rate = counted / seconds
        return {"step": progress.step, "tokens": progress.tokens, "loss": loss, "grad_norm": norm,
                "lr_factor": factor, "tokens_per_second": round(rate), "skipped": progress.skipped,
                "mfu": rate * self.flops / (self.peak * 1e12) if self.peak else None,
                "micro_batch": self.accumulator.size or config.batch_size,
                "seconds": progress.seconds, "peak_memory_gib": peak_memory_gib(self.device)}

    def _set_rates(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = factor * getattr(self.config, group["rate"])
            group["momentum"] = momentum(self.progress.step, self.config)

    def _update(self, loss: float) -> float:
        """Clips and steps, unless loss or gradient is not finite; returns the gradient norm."""
        self.scaler.unscale_(self.optimizer)
        limit = self.config.grad_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        norm = (norm.full_tensor() if self.sharded else norm).item()
        if math.isfinite(loss + norm):
            self.scaler.step(self.optimizer)
        self.scaler.update()                                         # lower after an overflow
        self.optimizer.zero_grad()
        return norm

    def _count(self, counted: int) -> None:
        progress = self.progress
        if counted:
            progress.step += 1
            progress.tokens += counted
            progress.skipped_in_a_row = 0
            return
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        if progress.skipped_in_a_row >= MOST_SKIPS:
            raise PicoError(f"the loss or its gradient was not finite {MOST_SKIPS} times in a row "
                            f"after step {progress.step}; lower --muon-lr and --adamw-lr, or train "
                            "with --dtype float32. The last checkpoint is as it was.")

    def _evaluation_due(self, total: int) -> bool:
        """At equal distances, each once, also where the plan has changed in between."""
        number = self.progress.tokens * self.config.evals // total
        due = self.progress.tokens < total and number > self.progress.evaluations
        self.progress.evaluations = max(number, self.progress.evaluations)
        return due

    def evaluate(self, report: Report, limit: int | None = None) -> Scores:
        """Scores the validation documents and lets the model tell the beginning of a story."""
        self._check_finite()
        scores = evaluate(self.model, self.files["validation"], self.numerics, limit)
        story = "".join(tell(self.model, self.tokenizer, self.config.prompt, SAMPLE,
                             self.config.seed))
        report.evaluation(story, step=self.progress.step, tokens=self.progress.tokens,
                          seconds=self.progress.seconds, perplexity=scores.perplexity,
                          **asdict(scores))
        return scores
