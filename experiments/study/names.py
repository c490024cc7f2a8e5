"""How optimizers and numbers are written, wherever they are shown."""

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
    "lion_8bit": "8-bit Lion",
    "lion_paged_8bit": "paged 8-bit Lion",
    "adamw_8bit": "8-bit AdamW",
    "adamw_paged_8bit": "paged 8-bit AdamW",
    "adamw_ao_8bit": "torchao's 8-bit AdamW",
    "adamw_ao_4bit": "torchao's 4-bit AdamW",
    "adamw_ao_fp8": "torchao's fp8 AdamW",
}


def optimizer_name(name: str) -> str:
    """``adamw`` -> ``AdamW``; an optimizer that is not listed keeps its own name."""
    return OPTIMIZERS.get(name, name)


def significant(value: float, digits: int = 2) -> str:
    """``0.0312`` -> ``0.031``, ``109.7`` -> ``110``."""
    return f"{float(f'{value:.{digits}g}'):g}"  # .2g alone writes 1.1e+02
