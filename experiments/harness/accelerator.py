"""Set up how this process computes: device and precision through accelerate, determinism, threads, compilation."""

import gc
import os
import random
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch._dynamo
import torch.distributed as dist
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin
from threadpoolctl import threadpool_limits
from torch import nn

from experiments.harness.arithmetic import check_instruction_set
from experiments.harness.batches import to_device
from experiments.harness.config import Config, RunConfig, TrainConfig, processes_on_node
from experiments.harness.errors import ConfigError
from experiments.harness.task import Task

LONGEST_WAIT = timedelta(hours=6)
"""How long processes wait for each other: parts of an evaluation do not finish together, and the main process may take
more than NCCL's default of ten minutes to write a checkpoint."""
ENGINES = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")
"""Other ways to compute a step, which ``accelerate launch`` requests through ACCELERATE_USE_<engine>."""
RECOMPILE_LIMIT = 2**16
"""Shapes for which a function is compiled; after dynamo's default of 8 it would run eagerly, and round differently."""
MOST_THREADS = 64
"""Threads that any machine can run: a run that a larger one has recorded can be repeated, if slowly, on a smaller."""


def device_of(run: RunConfig) -> torch.device:
    """What a run computes on in this process, for a task that needs it before it is given a model there."""
    return torch.device("cuda" if run.device != "cpu" and torch.cuda.is_available() else "cpu")


def make_accelerator(cfg: Config) -> Accelerator:
    """Apply the settings that affect rounding and select the device; raises ConfigError if it is not available."""
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
            f"{asked[0]} is set, which would change results without changing the run's name: unset it. For several "
            "GPUs, set run.gpus; accelerate launch may only be given --multi_gpu or --num_processes."
        )
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # One worker process may execute many runs with different settings; accelerate would keep the first run's.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    # accelerate takes options not given here from the environment, which is not part of a run's name.
    accelerator = Accelerator(
        mixed_precision="bf16" if train.precision == "bf16" else "no",
        cpu=cfg.run.device == "cpu",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_backend="no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
    )
    processes, needed = accelerator.num_processes, processes_on_node(cfg.run.gpus) * cfg.run.nodes
    if processes < needed:
        raise ConfigError(
            f"run.gpus={cfg.run.gpus} on run.nodes={cfg.run.nodes} needs {needed} processes, but accelerate launch or "
            f"torchrun has started {processes}: start the run without it, and the run starts its own processes."
        )
    if processes % cfg.run.shards:
        raise ConfigError(
            f"run.shards={cfg.run.shards} shards a model over {cfg.run.shards} processes, but this run has "
            f"{processes}: set run.gpus to a multiple of {cfg.run.shards}."
        )
    if cfg.run.device not in ("auto", accelerator.device.type):
        raise ConfigError(
            f"run.device={cfg.run.device}, but accelerate selects the device {accelerator.device}: unset "
            "ACCELERATE_USE_CPU and ACCELERATE_TORCH_DEVICE."
        )
    _set_up_process(train)
    return accelerator


def _set_up_process(train: TrainConfig) -> None:
    """Undo what earlier runs in this process may have changed, and set the thread count, which accelerate changes."""
    cores = os.cpu_count() or 1
    if train.threads > (most := max(cores, MOST_THREADS)):  # it would run out of memory, or of time
        raise ConfigError(
            f"train.threads={train.threads}, but this machine has {cores} CPU cores, and more threads than cores only "
            f"wait for each other: set it to at most {most}."
        )
    torch.set_num_threads(train.threads)
    threadpool_limits(train.threads, user_api="blas")  # for NumPy: the eigenvalues of a Frechet distance
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.set_flush_denormal(False)
    torch.use_deterministic_algorithms(train.deterministic)
    # By default, PyTorch then fills every new tensor with NaN. In a step of language_modeling/gpu that is 294 kernels,
    # beside some 250 operators.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property
    torch.backends.cudnn.enabled = True
    torch.backends.cudnn.deterministic = train.deterministic
    torch.backends.cudnn.benchmark = not train.deterministic
    torch.backends.cudnn.allow_tf32 = train.tf32
    torch.set_float32_matmul_precision("high" if train.tf32 else "highest")
    # With a mask, cuDNN's attention returns NaN on an H100 (pytorch/pytorch#196678), which would count as divergence.
    torch.backends.cuda.enable_cudnn_sdp(False)
    if train.precision == "bf16" or torch.cuda.is_available():
        # An earlier run's model or images may still be in memory: in bf16, accelerate's wrapper makes a model refer to
        # itself, as tasks do.
        gc.collect()
    torch._dynamo.reset()  # functions compiled by earlier runs count against dynamo's limits


def seed_generators(seed: int) -> None:
    """Seed every global generator that a model may use, on all devices: PyTorch's, NumPy's and Python's."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)  # torch.manual_seed records stacks for absent devices
    np.random.seed(seed % 2**32)
    random.seed(seed)


def compile_and_warm_up(model: nn.Module, task: Task, accelerator: Accelerator, cfg: Config) -> nn.Module:
    """Apply ``torch.compile`` with static shapes, and run one forward and backward pass without side effects, so that
    nothing is compiled on the training clock.
    """
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    if dynamo.disable:
        raise ConfigError(
            "train.compile=true, but TORCHDYNAMO_DISABLE in the environment keeps PyTorch from compiling."
        )
    dynamo.recompile_limit = dynamo.accumulated_recompile_limit = RECOMPILE_LIMIT
    # Inductor's AVX2 code under ATEN_CPU_CAPABILITY reads uninitialized memory (PyTorch 2.15: one of two identical runs
    # diverged at its second step), so with pinned instructions the C++ compiler does the vectorization.
    inductor.cpp.simdlen = None if cfg.train.instruction_set is None else 1
    compiled: nn.Module = torch.compile(model, dynamic=False)  # type: ignore[assignment]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    size = cfg.train.micro_batch_size
    batch = task.batch(torch.arange(size).numpy() % task.num_train, [0] * size)
    accelerator.backward(task.loss(compiled, to_device(batch, accelerator.device)))
    model.zero_grad()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return compiled


class Agreement:
    """Shares flags between the processes of a run, so that they act together; by the CPU, so none waits for its GPU."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._group: Any = (
            dist.new_group(backend="gloo", timeout=LONGEST_WAIT) if accelerator.num_processes > 1 else None
        )

    def __call__(self, *said: bool) -> tuple[bool, ...]:
        """For each flag, whether any process has set it. Every process must call this, and all get the same answers."""
        if self._group is None:
            return said
        answers = torch.tensor(said, dtype=torch.int8)
        dist.all_reduce(answers, dist.ReduceOp.MAX, self._group)
        return tuple(map(bool, answers))
