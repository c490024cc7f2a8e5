"""The Lion optimizer and a health check of any optimizer's step. Needs torch alone."""

from lion.health import measure_step
from lion.lion import Lion, lion

__all__ = ["Lion", "lion", "measure_step"]
