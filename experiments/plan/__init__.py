"""What an experiment would cost, counted without its data and without a GPU."""
