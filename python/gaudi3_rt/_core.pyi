from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch

CHUNK: int
COMPILER: str

class KernelDescription(TypedDict):
    hyper: tuple[str, ...]
    state: tuple[str, ...]

def isas() -> list[str]: ...
def kernels() -> list[str]: ...
def reductions() -> list[str]: ...
def dtypes() -> list[str]: ...
def describe_kernel(kernel: str) -> KernelDescription: ...
def reference(kernel: str, hyper: Sequence[float], t: float, operands: Sequence[npt.NDArray[np.float64]]) -> None: ...
def reduce_reference(reduction: str, x: npt.NDArray[np.float64]) -> float: ...
def reduce(
    isa: str,
    tensor_type: type,
    reduction: str,
    tensors: list[torch.Tensor],
    n_threads: int,
    use_exchange_table: bool = True,
) -> list[float | None]: ...

class TensorList:
    def __init__(self, isa: str, tensor_type: type, use_exchange_table: bool = True) -> None: ...
    def extend(
        self,
        kernel: str,
        hyper: Sequence[float],
        maximize: bool,
        operands: Sequence[list[torch.Tensor]],
        steps: list[torch.Tensor],
        group: int = 0,
        first_index: int = 0,
    ) -> list[int]: ...
    def extend_from_state(
        self,
        kernel: str,
        hyper: Sequence[float],
        maximize: bool,
        params: list[torch.Tensor],
        state: dict[torch.Tensor, dict[str, torch.Tensor]],
        group: int = 0,
    ) -> list[int]: ...
    def clear(self) -> None: ...
    def __len__(self) -> int: ...
    @property
    def params(self) -> list[torch.Tensor]: ...
    @property
    def isa(self) -> str: ...
    def reduce_grads(self, reduction: str, n_threads: int) -> list[float]: ...
    def step(
        self,
        n_threads: int,
        grad_factor: float = 1.0,
        max_norm: float | None = None,
        skip_nonfinite: bool = False,
    ) -> tuple[float | None, bool]: ...
