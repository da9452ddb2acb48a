"""Tells stories with a trained PicoLM: python inference.py --help"""

from picolm_lib.cli import run_command
from picolm_lib.commands.story import story_command

if __name__ == "__main__":
    run_command(story_command)
