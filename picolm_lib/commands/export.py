"""`picolm export`: writes a run as a folder that the transformers library loads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from picolm_lib.commands.parse import parse
from picolm_lib.device import DTYPES
from picolm_lib.export import export


@dataclass(frozen=True)
class ExportOptions:
    """Options of the export."""

    run: str = "bundled"
    """Folder of a trained model, or 'bundled': the nano model that comes with the package."""
    out: str = "picolm-export"
    """The new folder."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the stored weights; 16 bits halve the size."""


def export_command(argv: list[str], prog: str = "picolm export") -> None:
    """`picolm export`: writes a run as a folder that the transformers library loads."""
    options = parse(ExportOptions, argv, ExportOptions(), prog,
                    "Writes a trained model as a folder that the transformers library loads: "
                    "weights, tokenizer, code, and a model card.")
    folder = export(options.run, options.out, DTYPES[options.dtype])
    print(f"The model is in {folder}; README.md in it says how good it is and how to use it.\n"
          f"To publish it: hf upload your-name/your-model {folder}")
