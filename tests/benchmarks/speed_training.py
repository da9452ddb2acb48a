"""Training beside the peers; see speed.py."""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
from multiprocessing.connection import Connection

import torch
from peers import FullLogits, Llama, TorchMuon
from record import clock, write

from picolm_lib.config import PRESETS
from picolm_lib.device import choose_precision, peak_memory_gib
from picolm_lib.model.picolm import PicoLM, count_parameters
from picolm_lib.train.muon import MuonAdamW, parameter_groups

ROWS = 8  # sequences per step
OURS, FULL, LLAMA = "picolm_lib", "all logits, torch Muon", "Llama, torch AdamW"


def measure(options: argparse.Namespace) -> None:
    """All rivals of each preset and mode, in turns."""
    for preset in options.presets:
        rows = [row for mode in options.modes for row in _race(preset, mode, options)]
        write(f"speed-training-{preset}{options.suffix}", rows, sequences_per_step=ROWS,
              repeats=options.repeats)


def _race(preset: str, mode: str, options: argparse.Namespace) -> list[dict]:
    spawn, rivals = multiprocessing.get_context("spawn"), {}
    for name in options.rivals or (OURS, FULL, LLAMA):
        here, there = spawn.Pipe()
        arguments = (there, name, preset, mode == "compiled", options.device, options.dtype)
        spawn.Process(target=_rival, args=arguments, daemon=True).start()
        rivals[name] = here
        here.recv()                                                  # built
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in rivals}
    for repeat in range(options.repeats + 2):                        # the first two warm up
        for name, rival in rivals.items():
            rival.send("step")
            taken = rival.recv()
            if repeat > 1:
                times[name].append(taken)
    rows, tokens = [], ROWS * PRESETS[preset].model.max_seq_len
    for name, rival in rivals.items():
        rival.send("end")
        about = rival.recv()
        both, update, used = (statistics.median(column) for column in zip(*times[name],
                                                                          strict=True))
        rows.append({"preset": preset, "mode": mode, "model": name, **about,
                     "tokens/s": round(tokens / (both + update)),
                     "forward and backward, s": round(both, 3), "optimizer, s": round(update, 3),
                     "forward and backward, processor s": round(used, 3)})
    last = rows[-1]
    for row in rows:
        row["tokens/s, times Llama's"] = round(row["tokens/s"] / last["tokens/s"], 2)
        for key in ("forward and backward, s", "forward and backward, processor s",
                    "peak memory, GiB"):
            row[f"{key}, share of Llama's"] = round(row[key] / last[key], 2)
    return rows


def _rival(pipe: Connection, name: str, preset: str, compiled: bool, device: str,
           dtype: str) -> None:
    """A process that holds one model and does a step when it is asked to."""
    chosen, config = choose_precision(device, dtype), PRESETS[preset].model
    before = peak_memory_gib(chosen.device)
    model = {OURS: PicoLM, FULL: FullLogits, LLAMA: Llama}[name](config).to(chosen.device)
    pico = getattr(model, "pico", model)
    optimizer = (torch.optim.AdamW(model.parameters()) if name == LLAMA else TorchMuon(pico)
                 if name == FULL else MuonAdamW(parameter_groups(pico), dtype=chosen.dtype))
    objective = torch.compile(model.loss) if compiled else model.loss
    draws = torch.randint(config.vocab_size, (ROWS, config.max_seq_len + 1), device=chosen.device)
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
               "parameters": count_parameters(model),
               "peak memory, GiB": round(peak_memory_gib(chosen.device) - before, 2)})
