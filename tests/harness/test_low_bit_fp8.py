"""On which GPUs PyTorch can compile an optimizer's step with fp8 state: those for which Triton converts to it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.harness import low_bit

triton = pytest.importorskip("triton")


def convert(source, target):  # type: ignore[no-untyped-def]  # Triton reads annotations
    triton.language.store(target, triton.language.load(source).to(triton.language.float8e4nv))


def compiled(capability: tuple[int, int]) -> Any:
    """For a GPU that this machine need not have."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(triton.jit(convert), {"source": "*fp32", "target": "*fp8e4nv"})
    return triton.compile(source, target=GPUTarget("cuda", 10 * capability[0] + capability[1], 32))


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0)])
def test_the_refusal_names_what_a_gpu_lacks_where_triton_has_no_fp8(
    capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    said = low_bit._device_words(torch.device("cuda"), "AdamWFp8")
    if said == "cuda":
        assert compiled(capability)
    else:
        assert said.startswith("cuda of compute capability {}.{} (Triton converts".format(*capability))
        with pytest.raises(triton.CompilationError, match="fp8e4nv not supported in this architecture"):
            compiled(capability)
    assert low_bit._device_words(torch.device("cuda"), "AdamW8bit") == "cuda"
    assert low_bit._device_words(torch.device("cpu"), "AdamWFp8") == "cpu"
