"""Trains PicoLM, as `picolm train` does: python run_train.py --help"""

from picolm_lib.commands.main import run_command, subcommand

if __name__ == "__main__":
    run_command(lambda argv: subcommand("train", argv, "run_train.py"))
