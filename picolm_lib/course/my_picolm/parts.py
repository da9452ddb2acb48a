"""The nine parts of my_picolm.py, and the file as it is before the learner has written any."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from pathlib import Path

# Part -> its functions that an exercise asks for. A part is the learner's when all of them are.
PARTS = {
    "the tokenizer's merges": ("merge", "learn_merges", "encode_word", "decode"),
    "causal attention": ("causal_attention",),
    "RoPE": ("rope_tables", "apply_rope"),
    "shared keys and values, with a cache": ("expand_kv", "KVCache"),
    "RMSNorm": ("rms_norm",),
    "SwiGLU": ("swiglu",),
    "block and model": ("attention", "mlp", "block", "model"),
    "sampling filters": ("apply_repetition_penalty", "apply_temperature", "apply_top_k",
                         "apply_top_p", "apply_min_p"),
    "the generation loop": ("generate",),
}
FUNCTIONS = tuple(name for names in PARTS.values() for name in names)
USED = "# ---- What your functions use ----"
FIRST_PART = "# ---- Part 1 of 9: the tokenizer's merges ----"
OURS, LEARNERS = "the course's, until you write it", "yours"


def marker(name: str, whose: str) -> str:
    """The line before a function that says whose it is."""
    return f"# {name}: {whose}"


def whole_parts(yours: Iterable[str]) -> list[str]:
    """The parts of which all functions are among these."""
    written = set(yours)
    return [part for part, names in PARTS.items() if written.issuperset(names)]


def unfinished_sentence(yours: Iterable[str]) -> str:
    """What is missing of the parts that are begun, "" if there are none."""
    written, said = set(yours), ""
    for part, names in PARTS.items():
        missing = [name for name in names if name not in written]
        if missing and len(missing) < len(names):
            verb = "is" if len(missing) == 1 else "are"
            said += f" Of {part}, {', '.join(missing)} {verb} still the course's."
    return said.strip()


def count_sentence(yours: Iterable[str]) -> str:
    """Such as "1 of 9 parts is yours."."""
    written = list(yours)
    count = len(whole_parts(written))
    return (f"{count} of {len(PARTS)} parts {'is' if count == 1 else 'are'} yours. "
            f"{unfinished_sentence(written)}").rstrip()


def template() -> str:
    """The text of my_picolm.py with the course's functions in all places."""
    folder = Path(__file__).parent
    given, reference = ((folder / name).read_text(encoding="utf-8")
                        for name in ("given.py", "reference.py"))
    docstring = given[:given.index('"""', 3) + 3]
    constants, rest = given[given.index("# The parts whose"):].split("# ---- Given", 1)
    parts = reference[reference.index(FIRST_PART):]
    return (f"{docstring}\n\nfrom __future__ import annotations\n\n{_imports(given, reference)}\n"
            f"{constants}{USED}\n\n{parts}\n\n# ---- Given{rest}")


def _imports(*sources: str) -> str:
    """The imports of several modules as one block, without those from the course."""
    modules: set[str] = set()
    names: dict[str, set[str]] = {}
    for node in (node for source in sources for node in ast.parse(source).body):
        if isinstance(node, ast.Import):
            modules.add(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.setdefault(node.module, set()).update(map(ast.unparse, node.names))
    lines = sorted(modules) + [f"from {module} import {', '.join(sorted(names[module]))}"
                               for module in sorted(names)
                               if module.split(".")[0] not in ("__future__", "picolm_lib")]
    standard = [line for line in lines if line.split()[1].split(".")[0] in sys.stdlib_module_names]
    others = [line for line in lines if line not in standard]
    return "\n".join([*standard, "", *others, ""])
