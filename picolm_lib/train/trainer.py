"""The training loop: batches in, weights out, and ready to be interrupted at every moment.

The gradient of a batch is a sum over its sequences, so it is added up in parts, the micro-batches,
as many as memory needs. Then it is clipped by its global norm, and MuonAdamW steps at the
schedule's learning rate. A step whose loss or gradient is not finite is skipped.

Sources: Paulius Micikevicius et al., "Mixed Precision Training", 2018. Razvan Pascanu et al., "On
the difficulty of training Recurrent Neural Networks", 2013, for clipping.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from tqdm import tqdm

from picolm_lib.config import PicoConfig, PicoError, SampleConfig, TrainConfig
from picolm_lib.data.batches import Batches
from picolm_lib.data.token_file import TokenFile
from picolm_lib.device import choose_precision, compiled, peak_memory_gib, peak_tflops
from picolm_lib.evaluate import Scores, evaluate
from picolm_lib.model.loss import IGNORE
from picolm_lib.model.picolm import PicoLM, flops_per_token
from picolm_lib.sampling import prompt_ids, stream_text
from picolm_lib.train.budget import MIN_SECONDS, Progress, TimeBudget
from picolm_lib.train.checkpoint import load_resume, save_resume
from picolm_lib.train.checkpoint_distributed import save_sharded
from picolm_lib.train.distributed import (
    LossModule,
    join_processes,
    local_device,
    no_sync,
    parallelize,
    wrap_ddp,
)
from picolm_lib.train.identity import identity
from picolm_lib.train.metrics import MetricsLogger, mfu, plot_loss
from picolm_lib.train.muon import parameter_groups
from picolm_lib.train.muon_distributed import make_optimizer
from picolm_lib.train.schedule import lr_factor, momentum
from picolm_lib.train.signals import stop_if, stop_requests
from picolm_lib.train.state import TrainingState
from picolm_lib.train.weights import save_weights

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor
    from transformers import PreTrainedTokenizerFast

MAX_SKIPPED_STEPS = 20  # in a row; fp16's loss scale needs up to about 10 to settle
SAMPLE = SampleConfig(max_new_tokens=60)
Listener = Callable[["Trainer", dict[str, Any]], None]


class Trainer:
    """One run.

    Args:
        model_config: the model; its vocabulary is the tokenizer's.
        config: the run.
        tokenizer: of the token files, for the story generated at each evaluation.
        files: {"train": TokenFile, "validation": TokenFile}.
        folder: the run's folder, or None to write nothing.
        show: whether to print progress.
        model: a model to train in place of a new PicoLM.
        listener: called with this trainer and each line of metrics, in the main process, and with
            {"kind": "note", "note": text} when there is something to report.
        groups: makes the optimizer's parameter groups.
        run_name: the run's name in its config.json, which its checkpoints carry, too.
    """

    def __init__(self, model_config: PicoConfig, config: TrainConfig,
                 tokenizer: PreTrainedTokenizerFast, files: dict[str, TokenFile],
                 folder: Path | None = None, show: bool = True,
                 model: PicoLM | None = None, listener: Listener | None = None, run_name: str = "",
                 groups: Callable[[PicoLM], list[dict]] = parameter_groups) -> None:
        self.config, self.tokenizer, self.files, self.folder = config, tokenizer, files, folder
        self.listener = listener
        self.identity = identity(run_name, model_config, config, tokenizer, files)
        self.precision = choose_precision(config.device, config.dtype)
        self.device = local_device(self.precision.device)
        self.processes = join_processes(self.device)
        self.show = show and self.processes.is_main
        self.model = model or PicoLM(model_config, config.seed)
        self.sharded = parallelize(self.model, self.device, self.processes, config.parallel)
        loss = compiled(self.model.loss, self.device) if config.compile else self.model.loss
        self.objective = wrap_ddp(LossModule(self.model, loss), self.processes, self.sharded)
        self.optimizer = make_optimizer(
            groups(self.model), self.processes, self.sharded, muon_lr=config.muon_lr,
            adamw_lr=config.adamw_lr, vector_lr=config.vector_lr,
            betas=(config.adamw_beta1, config.adamw_beta2), weight_decay=config.weight_decay,
            dtype=self.precision.dtype)
        self.scaler = torch.amp.GradScaler(self.device.type,
                                           enabled=self.precision.scales_gradients)
        self.batches = Batches(files["train"].tokens, model_config.max_seq_len,
                               config.batch_size, config.seed)
        self.batch_tokens = config.batch_size * model_config.max_seq_len
        self.micro_batch_size = config.micro_batch_size or config.batch_size
        self.progress = Progress()
        self.budget = TimeBudget(config, self.batch_tokens, len(files["validation"].tokens))
        self.flops, self.peak = flops_per_token(model_config), peak_tflops(self.device)
        # A prompt that is too long is refused now, not at the first evaluation.
        prompt_ids(model_config, tokenizer, config.prompt)

    @property
    def total_tokens(self) -> int:
        """Tokens at which the run ends: the first of its limits."""
        return self.budget.total_tokens(self.progress)

    def measure_speed(self) -> None:
        """Plans a run that is limited in minutes: a new one by the time that two passes take."""
        if self.config.max_minutes and not (self.progress.step or self.budget.initial_speed):
            self.budget.measure(
                lambda: self.accumulate_gradients(*self.batches.next(), self.batch_tokens).item(),
                lambda seconds: self.processes.broadcast(seconds, self.device))
            # The passes teach nothing, and the run begins at the beginning of its data.
            self.optimizer.zero_grad()
            self.batches.load_state_dict({"epoch": 0, "window": 0})
        self.budget.update(self.progress)

    def run(self, patient: bool = False) -> Scores:
        """Trains to the end of the budget; returns the scores on all validation documents.

        Raises:
            Interrupted: by Ctrl-C or SIGTERM, after saving; if `patient`, also by a second Ctrl-C.
            PicoError: the loss or the weights are no longer finite, or the disk is full.
        """
        progress, config, processes = self.progress, self.config, self.processes
        self.measure_speed()
        self.clock = saved_at = processes.broadcast(time.monotonic(), self.device)
        listener = partial(self.listener, self) if self.listener else None
        logger = MetricsLogger(self.folder, progress.tokens, self.total_tokens, self.show, listener
                               ) if processes.is_main else MetricsLogger(show=False)
        try:
            with stop_requests(patient) as stop:
                while progress.tokens < self.total_tokens:
                    before = progress.tokens
                    logger.step(self.step(), self.total_tokens)
                    progress.record_speed(progress.tokens - before, self._lap())
                    if progress.evaluation_due(self.total_tokens, config.evals):
                        self.evaluate(logger, config.eval_tokens)
                        self.budget.evaluation_seconds = self._lap()
                    stopping = processes.all_reduce_any(bool(stop), self.device)
                    if stopping or self.clock - saved_at > 60 * config.checkpoint_minutes:
                        self.save()
                        saved_at = self.clock
                        self._lap()
                    stop_if(stopping, progress.step)
                    self.budget.update(progress)
                # Before the last evaluation, which may take long.
                self.save()
                stop_if(processes.all_reduce_any(bool(stop), self.device), progress.step)
            scores = self.evaluate(logger)
        finally:
            logger.close()
        if self.folder and processes.is_main:
            plot_loss(self.folder)
        return scores

    def step(self) -> dict[str, Any]:
        """One optimizer step; returns its metrics. Raises PicoError where the loss stays NaN."""
        progress, config, started = self.progress, self.config, time.monotonic()
        total = self.total_tokens
        counted = min(self.batch_tokens, total - progress.tokens)
        inputs, targets = self.batches.next()                        # (B, T) each
        # In the last batch only as many targets count as the budget has left.
        targets.view(-1)[counted:] = IGNORE
        factor = lr_factor((progress.tokens + counted / 2) / total, config)
        self._set_lr(factor)
        loss, grad_norm = self._update_weights(
            self.accumulate_gradients(inputs, targets, counted))
        progress.count_step(counted if math.isfinite(loss + grad_norm) else 0)
        if progress.skipped_in_a_row >= MAX_SKIPPED_STEPS:
            raise PicoError(f"the loss or its gradient was not finite {MAX_SKIPPED_STEPS} times in "
                            f"a row after step {progress.step}; lower --muon-lr and --adamw-lr, or "
                            "train with --dtype float32. The last checkpoint is intact.")
        seconds = max(time.monotonic() - started, MIN_SECONDS)
        progress.seconds += seconds
        speed = counted / seconds
        return {"step": progress.step, "tokens": progress.tokens, "loss": loss,
                "grad_norm": grad_norm, "lr_factor": factor, "tokens_per_second": round(speed),
                "skipped": progress.skipped, "micro_batch": self.micro_batch_size,
                "mfu": mfu(speed, self.flops, self.peak, self.processes.world_size),
                "seconds": progress.seconds, "peak_memory_gib": peak_memory_gib(self.device)}

    def accumulate_gradients(self, inputs: Tensor, targets: Tensor, counted: int) -> Tensor:
        """Adds up the gradient of the mean loss over `counted` targets; returns that loss, ().

        Inputs and targets are the (B, T) global batch, on the CPU. Micro-batches that are too large
        for the GPU are halved until they fit. Not so where there are other processes, which could
        not know: that is a PicoError, as one sequence is.
        """
        inputs, targets = self.processes.local_shard(inputs), self.processes.local_shard(targets)
        while True:
            try:
                return self._micro_batches(inputs, targets, counted)
            except torch.OutOfMemoryError:
                pass  # the failed pass holds its memory until this block is left
            self._halve_micro_batch(len(inputs))

    def _micro_batches(self, inputs: Tensor, targets: Tensor, counted: int) -> Tensor:
        size = self.micro_batch_size
        parts = list(zip(inputs.split(size), targets.split(size), strict=True))
        total = torch.zeros((), device=self.device)
        for number, (x, y) in enumerate(parts, start=1):
            weight = (y != IGNORE).sum().item() / counted
            # No target counts here, but the pass must happen: other processes wait for it.
            if not weight:
                y = x
            with no_sync(self.objective, last=number == len(parts)):
                with self.precision.autocast():
                    loss = weight * self.objective(*self.precision.to_device(x, y))
                # DDP averages over the processes; the sum is wanted.
                self.scaler.scale(loss * self.processes.world_size).backward()
            total += loss.detach()
        return self.processes.all_reduce_sum(total)

    def _halve_micro_batch(self, rows: int) -> None:
        """After running out of memory: the batch will be done again in smaller parts."""
        self.objective.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        size = min(self.micro_batch_size, rows)
        if self.processes.world_size > 1:
            raise PicoError(f"out of memory with {size} sequences at a time in each process; start "
                            f"again with --micro-batch-size {max(size // 2, 1)}.")
        if size == 1:
            raise PicoError("out of memory with one sequence at a time; lower --max-seq-len or "
                            "--d-model, or choose a tokenizer with fewer tokens.")
        self.micro_batch_size = size // 2
        note = (f"out of memory: from here on {size // 2} sequences at a time instead of {size}, "
                f"{-(-rows // (size // 2))} times per step; the result is the same.")
        if self.listener:
            self.listener(self, {"kind": "note", "note": note})
        if self.show:
            tqdm.write(note)

    def _set_lr(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
            group["momentum"] = momentum(self.progress.step, self.config)

    def _update_weights(self, loss: Tensor) -> tuple[float, float]:
        """Clips and steps, unless not all is finite; returns the loss and the gradient norm."""
        self.scaler.unscale_(self.optimizer)
        max_norm = self.config.grad_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)
        norm = cast("DTensor", norm).full_tensor() if self.sharded else norm
        # The step's only wait for the GPU. scaler.step would wait again, for what the norm tells.
        values = torch.stack((loss, norm)).tolist()
        if all(map(math.isfinite, values)):
            self.optimizer.step()
        self.scaler.update()
        self.optimizer.zero_grad()
        return values[0], values[1]

    def evaluate(self, logger: MetricsLogger, limit: int | None = None) -> Scores:
        """Scores `limit` validation tokens, or all, and generates the beginning of a story."""
        self.state.check_finite()
        scores = evaluate(self.model, self.files["validation"], self.precision, limit)
        story = "".join(stream_text(self.model, self.tokenizer, self.config.prompt, SAMPLE,
                                    self.config.seed))
        logger.evaluation(self.progress, scores, story)
        return scores

    def _lap(self) -> float:
        """Seconds since the last lap, the same in all processes."""
        now = self.processes.broadcast(time.monotonic(), self.device)
        seconds, self.clock = max(now - self.clock, MIN_SECONDS), now
        self.progress.elapsed += seconds
        return seconds

    @property
    def state(self) -> TrainingState:
        """Everything that the next step depends on."""
        return TrainingState(self.identity, self.model, self.optimizer, self.scaler, self.batches,
                             self.progress, self.device, self.sharded)

    def save(self) -> None:
        """Writes checkpoint and weights into the run's folder, unless they are not finite."""
        self.state.check_finite()
        if self.folder and self.sharded:
            save_sharded(self.folder, self.model, self.optimizer, self.state.small_state_dict(),
                         self.processes)
        elif self.folder and self.processes.is_main:
            save_resume(self.folder, self.state.state_dict())
            save_weights(self.folder / "model.safetensors", self.model, run=self.identity["run"])
        # No process ends before everything is saved.
        self.processes.broadcast(0, self.device)

    def resume(self, previous: bool = False) -> None:
        """Continues from the folder's last checkpoint, or from the one before it."""
        assert self.folder is not None, "a run without a folder has no checkpoint"
        self.state.load_state_dict(load_resume(self.folder, previous), self.folder)
