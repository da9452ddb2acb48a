"""`python inference.py export`: a run as a folder of the transformers library."""

from __future__ import annotations

from dataclasses import dataclass

from picolm_lib.cli import parse
from picolm_lib.config import Dtype
from picolm_lib.doctor import DTYPES
from picolm_lib.export import export


@dataclass(frozen=True)
class ExportOptions:
    """Options of the export."""

    run: str = "bundled"
    """Folder of a trained model, or 'bundled': the nano model that comes with the package."""
    out: str = "picolm-export"
    """The new folder."""
    dtype: Dtype = "float32"
    """Type of the stored weights; 16 bits halve the size."""


def export_command(argv: list[str]) -> None:
    """`python inference.py export`: a run as a folder of the transformers library."""
    options = parse(ExportOptions, argv, ExportOptions(), "inference.py export",
                    "Writes a trained model as a folder that the transformers library loads: "
                    "weights, tokenizer, code, and a model card.")
    folder = export(options.run, options.out, DTYPES.get(options.dtype, DTYPES["float32"]))
    print(f"The model is in {folder}; README.md in it says how good it is and how to use it.\n"
          f"To publish it: hf upload your-name/your-model {folder}")
