"""Simple-PicoLM: a small language model to read, train and use. The public names are those below.

Each name is imported from its module when it is first used, so that `import picolm_lib` is quick.

    from picolm_lib import generate, load_run

    model, tokenizer, config = load_run("bundled")
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version

# Name -> module of picolm_lib.
_MODULES = {
    "PRESETS": "config",
    "PicoConfig": "model.config",
    "PicoError": "model.config",
    "SampleConfig": "config",
    "TrainConfig": "config",
    "PicoLM": "model.picolm",
    "choose_precision": "device",
    "device_report": "device",
    "load_corpus": "data.corpus",
    "load_tokenizer": "data.tokenizer",
    "train_bpe": "data.tokenizer",
    "tokenize_corpus": "data.tokens",
    "MuonAdamW": "train.muon",
    "Trainer": "train.trainer",
    "load_run": "train.checkpoint",
    "generate": "sampling",
    "stream_text": "sampling",
    "hallucination_meter": "evaluate",
    "for_transformers": "export",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    if name == "__version__":
        return version("simple-picolm")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    # The next use finds it without this function.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, "__version__"})
