"""All that the next step of a training run depends on, saved and taken back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from picolm_lib.batches import Batches
from picolm_lib.checkpoint import load_resume, save_resume, save_weights
from picolm_lib.config import PicoError
from picolm_lib.distributed import Processes
from picolm_lib.model import PicoLM
from picolm_lib.muon import MuonAdamW
from picolm_lib.pace import Progress
from picolm_lib.sharded_checkpoint import load_sharded, save_sharded


class Resumable:
    """The part of a Trainer that survives it."""

    model: PicoLM
    optimizer: MuonAdamW
    scaler: torch.amp.GradScaler
    batches: Batches
    progress: Progress
    processes: Processes
    device: torch.device
    folder: Path | None
    sharded: bool

    def save(self) -> None:
        """Writes the checkpoint and the weights into the run's folder.

        Raises:
            PicoError: they are broken, or the disk is full.
        """
        self._check_finite()
        if self.folder and self.sharded:
            save_sharded(self.folder, self.model, self.optimizer, self._rest(), self.processes)
        elif self.folder and self.processes.is_main:
            save_resume(self.folder, self.state_dict())
            save_weights(self.folder / "model.safetensors", self.model)
        self.processes.agree(0, self.device)                         # none ends before all is saved

    def _check_finite(self) -> None:
        """Broken weights must replace no good ones. Each process looks at its own."""
        tensors = [*self.model.parameters(), *(value for state in self.optimizer.state.values()
                                               for value in state.values())]
        local = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
        if not all(tensor.isfinite().all() for tensor in local):
            raise PicoError(f"the weights are not finite after step {self.progress.step}, so they "
                            "were not saved; go on from the last checkpoint with --resume, and "
                            "should it happen again, start anew with lower --muon-lr and "
                            "--adamw-lr.")

    def resume(self, previous: bool = False) -> None:
        """Goes on from the folder's last checkpoint, or from the one before it."""
        state = load_resume(self.folder, previous)
        try:
            self.load_state_dict(state)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise PicoError(f"the resume.pt in {str(self.folder)!r} does not fit this run or this "
                            "version of the project; start anew with another --run.") from error

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                **self._rest()}

    def _rest(self) -> dict[str, Any]:
        cuda = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        return {"scaler": self.scaler.state_dict(), "batches": self.batches.state_dict(),
                "progress": asdict(self.progress), "rng": torch.get_rng_state(), "cuda_rng": cuda}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        if self.sharded or "folder" in state:
            load_sharded(state, self.model, self.optimizer)
        else:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.batches.load_state_dict(state["batches"])
        self.progress = Progress(**state["progress"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"][0], self.device)
