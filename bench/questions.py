"""Which of our optimizers and tools are measured against which peers, and what is hoped for: one entry a question."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from harness import Scale, Wanted, Workload

BEST = "best peer"
OUR_FLOAT32 = "ours, float32 state"
INT8 = 1 + 4 / 256  # bytes of an element in blocks of 256 that share a float32 scale


@dataclass(frozen=True)
class Entrant:
    """Where an optimizer or a function is found, and what it is called with."""

    module: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    group: Mapping[str, Any] = field(default_factory=dict)  # options that have to stand in the parameter group
    differs: str = ""  # why its result cannot be ours to within rounding; then it is not compared
    alone: bool = False  # import the module without what its packages import on their own

    def load(self) -> Callable[..., Any]:
        """Imports it."""
        if self.alone:
            parts = self.module.split(".")
            for package in (".".join(parts[:i]) for i in range(1, len(parts))):
                _bare_package(package)
        loaded: Callable[..., Any] = getattr(importlib.import_module(self.module), self.name)
        return loaded


def _bare_package(name: str) -> None:
    found = importlib.util.find_spec(name)
    if found is None or found.submodule_search_locations is None:
        msg = f"No module named {name!r}"
        raise ModuleNotFoundError(msg, name=name)
    package = types.ModuleType(name)
    package.__path__ = list(found.submodule_search_locations)
    sys.modules[name] = package


@dataclass(frozen=True)
class Pass:
    """One pass over memory: the arrays that it reads, and those that it reads and writes."""

    read: Sequence[str] = ()
    update: Sequence[str] = ()


@dataclass(frozen=True)
class Question:
    """One comparison: ours, its peers, the memory traffic that the work needs, and what is hoped for."""

    name: str
    ours: Entrant
    peers: Mapping[str, Entrant]
    traffic: Sequence[Pass]  # of an ideal implementation; empty where arithmetic is the limit
    wanted: Mapping[str, Sequence[Wanted]]  # by workload
    others: Mapping[str, Entrant] = field(default_factory=dict)  # more of ours, to compare with
    dtype: torch.dtype = torch.float32  # of parameters and gradients
    sizes: Mapping[str, float] = field(default_factory=dict)  # bytes an element of arrays that have another
    tolerance: tuple[float, float] = (1e-6, 1e-6)  # relative and absolute, of what is compared with a peer
    clips: Literal["", "norm above", "norm below"] = ""  # a function that clips gradients, not an optimizer
    shapes: Callable[[Workload], Workload | None] | None = None  # the tensors it is for, in place of all

    @property
    def entrants(self) -> dict[str, Entrant]:
        """All rivals but the memory limit, by label."""
        return {"ours": self.ours, **self.others, **self.peers}

    def size(self, array: str) -> float:
        """Bytes an element of one array."""
        return self.sizes.get(array, self.dtype.itemsize)

    @property
    def bytes_per_element(self) -> float:
        """What an ideal implementation reads and writes."""
        return sum(sum(map(self.size, one.read)) + 2 * sum(map(self.size, one.update)) for one in self.traffic)

    def workloads(self, scale: Scale) -> list[Workload]:
        """The tensors it is asked for, in the dtype of its parameters."""
        found = [scale.workloads[name] for name in ("a", "b", "c")]
        if self.shapes is not None:
            found = [some for workload in found if (some := self.shapes(workload)) is not None]
        return [replace(workload, dtype=self.dtype) for workload in found]


def _matrices(workload: Workload) -> Workload | None:
    """What Muon is for: the matrices of two blocks of b, and 2000 small ones; one huge matrix would take minutes."""
    if workload.name == "a":
        return None
    found = [shape for shape in workload.shapes[2:] if len(shape) == 2][:8]
    if not found:
        side = round(workload.shapes[0][0] ** 0.5)
        found = len(workload.shapes) * [(side, side)]
    return replace(workload, shapes=found)


def _wanted(*large: Wanted) -> dict[str, Sequence[Wanted]]:
    return {"a": large, "b": large, "c": [Wanted("speed", 8.0, BEST)]}


_ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
_LAMB = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01}
_LION = {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.01}
_SGD = {"lr": 1e-2, "momentum": 0.9, "weight_decay": 0.01}
_ADAGRAD = {"lr": 1e-2, "eps": 1e-10, "weight_decay": 0.0}
_MUON = {"lr": 0.02, "momentum": 0.95, "nesterov": True, "weight_decay": 0.0}

_OTHER_LAMB = "another formula: no bias correction, norm of the parameter at most 10"
_BNB_LAMB = "another formula: the norm of the update is limited, no trust ratio"
_CODES = "another code for the state; float32 state below 4096 elements"
_NEAREST = "rounds to nearest"
_BFLOAT16_PRODUCTS = "products in bfloat16"

_LAMB_PEERS = {
    "bitsandbytes LAMB": Entrant("bitsandbytes.optim", "LAMB", _LAMB, differs=_BNB_LAMB),
    "bitsandbytes LAMB8bit": Entrant("bitsandbytes.optim", "LAMB8bit", _LAMB, differs=_BNB_LAMB + ", 8-bit state"),
}
# The update needs the norm of the whole update: moments in a first pass, parameters in a second.
_LAMB_TRAFFIC = (
    Pass(read=["param", "grad"], update=["exp_avg", "exp_avg_sq"]),
    Pass(read=["exp_avg", "exp_avg_sq"], update=["param"]),
)
_ADAM_PASS = Pass(read=["grad"], update=["param", "exp_avg", "exp_avg_sq"])
_NORM = Pass(read=["grad"])
_SCALE = Pass(update=["grad"])
_CLIP_PEERS = {
    "torch": Entrant("torch.nn.utils", "clip_grad_norm_"),
    "torch, foreach=False": Entrant("torch.nn.utils", "clip_grad_norm_", {"foreach": False}),
}
# torch takes norms of tensors in float32, so that a trust ratio and with it a step is off in the sixth digit.
_LAMB_TOLERANCE = (1e-6, 2e-5)
# torch sums the squares of a tensor in float32; over 32 Mi elements its norm is off by 0.2 %.
_CLIP_TOLERANCE = (1e-2, 0.0)

QUESTIONS = (
    Question(
        "AdamW, float32",
        ours=Entrant("gaudi3_rt.optim", "FusedAdamW", _ADAM),
        peers={
            "torch fused": Entrant("torch.optim", "AdamW", {**_ADAM, "fused": True}),
            "torch foreach": Entrant("torch.optim", "AdamW", {**_ADAM, "foreach": True}),
            "DeepSpeed CPUAdam": Entrant("deepspeed.ops.adam", "DeepSpeedCPUAdam", {**_ADAM, "adamw_mode": True}),
            "bitsandbytes AdamW": Entrant("bitsandbytes.optim", "AdamW", _ADAM),
        },
        traffic=[_ADAM_PASS],
        wanted=_wanted(),
    ),
    Question(
        "AdamW, int8 state",
        ours=Entrant("gaudi3_rt.optim", "FusedAdamW", {**_ADAM, "moments_dtype": torch.int8}),
        others={OUR_FLOAT32: Entrant("gaudi3_rt.optim", "FusedAdamW", _ADAM, differs="float32 state")},
        peers={
            "bitsandbytes AdamW8bit": Entrant("bitsandbytes.optim", "AdamW8bit", _ADAM, differs=_CODES),
            "torchao AdamW8bit": Entrant("torchao.optim", "AdamW8bit", _ADAM, differs=_CODES),
        },
        sizes={"exp_avg": INT8, "exp_avg_sq": INT8},
        traffic=[_ADAM_PASS],
        wanted=_wanted(Wanted("speed", 20.0, BEST), Wanted("speed", 1.15, OUR_FLOAT32)),
    ),
    Question(
        "AdamW, all bfloat16, stochastic rounding",
        ours=Entrant("gaudi3_rt.optim", "FusedAdamW", {**_ADAM, "rounding": "stochastic"}),
        peers={
            "torchao _AdamW": Entrant(
                "torchao.optim", "_AdamW", {**_ADAM, "bf16_stochastic_round": True}, differs="other random numbers"
            ),
            "torch fused (nearest)": Entrant("torch.optim", "AdamW", {**_ADAM, "fused": True}, differs=_NEAREST),
            "DeepSpeed CPUAdam (nearest)": Entrant(
                "deepspeed.ops.adam",
                "DeepSpeedCPUAdam",
                {**_ADAM, "adamw_mode": True, "fp32_optimizer_states": False},
                differs=_NEAREST,
            ),
        },
        dtype=torch.bfloat16,
        traffic=[_ADAM_PASS],
        wanted=_wanted(Wanted("speed", 1.25, BEST)),
    ),
    Question(
        "LAMB",
        ours=Entrant("gaudi3_rt.optim", "FusedLAMB", {**_LAMB, "max_grad_norm": None}),
        peers={
            "timm Lamb": Entrant("timm.optim.lamb", "Lamb", {**_LAMB, "max_grad_norm": None}, alone=True),
            "pytorch_optimizer Lamb": Entrant("pytorch_optimizer", "Lamb", _LAMB, differs=_OTHER_LAMB),
            **_LAMB_PEERS,
        },
        traffic=_LAMB_TRAFFIC,
        tolerance=_LAMB_TOLERANCE,
        wanted=_wanted(Wanted("speed", 4.0, BEST)),
    ),
    Question(
        "LAMB with clipping",
        ours=Entrant("gaudi3_rt.optim", "FusedLAMB", {**_LAMB, "max_grad_norm": 1.0}),
        peers={
            "timm Lamb": Entrant("timm.optim.lamb", "Lamb", {**_LAMB, "max_grad_norm": 1.0}, alone=True),
            "pytorch_optimizer Lamb": Entrant(
                "pytorch_optimizer", "Lamb", {**_LAMB, "pre_norm": True, "max_grad_norm": 1.0}, differs=_OTHER_LAMB
            ),
        },
        traffic=[_NORM, *_LAMB_TRAFFIC],
        tolerance=_LAMB_TOLERANCE,
        wanted=_wanted(Wanted("speed", 4.0, BEST)),
    ),
    Question(
        "Lion",
        ours=Entrant("gaudi3_rt.optim", "FusedLion", _LION),
        peers={
            "DeepSpeed CPULion": Entrant("deepspeed.ops.lion", "DeepSpeedCPULion", _LION),
            "timm Lion": Entrant("timm.optim.lion", "Lion", _LION, alone=True),
            "pytorch_optimizer Lion": Entrant("pytorch_optimizer", "Lion", _LION),
            "bitsandbytes Lion": Entrant("bitsandbytes.optim", "Lion", _LION),
        },
        traffic=[Pass(read=["grad"], update=["param", "exp_avg"])],
        wanted=_wanted(Wanted("speed", 1.0, "DeepSpeed CPULion")),
    ),
    Question(
        "SGD with momentum",
        ours=Entrant("gaudi3_rt.optim", "FusedSGD", _SGD),
        peers={
            "torch fused": Entrant("torch.optim", "SGD", {**_SGD, "fused": True}),
            "torch foreach": Entrant("torch.optim", "SGD", {**_SGD, "foreach": True}),
            "bitsandbytes SGD": Entrant("bitsandbytes.optim", "SGD", _SGD),
        },
        traffic=[Pass(read=["grad"], update=["param", "momentum_buffer"])],
        wanted=_wanted(),
    ),
    Question(
        "Adagrad",
        ours=Entrant("gaudi3_rt.optim", "FusedAdagrad", _ADAGRAD),
        peers={
            "torch fused": Entrant("torch.optim", "Adagrad", {**_ADAGRAD, "fused": True}),
            "torch foreach": Entrant("torch.optim", "Adagrad", {**_ADAGRAD, "foreach": True}),
            "DeepSpeed CPUAdagrad": Entrant("deepspeed.ops.adagrad", "DeepSpeedCPUAdagrad", _ADAGRAD),
            "bitsandbytes Adagrad": Entrant("bitsandbytes.optim", "Adagrad", _ADAGRAD),
        },
        traffic=[Pass(read=["grad"], update=["param", "sum"])],
        wanted=_wanted(),
    ),
    Question(
        "Muon",
        ours=Entrant("gaudi3_rt.optim", "FusedMuon", _MUON),
        peers={
            "torch": Entrant("torch.optim", "Muon", _MUON, differs=_BFLOAT16_PRODUCTS),
            "timm Muon": Entrant("timm.optim.muon", "Muon", _MUON, alone=True, differs=_BFLOAT16_PRODUCTS),
            "DeepSpeed Muon": Entrant(
                "deepspeed.runtime.zero.muon.original_muon",
                "SingleDeviceMuon",
                {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.0},
                differs=_BFLOAT16_PRODUCTS,
            ),
            "pytorch_optimizer Muon": Entrant(
                "pytorch_optimizer", "Muon", _MUON, group={"use_muon": True}, differs=_BFLOAT16_PRODUCTS
            ),
        },
        traffic=[],
        shapes=_matrices,
        wanted=_wanted(),
    ),
    Question(
        "clip_grad_norm_ that clips",
        ours=Entrant("gaudi3_rt.grads", "clip_grad_norm_"),
        peers=_CLIP_PEERS,
        clips="norm above",
        traffic=[_NORM, _SCALE],
        tolerance=_CLIP_TOLERANCE,
        wanted=_wanted(Wanted("speed", 1.25, BEST)),
    ),
    Question(
        "clip_grad_norm_ that need not",
        ours=Entrant("gaudi3_rt.grads", "clip_grad_norm_"),
        peers=_CLIP_PEERS,
        clips="norm below",
        traffic=[_NORM],
        wanted=_wanted(Wanted("speed", 2.5, BEST)),
    ),
    Question(
        "clip_grad_norm_ that clips, bfloat16",
        ours=Entrant("gaudi3_rt.grads", "clip_grad_norm_"),
        peers=_CLIP_PEERS,
        clips="norm above",
        dtype=torch.bfloat16,
        traffic=[_NORM, _SCALE],
        tolerance=_CLIP_TOLERANCE,
        wanted=_wanted(Wanted("speed", 2.5, BEST)),
    ),
)
