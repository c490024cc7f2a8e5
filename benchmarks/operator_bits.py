"""Find operators that round differently on two machines: print one line per operator, with a digest of its results.

    python -m benchmarks.operator_bits avx2 > here.txt     # with the instruction set of smoke and mini runs
    python -m benchmarks.operator_bits      > here.txt     # with the best instruction set of the processor
    diff here.txt there.txt

docs/reproducing.md describes the findings.
"""

import hashlib
import sys
from collections.abc import Callable

from experiments.harness.arithmetic import pin_instruction_set

pin_instruction_set(sys.argv[1] if len(sys.argv) > 1 else None)

import numpy as np  # noqa: E402  # after the pin, like PyTorch
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402


def forward_and_backward(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The output, and the gradients of the mean of its squares."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    output = function(*leaves)
    return [output.detach(), *torch.autograd.grad(output.square().mean(), leaves)]


def adamw_steps(param: Tensor, grad: Tensor) -> list[Tensor]:
    """The parameter after three fused steps."""
    trained = nn.Parameter(param.clone())
    optimizer = torch.optim.AdamW([trained], lr=0.1, fused=True)
    for _ in range(3):
        trained.grad = grad
        optimizer.step()
    return [trained.detach()]


def results() -> dict[str, list[Tensor]]:
    """Result tensors by operator, computed from inputs that are the same on every machine."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))

    images, kernels = normal(32, 16, 16, 16), normal(32, 16, 3, 3)
    rows, weights = normal(256, 128), normal(512, 128)
    queries, keys, values = normal(4, 4, 32, 16), normal(4, 4, 32, 16), normal(4, 4, 32, 16)
    positive = rows.abs() + 0.1
    symmetric = (rows.double().T @ rows.double()).numpy()
    return {
        "convolution": forward_and_backward(lambda x, w: F.conv2d(x, w, padding=1, stride=2), images, kernels),
        "linear": forward_and_backward(F.linear, rows, weights),
        "batched matmul": forward_and_backward(torch.bmm, queries[0], keys[0].transpose(1, 2).contiguous()),
        "attention": forward_and_backward(F.scaled_dot_product_attention, queries, keys, values),
        "layer norm": forward_and_backward(lambda x: F.layer_norm(x, (128,)), rows),
        "group norm": forward_and_backward(lambda x: F.group_norm(x, 4), images),
        "batch norm": forward_and_backward(lambda x: F.batch_norm(x, None, None, training=True), images),
        "gelu": forward_and_backward(F.gelu, rows),
        "gelu, tanh": forward_and_backward(lambda x: F.gelu(x, approximate="tanh"), rows),
        "silu": forward_and_backward(F.silu, rows),
        "log softmax": forward_and_backward(lambda x: F.log_softmax(x, -1), rows),
        "exp": [positive.exp()],
        "tanh": [rows.tanh()],
        "erf": [rows.erf()],
        "sqrt": [positive.sqrt()],
        "rsqrt": [positive.rsqrt()],
        "sum, norm, variance": [rows.sum(), rows.sum(0), rows.sum(1), rows.norm(), rows.var(0)],
        "fused AdamW": adamw_steps(rows, normal(256, 128)),
        "float64 matmul": [rows.double() @ weights.double().T],
        "float64 eigenvalues": [torch.linalg.eigvalsh(torch.from_numpy(symmetric))],
        "NumPy matmul": [torch.from_numpy(rows.numpy() @ weights.numpy().T)],
        "NumPy float64 eigenvalues": [torch.from_numpy(np.linalg.eigvalsh(symmetric))],
    }


def main() -> None:
    """Print one line per operator."""
    torch.set_num_threads(1)
    for name, tensors in results().items():
        digest = hashlib.sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors)).hexdigest()
        print(f"{name:28} {digest[:16]}")


if __name__ == "__main__":
    main()
