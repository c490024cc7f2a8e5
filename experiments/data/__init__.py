"""The one way in for data: readers and what they check, whatever the task."""
