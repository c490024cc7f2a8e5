"""Networks with weights from package registries, and the cached outputs of their frozen parts."""
