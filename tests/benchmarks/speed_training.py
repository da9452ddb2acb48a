"""Training beside the peers; see speed.py."""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from peers import FullLogits, Llama, TorchMuon
from record import clock, without_processor_seconds, write

from picolm_lib.config import PRESETS
from picolm_lib.device import choose_precision, peak_memory_gib
from picolm_lib.model.picolm import PicoLM, count_parameters
from picolm_lib.train.muon import MuonAdamW, parameter_groups

PATIENCE = 600  # seconds until a process that does not answer counts as stuck
OURS, FULL, LLAMA = "picolm_lib", "all logits, torch Muon", "Llama, torch AdamW"


def measure(options: argparse.Namespace) -> None:
    """All rivals of each preset and mode, in turns."""
    for preset in options.presets:
        rows = [row for mode in options.modes for row in race(preset, mode, options)]
        write(f"speed-training-{preset}{options.suffix}", rows,
              sequences_per_step=options.sequences, repeats=options.repeats)


def race(preset: str, mode: str, options: argparse.Namespace, patience: float = PATIENCE,
         ) -> list[dict]:
    """All rivals in turns, a step each; a row for each of them.

    Raises:
        EOFError, TimeoutError: a rival has died, or does not answer.
    """
    names = options.rivals or (OURS, FULL, LLAMA)
    spawn, pipes, processes = multiprocessing.get_context("spawn"), {}, []
    try:
        for name in names:
            pipes[name], there = spawn.Pipe()
            processes.append(spawn.Process(target=_rival, daemon=True, args=(
                there, name, preset, mode == "compiled", options)))
            processes[-1].start()
            # Held here as well, it would keep the pipe open when the process has died.
            there.close()
        rows = _turns(pipes, options.repeats, patience, preset=preset, mode=mode)
        for process in processes:
            process.join(patience)
        return rows
    finally:
        for process in processes:
            process.kill()


def _turns(pipes: dict[str, Connection], repeats: int, patience: float, **about: str,
           ) -> list[dict]:
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in pipes}
    first: dict[str, float] = {}
    for pipe in pipes.values():
        _answer(pipe, patience)                                      # built
    for repeat in range(repeats + 2):                                # the first two warm up
        for name, pipe in pipes.items():
            pipe.send("step")
            taken = _answer(pipe, patience)
            first.setdefault(name, taken[0])
            if repeat > 1:
                times[name].append(taken)
    rows = []
    for name, pipe in pipes.items():
        pipe.send("end")
        found = _answer(pipe, patience)
        both, update, used = (statistics.median(column) for column in zip(*times[name],
                                                                          strict=True))
        rows.append({**about, "model": name, **found,
                     "tokens/s": round(found["tokens"] / (both + update)),
                     "first forward and backward, s": round(first[name], 2),
                     "forward and backward, s": round(both, 4), "optimizer, s": round(update, 4),
                     "optimizer, share": round(update / (both + update), 3),
                     "forward and backward, processor s": round(used, 4)})
    return _beside_the_last(rows)


def _answer(pipe: Connection, patience: float) -> Any:
    if not pipe.poll(patience):
        raise TimeoutError(f"a rival has not answered within {patience:.0f} s")
    return pipe.recv()


def _beside_the_last(rows: Sequence[dict]) -> list[dict]:
    last = rows[-1]
    for row in rows:
        row["tokens/s, times Llama's"] = round(row["tokens/s"] / last["tokens/s"], 2)
        for key in ("forward and backward, s", "forward and backward, processor s",
                    "peak memory, GiB"):
            # A small model's peak can lie below what the process had before.
            if last[key]:
                row[f"{key}, share of Llama's"] = round(row[key] / last[key], 2)
    on_gpu = last["device"].startswith("cuda")
    return without_processor_seconds(rows) if on_gpu else list(rows)


def _rival(pipe: Connection, name: str, preset: str, compiled: bool,
           options: argparse.Namespace) -> None:
    """A process that holds one model and does a step when it is asked to."""
    chosen, config = choose_precision(options.device, options.dtype), PRESETS[preset].model
    before = peak_memory_gib(chosen.device)
    model = {OURS: PicoLM, FULL: FullLogits, LLAMA: Llama}[name](config).to(chosen.device)
    pico = getattr(model, "pico", model)
    # On a GPU the fastest that it has, which is not the default.
    fused = chosen.device.type == "cuda"
    optimizer = (torch.optim.AdamW(model.parameters(), fused=fused) if name == LLAMA
                 else TorchMuon(pico) if name == FULL
                 else MuonAdamW(parameter_groups(pico), dtype=chosen.dtype))
    objective = torch.compile(model.loss) if compiled else model.loss
    draws = torch.randint(config.vocab_size, (options.sequences, config.max_seq_len + 1),
                          device=chosen.device)
    inputs, targets = draws[:, :-1].contiguous(), draws[:, 1:].contiguous()

    def both_passes() -> None:
        with chosen.autocast():
            loss = objective(inputs, targets)
        loss.backward()

    pipe.send("built")
    while pipe.recv() == "step":
        both, used = clock(both_passes)
        update, _ = clock(optimizer.step)
        optimizer.zero_grad()
        pipe.send((both, update, used))
    pipe.send({"device": str(chosen.device), "dtype": str(chosen.dtype).removeprefix("torch."),
               "tokens": inputs.numel(), "parameters": count_parameters(model),
               "peak memory, GiB": round(peak_memory_gib(chosen.device) - before, 2)})
