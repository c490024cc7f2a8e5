"""The reproduction suite: one package per task, and what all tasks share."""
