"""The checks that notebook 01 calls."""

from picolm_lib.course.tokens.exercises.decoding import decode
from picolm_lib.course.tokens.exercises.encoding import encode_word, quick_encode_word
from picolm_lib.course.tokens.exercises.healing import heal
from picolm_lib.course.tokens.exercises.learning import learn_merges
from picolm_lib.course.tokens.exercises.measuring import bits_per_byte
from picolm_lib.course.tokens.exercises.merging import merge
from picolm_lib.course.tokens.exercises.windowing import windows

__all__ = ["bits_per_byte", "decode", "encode_word", "heal", "learn_merges", "merge",
           "quick_encode_word", "windows"]
