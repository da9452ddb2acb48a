"""`python -m picolm_lib`: the same as the command `picolm`."""

from picolm_lib.commands.main import main

if __name__ == "__main__":
    main()
