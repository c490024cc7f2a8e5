"""Language modelling: next-token or masked-token prediction on packed text."""
