"""Checks that say what went wrong, not only that it did."""

from picolm_lib.course.checks.exercise import Exercise, Verdict
from picolm_lib.course.checks.hunts import BugHunt, Patients

__all__ = ["BugHunt", "Exercise", "Patients", "Verdict"]
