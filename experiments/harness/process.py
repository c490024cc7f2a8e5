"""How this process computes: devices and precision by accelerate, determinism, threads, compilation."""

import os
from datetime import timedelta

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from torch import nn

from experiments.harness.arithmetic import check_instruction_set
from experiments.harness.config import Config
from experiments.harness.errors import ConfigError
from experiments.harness.task import Task

LONGEST_WAIT = timedelta(hours=6)
"""How long processes wait for one another. One of them alone writes a checkpoint, which may take longer than NCCL's ten
minutes, and shares of an evaluation end at different times.
"""


def make_accelerator(cfg: Config) -> Accelerator:
    """Apply the settings that change bits, and find the device; raises ConfigError where there is no such device."""
    train = cfg.train
    if cfg.run.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"run.device must be auto, cpu or cuda, but it is {cfg.run.device!r}.")
    if cfg.run.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("run.device=cuda, but PyTorch finds no CUDA device here: use run.device=cpu or auto.")
    check_instruction_set(train.instruction_set)
    if train.threads is not None:
        torch.set_num_threads(train.threads)
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(train.deterministic)
    torch.backends.cudnn.benchmark = not train.deterministic
    torch.backends.cudnn.allow_tf32 = train.tf32
    torch.set_float32_matmul_precision("high" if train.tf32 else "highest")
    # cuDNN's attention gives NaN on an H100 where there is a mask (pytorch/pytorch#196678); here that is a divergence.
    torch.backends.cuda.enable_cudnn_sdp(False)
    # One worker process may have many runs, each with its own precision; accelerate keeps the first run's otherwise.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision="bf16" if train.precision == "bf16" else "no",
        cpu=cfg.run.device == "cpu",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
    )
    if cfg.run.gpus > max(1, accelerator.num_processes):
        raise ConfigError(
            f"run.gpus={cfg.run.gpus} gives this run more GPUs than its {accelerator.num_processes} processes can use, "
            f"one each: start it by accelerate launch --num_processes {cfg.run.gpus} -m experiments.{cfg.task} ..."
        )
    return accelerator


def compile_and_warm_up(model: nn.Module, task: Task, accelerator: Accelerator, cfg: Config) -> nn.Module:
    """``torch.compile`` with static shapes, and one forward and backward pass whose traces are removed again, so that
    no compilation is left for the training clock.
    """
    compiled: nn.Module = torch.compile(model, dynamic=False)  # type: ignore[assignment]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    size = cfg.train.micro_batch_size
    batch = task.batch(torch.arange(size).numpy() % task.num_train, [0] * size)
    batch = {name: value.to(accelerator.device) for name, value in batch.items()}
    accelerator.backward(task.loss(compiled, batch))
    model.zero_grad()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return compiled
