"""Trains PicoLM: python run_train.py --help"""

from picolm_lib.cli import run_command
from picolm_lib.commands.train import train_command

if __name__ == "__main__":
    run_command(train_command)
