"""The model card of an export, written from the run's own numbers."""

from __future__ import annotations

import json
import math
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picolm_lib.config import SampleConfig
from picolm_lib.model.picolm import PicoLM, count_parameters
from picolm_lib.sampling import stream_text
from picolm_lib.train.checkpoint import RunConfig, run_folder
from picolm_lib.train.metrics import read_metrics

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TEXT = """\
# {name}

A small language model of {parameters:,} parameters, trained with [Simple-PicoLM]({home}) on
{data}.

## How good is it?

{scores}

A story that it wrote, not selected (seed {seed}, temperature {temperature}, min-p {min_p}):

{story}

## What it is not

- It knows its training text and nothing else. It follows no instructions and answers no questions.
- It makes things up, even about its own story: names, colors and places may change within it.
- It repeats what its training text says, with all its errors and biases. No one has checked it for
  safety.
- Its context is {context:,} tokens, including those that it generates.

## How to use it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

name = "{name}"  # this folder, or its id on the Hub
tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=True)
prompt = tokenizer({quoted}, return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt)[0], skip_special_tokens=True))
```

`trust_remote_code=True` runs the Python files of this folder. They are short: read them first.
Omit it where the package is installed (`pip install git+{home}`) and imported
(`import picolm_lib.model.hf`).

## How it was trained

| | |
|---|---|
| blocks, width, query heads, KV heads | {n_layers}, {d_model}, {n_heads}, {n_kv_heads} |
| vocabulary, context | {vocab_size:,} tokens, {context:,} tokens |
{training}
| optimizer | Muon ({muon_lr:g}) and AdamW ({adamw_lr:g}; norms and biases {vector_lr:g}) |
| seed | {seed} |

## License

No license is chosen here. Add one before you publish, and check that of the training text.
"""


def model_card(name: str, run: str | Path, model: PicoLM, tokenizer: PreTrainedTokenizerFast,
               config: RunConfig) -> str:
    """The text of README.md, in the Hub's format.

    Args:
        name: the name of the model.
        run: the run's folder, or "bundled"; the card reports its last evaluation.
    """
    sample, seed = SampleConfig(), config.train.seed
    story = "".join(stream_text(model, tokenizer, config.train.prompt, sample, seed))
    return _head(config) + TEXT.format(**{
        **vars(config.train), **vars(config.model), "name": name, "home": _home(), "seed": seed,
        "parameters": count_parameters(model), "data": _data(config.train.data),
        "scores": _scores(last_scores(run)), "training": _training(last_scores(run), config),
        "temperature": sample.temperature, "min_p": sample.min_p,
        "story": "\n".join(f"> {line}".rstrip() for line in story.splitlines()),
        "quoted": json.dumps(config.train.prompt), "context": config.model.max_seq_len})


def last_scores(run: str | Path) -> dict[str, Any] | None:
    """The last evaluation of a run; None where it has none.

    Returns:
        At least `tokens` (trained on so far), `step`, `loss` in nats, and `bits_per_byte`.
    """
    evaluations = [m for m in read_metrics(run_folder(run)) if m["kind"] == "evaluation"]
    return evaluations[-1] if evaluations else None


def _head(config: RunConfig) -> str:
    """The metadata by which the Hub finds a model."""
    from huggingface_hub import ModelCardData

    on_the_hub = _data(config.train.data).startswith("[")
    data = ModelCardData(library_name="transformers", pipeline_tag="text-generation",
                         tags=["picolm"], datasets=[config.train.data] if on_the_hub else None)
    return f"---\n{data.to_yaml()}\n---\n\n"


def _data(data: str) -> str:
    """What it was trained on. The names of local files stay private."""
    if data == "storybook":
        return "the Storybook (stories that Simple-PicoLM writes itself)"
    if Path(data).exists() or data.count("/") > 1 or Path(data).suffix:
        return "local files"
    return f"[{data}](https://huggingface.co/datasets/{data})"


def _scores(last: dict[str, Any] | None) -> str:
    if last is None:
        return "It was exported before its first evaluation, so there are no scores."
    of = f"{last['predicted']:,} tokens of " if "predicted" in last else ""
    return (f"Measured on {of}documents that it was not trained on:\n\n"
            "| loss (nats per token) | perplexity | bits per byte |\n|---|---|---|\n"
            f"| {last['loss']:.4f} | {math.exp(last['loss']):.3f} | {last['bits_per_byte']:.4f} |")


def _training(last: dict[str, Any] | None, config: RunConfig) -> str:
    rows = [("tokens per step", f"{config.train.batch_size * config.model.max_seq_len:,}")]
    if last is not None:
        rows.insert(0, ("tokens, steps", f"{last['tokens']:,}, {last['step']:,}"))
    if last and "seconds" in last:
        rows.append(("time", f"{last['seconds'] / 60:.1f} minutes"))
    return "\n".join(f"| {what} | {value} |" for what, value in rows)


def _home() -> str:
    """The repository's address, from pyproject.toml: of the installed package, or the file itself
    where the package is used out of a checkout."""
    try:
        addresses = metadata("simple-picolm").get_all("Project-URL") or []
    except PackageNotFoundError:
        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
        return project["project"]["urls"]["Repository"]
    return next(line.split(", ")[1] for line in addresses if line.startswith("Repository"))
