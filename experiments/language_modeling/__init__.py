"""Language modelling: text in packed tokens, the next token, or masked ones, to be told."""
