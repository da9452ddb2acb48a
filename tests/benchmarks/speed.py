"""Speed and memory beside the peers: training, optimizer, generation.

    python tests/benchmarks/speed.py                       # everything, on the CPU and on a GPU
    python tests/benchmarks/speed.py training --presets nano --modes eager
    python tests/benchmarks/speed.py optimizer generation

`training`: tokens per second, seconds of forward and backward and of the optimizer step, and peak
memory, of PicoLM as this package trains it, of the same model with all logits and torch.optim.Muon,
and of transformers' Llama of the same shape with torch.optim.AdamW (peers.py), eager and compiled.
Each lives in a process of its own, so that memory can be told apart; they take turns, a step each.

`optimizer`: MuonAdamW against torch.optim.Muon and AdamW over the same groups, with the
distance of Newton-Schulz's results from the exact polynomial.

`generation`: time to the first token and tokens per second, of this package, of the exported model
in transformers' generate, and of that Llama in it; batch 1 and 16, one filter chain for all.

Each part prints a table and writes results/speed-*.json. Figures are medians; only ratios within a
run mean anything on a machine that others use, too.
"""

from __future__ import annotations

import argparse

import speed_generation
import speed_optimizer
import speed_training

PARTS = {"training": speed_training.measure, "optimizer": speed_optimizer.measure,
         "generation": speed_generation.measure}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=list(PARTS))
    parser.add_argument("--presets", nargs="+", default=["nano", "pico"])
    parser.add_argument("--modes", nargs="+", default=["eager", "compiled"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rivals", nargs="+", help="of training: only these, a Llama last")
    parser.add_argument("--suffix", default="", help="of the name of training's result")
    parser.add_argument("--sequences", type=int, default=8, help="of a training step")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto", help="auto is a GPU where there is one")
    parser.add_argument("--dtype", default="auto", help="float16 is what a T4 gets")
    options = parser.parse_args()
    for part in options.parts:
        PARTS[part](options)


if __name__ == "__main__":
    main()
