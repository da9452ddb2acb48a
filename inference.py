"""Writes stories with a trained PicoLM, as `picolm generate` does: python inference.py --help

`python inference.py export` is `picolm export`.
"""

from picolm_lib.commands.main import run_command, subcommand


def inference(argv: list[str]) -> None:
    """Runs `export` where that is the first word, and `generate` where it is not."""
    if argv[:1] == ["export"]:
        subcommand("export", argv[1:], "inference.py export")
    else:
        subcommand("generate", argv, "inference.py")


if __name__ == "__main__":
    run_command(inference)
