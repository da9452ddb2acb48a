"""How much a run will read, before there are any data: its speed is measured on random tokens.

A dataset may be a hundred times larger than what a run has time for. So the number of tokens comes
first, and then only so much is downloaded and prepared.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from picolm_lib.config import PicoConfig, TrainConfig
from picolm_lib.data.cache import bpe_size
from picolm_lib.data.corpus import Corpus
from picolm_lib.data.token_file import TokenCounts, TokenFile
from picolm_lib.data.tokenizer import load_tokenizer
from picolm_lib.model.config import require
from picolm_lib.train.trainer import Trainer

# Of a run that is limited in minutes: it may turn out faster than its first passes were.
RESERVE = 1.5
# Tokens: more than there are.
MOST = 10**13


def trial(model: PicoConfig, train: TrainConfig, validation_tokens: int = 2**20) -> Trainer:
    """The run on random tokens, without a folder: as fast as the real one, and it learns nothing.

    Args:
        model: with the vocabulary of the run's tokenizer.
        train: its compilation is left out; it would take longer than all else.
        validation_tokens: about as many as the last evaluation will read.
    """
    rng = np.random.default_rng(train.seed)

    def random_file(tokens: int) -> TokenFile:
        ids = rng.integers(min(model.vocab_size, 2**16), size=tokens, dtype=np.uint16)
        return TokenFile(ids, TokenCounts(tokens=tokens, bytes=4 * tokens))

    files = {"train": random_file(4 * train.batch_size * model.max_seq_len + 1),
             "validation": random_file(validation_tokens)}
    # The prompt may be in a language that this tokenizer cuts into too many pieces.
    return Trainer(model, replace(train, compile=False, prompt=""), load_tokenizer(), files,
                   show=False)


def tokens_to_prepare(model: PicoConfig, train: TrainConfig, corpus: Corpus) -> int:
    """Training tokens that a new run needs in order to read none twice; 0: all that there are.

    They are rounded up to one digit, so that runs of nearly the same length share a token file.

    Raises:
        PicoError: `data_tokens` is set, and the corpus has no validation split of its own.
    """
    if not corpus.has_validation:
        require(not train.data_tokens, "--data-tokens needs data with a validation split, since "
                                       "otherwise it would change what is held out; leave it out")
        return 0
    if train.data_tokens:
        return train.data_tokens
    step = train.batch_size * model.max_seq_len
    limits = [limit for limit in (train.max_tokens, train.max_steps * step) if limit]
    if train.max_minutes:
        size = bpe_size(train.tokenizer)
        if size is None:
            size = len(load_tokenizer(train.tokenizer))
        run = trial(replace(model, vocab_size=size), train)
        run.measure_speed()
        limits.append(min(math.ceil(RESERVE * run.total_tokens), MOST))
    # The first tokens of an epoch are cut off, and the last ones that make no window.
    needed = min(limits) + step + model.max_seq_len
    unit = 10 ** (len(str(needed)) - 1)
    return -(-needed // unit) * unit
