"""Everything that the next step of a run depends on, to be saved and restored bit for bit.

On a CPU the steps that follow are the same bit for bit, too. On a GPU they may differ in the last
digits, since attention's backward pass adds up in whatever order its parts are done.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from picolm_lib.config import PicoError
from picolm_lib.data.batches import Batches
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.budget import Progress
from picolm_lib.train.checkpoint_distributed import load_sharded
from picolm_lib.train.identity import check_identity


@dataclass
class TrainingState:
    """Weights, momenta, loss scale, position in the data, progress, random numbers."""

    identity: dict[str, Any]
    """What the run is, as of identity.py."""
    model: PicoLM
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    batches: Batches
    progress: Progress
    device: torch.device
    sharded: bool = False
    """Whether each process has only its part of the weights."""

    def state_dict(self) -> dict[str, Any]:
        """All of it, where the weights are not sharded."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                **self.small_state_dict()}

    def small_state_dict(self) -> dict[str, Any]:
        """All but weights and momenta: it is the same in all processes."""
        cuda = self.device.type == "cuda"
        return {"identity": self.identity, "scaler": self.scaler.state_dict(),
                "batches": self.batches.state_dict(), "progress": self.progress.state_dict(),
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state(self.device) if cuda else None}

    def load_state_dict(self, state: dict[str, Any], folder: Path | None = None) -> None:
        """Restores what `load_resume` returned.

        Args:
            folder: the run's, for messages.

        Raises:
            PicoError: it belongs to another run, or to another version of this project.
        """
        try:
            check_identity(state["identity"], self.identity, folder)
            self._load(state)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise PicoError("the checkpoint resume.pt does not fit this run or this version of the "
                            "project; start again with another --run.") from error

    def _load(self, state: dict[str, Any]) -> None:
        # A checkpoint that is a folder has its tensors there still.
        if self.sharded or "folder" in state:
            load_sharded(state, self.model, self.optimizer)
        else:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        # Empty where the run did not scale its gradients; then this scaler is as good as any.
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.batches.load_state_dict(state["batches"])
        self.progress.load_state_dict(state["progress"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)

    def check_finite(self) -> None:
        """Refuses broken weights and momenta, which must not replace good ones.

        Of sharded ones each process checks its own part.

        Raises:
            PicoError: a value is NaN or infinite.
        """
        tensors = [*self.model.parameters(), *(value for state in self.optimizer.state.values()
                                               for value in state.values())]
        local = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
        if not torch.stack([tensor.isfinite().all() for tensor in local]).all():
            raise PicoError(f"the weights are not finite after step {self.progress.step}, so they "
                            "were not saved; continue from the last checkpoint with --resume, and "
                            "if it happens again, start again with lower --muon-lr and --adamw-lr.")
