"""Lessons: a question, small runs that answer it in front of the learner, and an exercise that is checked by a run."""
