"""The reproduction: one package a task, and what all tasks share."""
