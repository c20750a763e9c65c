"""Where processes for cells run: one per GPU, else in equal shares of the CPU."""

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CellDevice:
    """Where a process for cells runs.

    Attributes:
        gpu: GPU as in `CUDA_VISIBLE_DEVICES`; None for the CPU.
        threads: number of threads for each of several processes that share the CPU's cores; None leaves it to
            torch.
    """

    gpu: str | None = None
    threads: int | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of the process, in addition to those of its parent."""
        if self.gpu is not None:
            return {"CUDA_VISIBLE_DEVICES": self.gpu}
        if self.threads is None or os.environ.get("OMP_NUM_THREADS"):
            return {}
        return {"OMP_NUM_THREADS": str(self.threads)}


def devices(number: int | None, on_cpu: int = 1, most: int | None = None) -> list[CellDevice]:
    """Return a device per process: the GPUs in turn, else equal shares of the CPU.

    Args:
        number: number of processes; None: one per GPU, or `on_cpu` without a GPU.
        on_cpu: default number without a GPU.
        most: limit of the number.
    """
    found = gpus()
    number = (len(found) or on_cpu) if number is None else number
    number = number if most is None else min(number, most)
    if found:
        return [CellDevice(found[index % len(found)]) for index in range(number)]
    return [CellDevice(None, max((os.cpu_count() or 1) // number, 1) if number > 1 else None)] * number


def gpus() -> list[str]:
    """Return the usable GPUs as `CUDA_VISIBLE_DEVICES` names them, without initialising CUDA."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip() not in ("", "-1")]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
