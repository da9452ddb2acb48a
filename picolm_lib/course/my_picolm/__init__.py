"""my_picolm.py: the learner's own model, one file that grows from notebook to notebook.

    my_picolm.start(SAVE_TO_DRIVE)      # in the Settings cell
    my_picolm.keep("merge", merge)      # a function that passed its check
    my_picolm.tell()                    # a story, told by the file alone
    my_picolm.offer()                   # where it is, and how to run it
"""

from picolm_lib.course.my_picolm.notebook import keep, offer, start, tell

__all__ = ["keep", "offer", "start", "tell"]
