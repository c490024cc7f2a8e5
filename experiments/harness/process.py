"""How this process computes: devices and precision by accelerate, determinism, threads, compilation."""

import os
import random
import sys
from datetime import timedelta

import numpy as np
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin
from threadpoolctl import threadpool_limits
from torch import nn

from experiments.harness.arithmetic import check_instruction_set
from experiments.harness.config import Config, TrainConfig
from experiments.harness.errors import ConfigError
from experiments.harness.task import Task

LONGEST_WAIT = timedelta(hours=6)
"""How long processes wait for one another. One of them alone writes a checkpoint, which may take longer than NCCL's ten
minutes, and shares of an evaluation end at different times.
"""
ENGINES = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")
"""Other ways to compute a step, which ``accelerate launch`` asks for by ACCELERATE_USE_<engine>"""
RECOMPILE_LIMIT = 2**16
"""Shapes of one function that are compiled; dynamo's own 8 leave the ninth to eager code, which has other bits."""


def make_accelerator(cfg: Config) -> Accelerator:
    """Apply the settings that change bits, and find the device; raises ConfigError where there is no such device."""
    train = cfg.train
    if cfg.run.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("run.device=cuda, but PyTorch finds no CUDA device here: use run.device=cpu or auto.")
    check_instruction_set(train.instruction_set)
    engines = [f"ACCELERATE_USE_{engine}" for engine in ENGINES]
    asked = [name for name in engines if os.environ.get(name, "false").lower() == "true"]
    if os.environ.get("ACCELERATE_FP8_BACKEND", "NO").upper() != "NO":
        asked.append("ACCELERATE_FP8_BACKEND")
    if asked:
        raise ConfigError(
            f"{asked[0]} is set, which computes other results than the run's name stands for: launch it by accelerate "
            "launch with --multi_gpu or --num_processes alone."
        )
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # One worker process may have many runs, each with its own settings; accelerate keeps the first run's otherwise.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    # Whatever is left out here, accelerate takes from its environment, which is no part of a run's name.
    accelerator = Accelerator(
        mixed_precision="bf16" if train.precision == "bf16" else "no",
        cpu=cfg.run.device == "cpu",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_backend="no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
    )
    if cfg.run.gpus > max(1, accelerator.num_processes):
        raise ConfigError(
            f"run.gpus={cfg.run.gpus} gives this run more GPUs than its {accelerator.num_processes} processes can use, "
            f"one each: start it by accelerate launch --num_processes {cfg.run.gpus} -m experiments {cfg.task} ..."
        )
    if accelerator.num_processes % cfg.run.shards:
        raise ConfigError(
            f"run.shards={cfg.run.shards} shares a model out over so many processes, but this run has "
            f"{accelerator.num_processes}: start it by accelerate launch --num_processes with a multiple of "
            f"{cfg.run.shards}, -m experiments {cfg.task} ..."
        )
    if cfg.run.device not in ("auto", accelerator.device.type):
        raise ConfigError(
            f"run.device={cfg.run.device}, but accelerate takes the device {accelerator.device}: unset "
            "ACCELERATE_USE_CPU and ACCELERATE_TORCH_DEVICE."
        )
    _set_up_process(train)
    return accelerator


def _set_up_process(train: TrainConfig) -> None:
    """All that the process has had before: other runs, or accelerate, which sets a number of threads of its own."""
    torch.set_num_threads(train.threads)
    threadpool_limits(train.threads, user_api="blas")  # NumPy's, which the eigenvalues of a Frechet distance depend on
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.set_flush_denormal(False)
    torch.use_deterministic_algorithms(train.deterministic)
    torch.backends.cudnn.enabled = True
    torch.backends.cudnn.deterministic = train.deterministic
    torch.backends.cudnn.benchmark = not train.deterministic
    torch.backends.cudnn.allow_tf32 = train.tf32
    torch.set_float32_matmul_precision("high" if train.tf32 else "highest")
    # cuDNN's attention gives NaN on an H100 where there is a mask (pytorch/pytorch#196678); here that is a divergence.
    torch.backends.cuda.enable_cudnn_sdp(False)
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()  # what other runs compiled counts against dynamo's limits


def seed_generators(seed: int) -> None:
    """Every global generator that a model may draw from, on all devices: PyTorch's, NumPy's and Python's own."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def compile_and_warm_up(model: nn.Module, task: Task, accelerator: Accelerator, cfg: Config) -> nn.Module:
    """``torch.compile`` with static shapes, and one forward and backward pass whose traces are removed again, so that
    no compilation is left for the training clock.
    """
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    if dynamo.disable:
        raise ConfigError("train.compile=true, but the environment (TORCHDYNAMO_DISABLE) keeps PyTorch from compiling.")
    dynamo.recompile_limit = dynamo.accumulated_recompile_limit = RECOMPILE_LIMIT
    # What Inductor makes for AVX2 under ATEN_CPU_CAPABILITY reads memory that nobody wrote (PyTorch 2.15: one of two
    # equal runs diverged at its second step), so code for pinned instructions is left to the C++ compiler.
    inductor.cpp.simdlen = None if cfg.train.instruction_set is None else 1
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
