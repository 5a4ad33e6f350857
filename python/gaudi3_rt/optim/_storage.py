"""How an optimizer stores parameters and moments: what tensors it keeps for that, and in which dtype."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gaudi3_rt import _config, _core
from gaudi3_rt.optim._sharding import is_dtensor, shard_elements, sharded_zeros

MIN_BLOCK_NUMEL = 4096
"""Moments of smaller parameters stay in float32 when block formats are asked for: they save nothing there."""

_MOMENTS: dict[torch.dtype, tuple[str, str] | None] = {
    torch.float32: None,
    torch.bfloat16: None,
    torch.int8: ("int8_block", "int8_block_positive"),
    torch.float8_e4m3fn: ("e4m3_block", "e4m3_block_positive"),
    torch.float8_e5m2: ("e5m2_block", "e5m2_block_positive"),
}
"""Dtypes of moments; for formats of blocks, the codecs of what may be negative and of what may not."""

_BESIDE = {"split": "param_low", "float32": "param_master"}

MomentsDtype = torch.dtype | tuple[torch.dtype, torch.dtype]


@dataclass(frozen=True)
class Storage:
    """The storage options of an optimizer; see ``gaudi3_rt.optim.Options``."""

    rounding: Literal["nearest", "stochastic"] = "nearest"
    seed: int = 0
    master: Literal["float32", "split"] | None = None
    moments_dtype: MomentsDtype | None = None
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        """Refuses what no parameter could be stored with."""
        if self.rounding not in {"nearest", "stochastic"}:
            msg = f"rounding={self.rounding!r}: must be 'nearest' or 'stochastic'"
            raise ValueError(msg)
        if self.master not in {None, *_BESIDE}:
            msg = f"master={self.master!r}: must be None, 'float32' or 'split'"
            raise ValueError(msg)
        if self.master is not None and self.rounding == "stochastic":
            msg = f"master={self.master!r} keeps the exact parameter, so rounding='stochastic' has no use; choose one"
            raise ValueError(msg)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**64:
            msg = f"seed={self.seed!r}: must be an integer in [0, 2**64)"
            raise ValueError(msg)
        pair = self.moments_dtype if isinstance(self.moments_dtype, tuple) else (self.moments_dtype,) * 2
        known_pair = len(pair) == 2 and all(isinstance(dtype, torch.dtype) and dtype in _MOMENTS for dtype in pair)  # noqa: PLR2004 (first and second moment)
        if self.moments_dtype is not None and not known_pair:
            known = ", ".join(str(dtype) for dtype in _MOMENTS)
            msg = f"moments_dtype={self.moments_dtype!r}: must be None, one of ({known}), or a pair of them"
            raise ValueError(msg)
        if self.ema_decay is not None and not 0 <= self.ema_decay <= 1:
            msg = f"ema_decay={self.ema_decay!r}: must be in [0, 1], or None for no average"
            raise ValueError(msg)

    # What the kernels are told

    def stochastic(self, kernel: str) -> list[str]:
        """The operands that are rounded stochastically when stored in bfloat16."""
        described = _core.describe_kernel(kernel)
        names = [
            state
            for state, positive in zip(described["state"], described["positive"], strict=True)
            if self.rounding == "stochastic" or self.moment(positive=positive) is torch.bfloat16
        ]
        return ["param", *names] if self.rounding == "stochastic" else names

    @property
    def draws(self) -> bool:
        """Whether anything is rounded stochastically."""
        plain = {None, torch.float32}
        return self.rounding == "stochastic" or not {self.moment(positive=p) for p in (False, True)} <= plain

    @property
    def beside_param(self) -> str | None:
        """The key of what is kept besides a bfloat16 parameter."""
        return None if self.master is None else _BESIDE[self.master]

    @property
    def average_weight(self) -> float | None:
        """The weight of the new parameter in its average."""
        return None if self.ema_decay is None else 1 - self.ema_decay

    def moment(self, *, positive: bool) -> torch.dtype | None:
        """The dtype of moments that cannot be negative, or of the others; ``None``: the parameter's."""
        if isinstance(self.moments_dtype, tuple):
            return self.moments_dtype[int(positive)]
        return torch.float32 if self.moments_dtype is None and self.master is not None else self.moments_dtype

    # State

    def check_param(self, param: Tensor, where: str) -> None:
        """Refuses a parameter that cannot be stored as asked.

        Raises:
            TypeError: what was asked for, and for which dtypes it is.
        """
        if param.dtype in {torch.bfloat16, torch.float32}:
            return
        asked = [("rounding", "stochastic")] if self.rounding == "stochastic" else []
        asked += [("master", self.master)] if self.master else []
        for name, value in asked:
            msg = f"{where} is {param.dtype}; {name}={value!r} is for bfloat16 parameters (float32 ones need none)"
            raise TypeError(msg)

    def missing(self, own: Mapping[str, Any], kernel: str, param: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The tensors that the state of a parameter lacks, new: keys and values."""
        if "step" not in own:
            yield "step", torch.zeros((), dtype=torch.float32)
        described = _core.describe_kernel(kernel)
        for name, positive in zip(described["state"], described["positive"], strict=True):
            if name not in own and not {f"{name}_codes", f"{name}_scales"} <= own.keys():
                yield from self._new_moment(name, param, positive=positive)
        beside = self.beside_param
        if beside is not None and param.dtype is torch.bfloat16 and beside not in own:
            dtype = torch.int16 if beside == "param_low" else torch.float32
            yield beside, _zeros_like(param, dtype) if beside == "param_low" else param.detach().to(dtype)
        if self.ema_decay is not None and "ema" not in own:
            yield "ema", param.detach().to(torch.promote_types(param.dtype, torch.float32), copy=True)

    def _new_moment(self, name: str, param: Tensor, *, positive: bool) -> Iterator[tuple[str, Tensor]]:
        codec = self._codec(param, positive=positive)
        if codec is None:
            yield name, _zeros_like(param, self._plain(param, positive=positive))
            return
        dtype = self.moment(positive=positive)
        yield f"{name}_codes", _zeros_like(param, torch.uint8 if dtype is torch.int8 and positive else dtype)
        yield f"{name}_scales", sharded_zeros(param, _scales_shape(param.shape, codec), _core.BLOCK)

    def _codec(self, param: Tensor, *, positive: bool) -> str | None:
        """The codec of a moment in blocks; ``None`` for one that is stored plainly."""
        pair = _MOMENTS[dtype] if (dtype := self.moment(positive=positive)) is not None else None
        return pair[int(positive)] if pair is not None and param.numel() >= MIN_BLOCK_NUMEL else None

    def _plain(self, param: Tensor, *, positive: bool) -> torch.dtype:
        dtype = self.moment(positive=positive)
        if dtype is None:
            return param.dtype
        return dtype if _MOMENTS[dtype] is None else torch.float32

    # Conversion

    def adopt(self, own: dict[str, Any], kernel: str, param: Tensor, number: int) -> None:
        """Brings a loaded state into this storage.

        Without ``moments_dtype``, plain moments keep the dtype that they were saved in, and blocks become float32.
        """
        described = _core.describe_kernel(kernel)
        for j, (name, positive) in enumerate(zip(described["state"], described["positive"], strict=True)):
            codec = self._codec(param, positive=positive)
            has_codes = f"{name}_codes" in own
            if not has_codes and name not in own:
                continue
            if has_codes and (codec is None or codec != codec_of(own[f"{name}_codes"], positive=positive)):
                own[name] = decode(own.pop(f"{name}_codes"), own.pop(f"{name}_scales"), positive=positive)
                has_codes = False
            if codec is None:
                if self.moment(positive=positive) is not None:
                    own[name] = own[name].to(self._plain(param, positive=positive))
            elif not has_codes:
                values = own.pop(name)
                own.update(self._new_moment(name, param, positive=positive))
                codes, scales = own[f"{name}_codes"], own[f"{name}_scales"]
                source = (self.seed, float(own.get("step", 0)), number, 2 + j)
                _encode(codec, codes, scales, values, source, shard_elements(param))
        for name in {*_BESIDE.values()} - {self.beside_param}:
            own.pop(name, None)
        if self.ema_decay is None:
            own.pop("ema", None)


def codec_of(codes: Tensor, *, positive: bool) -> str:
    """The codec that has made these codes.

    Raises:
        ValueError: no codec makes codes of this dtype.
    """
    dtype = torch.int8 if codes.dtype is torch.uint8 and positive else codes.dtype
    pair = _MOMENTS.get(dtype)
    if pair is None or (codes.dtype is torch.int8 and positive):
        msg = f"no block format has codes of dtype {codes.dtype}"
        raise ValueError(msg)
    return pair[int(positive)]


def decode(codes: Tensor, scales: Tensor, *, positive: bool) -> Tensor:
    """A moment that is stored in blocks, as float32.

    Args:
        codes: of any shape.
        scales: the scales of its blocks.
        positive: whether it is a second moment, which cannot be negative.
    """
    local, beside = (local_tensor(tensor) for tensor in (codes, scales))
    values = torch.empty_like(local, dtype=torch.float32)
    codec = codec_of(codes, positive=positive)
    _core.decode(_config.isa(), torch.Tensor, codec, _flat(local), beside.contiguous(), _flat(values))
    return _like(codes, values)


def scales_shape(shape: torch.Size, codes: Tensor, *, positive: bool) -> tuple[int, ...]:
    """The shape that the scales of a moment have."""
    return _scales_shape(shape, codec_of(codes, positive=positive))


def _scales_shape(shape: torch.Size, codec: str) -> tuple[int, ...]:
    """Scales lie along the last dimension where blocks fill it, so that they are sharded as their parameter is."""
    floats = _core.describe_codec(codec)["second_bytes"] // 4
    if len(shape) > 0 and shape[-1] % _core.BLOCK == 0:
        return (*shape[:-1], shape[-1] // _core.BLOCK, floats)
    return (-(-math.prod(shape) // _core.BLOCK), floats)


def _encode(
    codec: str,
    codes: Tensor,
    scales: Tensor,
    values: Tensor,
    source: tuple[int, float, int, int],
    elements: tuple[int, int, int],
) -> None:
    local, beside, wide = local_tensor(codes), local_tensor(scales), local_tensor(values)
    if local.is_meta:
        return  # there are no values, only shapes
    # In the order of the codes' memory, whatever that of the values.
    ordered = torch.empty_like(local, dtype=torch.float32).copy_(wide)
    _core.encode(_config.isa(), torch.Tensor, codec, _flat(local), beside, _flat(ordered), *source, elements=elements)


def _zeros_like(param: Tensor, dtype: torch.dtype | None) -> Tensor:
    return torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)


def _flat(tensor: Tensor) -> Tensor:
    """The memory of a dense tensor in its own order."""
    return tensor.as_strided((tensor.numel(),), (1,))


def local_tensor(tensor: Any) -> Tensor:
    """The memory of a DTensor on this rank, or the tensor itself."""
    found: Tensor = tensor.to_local() if is_dtensor(tensor) else tensor
    return found.detach()


def _like(sample: Any, local: Tensor) -> Tensor:
    if not is_dtensor(sample):
        return local
    from torch.distributed.tensor import DTensor  # noqa: PLC0415 (only for those who use DTensor)

    made: Tensor = DTensor.from_local(
        local, sample.device_mesh, sample.placements, run_check=False, shape=sample.shape, stride=sample.stride()
    )
    return made
