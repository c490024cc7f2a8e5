"""The usual names of optimizers."""

OPTIMIZERS = {
    "lion": "Lion",
    "adamw": "AdamW",
    "nadam": "NAdam",
    "radam": "RAdam",
    "amsgrad": "AMSGrad",
    "adabelief": "AdaBelief",
    "adafactor": "Adafactor",
    "sgd": "SGD",
    "signum_b9": "Signum, β 0.9",
    "signum_b99": "Signum, β 0.99",
    "cautious_lion": "Cautious Lion",
    "lion_8bit": "Lion, 8 bits",
    "lion_paged_8bit": "Lion, 8 bits, paged",
    "adamw_8bit": "AdamW, 8 bits",
    "adamw_paged_8bit": "AdamW, 8 bits, paged",
    "adamw_ao_8bit": "AdamW of torchao, 8 bits",
    "adamw_ao_4bit": "AdamW of torchao, 4 bits",
}


def optimizer_name(name: str) -> str:
    """``adamw`` -> ``AdamW``; an optimizer that is not listed keeps its own name."""
    return OPTIMIZERS.get(name, name)
