from collections.abc import Sequence
from typing import Protocol, TypedDict

import numpy as np
import numpy.typing as npt
import torch

BLOCK: int
CHUNK: int
COMPILER: str
TPC_COMPILER: str
TPC_BLOCK_ELEMENTS: int
TPC_MAX_SHARDS: int
TPC_MEMBER_ELEMENTS: int

class KernelDescription(TypedDict):
    hyper: tuple[str, ...]
    state: tuple[str, ...]
    positive: tuple[bool, ...]
    two_passes: bool

class CodecDescription(TypedDict):
    bytes: int
    second_bytes: int
    in_blocks: bool

class TpcOperand(TypedDict):
    name: str
    dtype: str
    access: str
    size: int

class TpcKernel(TypedDict):
    name: str
    source: str
    defines: list[str]
    cpu: str
    inputs: list[TpcOperand]
    outputs: list[TpcOperand]
    single_member: bool

class Rule(Protocol):
    @property
    def kernel(self) -> str: ...
    @property
    def hyper(self) -> Sequence[float]: ...
    @property
    def maximize(self) -> bool: ...
    @property
    def group(self) -> int: ...
    @property
    def first_number(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def stochastic(self) -> list[str]: ...
    @property
    def beside_param(self) -> str | None: ...
    @property
    def average_weight(self) -> float | None: ...

def isas() -> list[str]: ...
def kernels() -> list[str]: ...
def reductions() -> list[str]: ...
def codecs() -> list[str]: ...
def transfers() -> list[str]: ...
def wires() -> list[str]: ...
def describe_kernel(kernel: str) -> KernelDescription: ...
def describe_codec(codec: str) -> CodecDescription: ...
def kernel_constants(kernel: str, hyper: Sequence[float], t: float) -> list[float]: ...
def draw_keys(seed: int, t: float, number: int, operand: int) -> list[int]: ...
def tpc_kernels() -> list[TpcKernel]: ...
def decode(
    isa: str, tensor_type: type, codec: str, data: torch.Tensor, second: torch.Tensor | None, values: torch.Tensor
) -> None: ...
def encode(
    isa: str,
    tensor_type: type,
    codec: str,
    data: torch.Tensor,
    second: torch.Tensor | None,
    values: torch.Tensor,
    seed: int = 0,
    t: float = 0.0,
    number: int = 0,
    operand: int = 0,
    elements: tuple[int, int, int] = ...,
) -> None: ...
def reference(kernel: str, hyper: Sequence[float], t: float, operands: Sequence[npt.NDArray[np.float64]]) -> None: ...
def maps() -> list[str]: ...
def map_parameters(name: str) -> list[str]: ...
def map_reference(name: str, parameters: Sequence[float], x: npt.NDArray[np.float64]) -> None: ...
def fold(reduction: str, values: Sequence[float]) -> float: ...
def reduce_reference(reduction: str, x: npt.NDArray[np.float64]) -> float: ...
def reduce(
    isa: str,
    tensor_type: type,
    reduction: str,
    tensors: list[torch.Tensor],
    n_threads: int,
    use_exchange_table: bool = True,
) -> list[float | None]: ...
def reduce_nodes(
    isa: str,
    tensor_type: type,
    outs: list[torch.Tensor],
    nodes: list[list[torch.Tensor]],
    merges: Sequence[int],
    factor: float,
    chunk_sums: npt.NDArray[np.float64] | None,
    n_threads: int,
    use_exchange_table: bool = True,
) -> bool: ...
def reduce_nodes_reference(
    nodes: Sequence[npt.NDArray[np.float64]], merges: Sequence[int], factor: float, out: npt.NDArray[np.float64]
) -> None: ...
def transfer(
    isa: str,
    tensor_type: type,
    transfer: str,
    from_: list[torch.Tensor],
    into: list[torch.Tensor],
    factor: float,
    n_threads: int,
    use_exchange_table: bool = True,
) -> list[int]: ...
def transfer_reference(
    transfer: str, factor: float, from_: npt.NDArray[np.float64], into: npt.NDArray[np.float64]
) -> None: ...
def wire_bytes(wire: str, n: int) -> int: ...
def compress(
    isa: str,
    tensor_type: type,
    wire: str,
    x: torch.Tensor,
    residual: torch.Tensor | None,
    out: torch.Tensor,
    factor: float,
    n_threads: int,
    use_exchange_table: bool = True,
) -> bool: ...
def decompress(
    isa: str,
    tensor_type: type,
    wire: str,
    compressed: torch.Tensor,
    out: torch.Tensor,
    factor: float,
    n_threads: int,
    use_exchange_table: bool = True,
) -> bool: ...
def wire_reference(wire: str, x: npt.NDArray[np.float64]) -> None: ...

class GradList:
    def __init__(self, isa: str, tensor_type: type, use_exchange_table: bool = True) -> None: ...
    def extend(self, tensors: list[torch.Tensor], first_index: int = 0) -> list[int]: ...
    def extend_from_params(self, params: list[torch.Tensor]) -> list[int]: ...
    def __len__(self) -> int: ...
    @property
    def isa(self) -> str: ...
    @property
    def tensors(self) -> list[torch.Tensor]: ...
    @property
    def indices(self) -> list[int]: ...
    def reduce(self, reduction: str, n_threads: int) -> list[float]: ...
    def clip(self, reduction: str, max_norm: float, skip_nonfinite: bool, n_threads: int) -> tuple[float, bool]: ...
    def map(self, name: str, parameters: Sequence[float], n_threads: int) -> None: ...
    def unscale(self, inv_scale: float, n_threads: int) -> bool: ...

class TensorList:
    def __init__(self, isa: str, tensor_type: type, use_exchange_table: bool = True) -> None: ...
    def extend(
        self,
        rule: Rule,
        keys: Sequence[str],
        operands: Sequence[list[torch.Tensor]],
        steps: list[torch.Tensor],
        numbers: Sequence[int],
        elements: tuple[int, int, int] | None = None,
    ) -> list[int]: ...
    def extend_from_state(
        self, rule: Rule, params: list[torch.Tensor], state: dict[torch.Tensor, dict[str, torch.Tensor]]
    ) -> list[int]: ...
    def clear(self) -> None: ...
    def __len__(self) -> int: ...
    @property
    def params(self) -> list[torch.Tensor]: ...
    @property
    def isa(self) -> str: ...
    def reduce_grads(self, reduction: str, n_threads: int) -> list[float]: ...
    def measure(self, n_threads: int, grad_factor: float = 1.0) -> list[tuple[float, float]]: ...
    def check_overlap(self) -> None: ...
    def step(
        self,
        n_threads: int,
        grad_factor: float = 1.0,
        max_norm: float | None = None,
        skip_nonfinite: bool = False,
        sum_squares: float | None = None,
        measurement: list[tuple[float, float]] | None = None,
    ) -> tuple[float | None, bool]: ...
