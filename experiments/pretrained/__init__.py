"""Networks whose weights package registries carry, and the stored outputs of their locked parts."""
