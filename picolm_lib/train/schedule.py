"""Learning rate and momentum over a run.

Warm-up, stable, decay (WSD): the learning rate rises linearly, stays, then falls linearly to zero.
During the long stable part the length of the run need not be known yet: the end must be fixed only
when the decay begins.

Sources: Shengding Hu et al., "MiniCPM: Unveiling the Potential of Small Language Models with
Scalable Training Strategies", 2024. Alexander Haegele et al., "Scaling Laws and Compute-Optimal
Training Beyond Fixed Training Durations", 2024.
"""

from __future__ import annotations

from picolm_lib.config import TrainConfig


def lr_factor(done: float, config: TrainConfig) -> float:
    """The factor on all peak learning rates.

    Args:
        done: fraction of the run's tokens, between 0 and 1, at the middle of the step, so that the
            first and the last batch have a learning rate above zero.

    Returns:
        Between 0 and 1.
    """
    rising = done / config.warmup if config.warmup else 1.0
    falling = (1.0 - done) / config.decay if config.decay else 1.0
    return max(0.0, min(1.0, rising, falling))


def momentum(step: int, config: TrainConfig) -> float:
    """Muon's momentum at optimizer step `step`, counted from 0.

    Early gradients change direction fast, and a long average would lag behind them. So momentum is
    warmed up.
    """
    progress = min(1.0, step / config.momentum_warmup) if config.momentum_warmup else 1.0
    return config.momentum_start + progress * (config.momentum - config.momentum_start)
