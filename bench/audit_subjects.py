"""Which optimizers are audited, what each should be, what its authors say of differences, and lines that show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from questions import Entrant

ADAMW, ADAM, SGD = "torch.optim.AdamW", "torch.optim.Adam", "torch.optim.SGD"


@dataclass(frozen=True)
class Shown:
    """A few lines, without this package, in which a difference is seen; their output stands beside them."""

    title: str
    code: str


@dataclass(frozen=True)
class Audited:
    """One optimizer.

    Attributes:
        label: what it is called here.
        distribution: whose version is told.
        entrant: where it is found, and options that are bound.
        like: the specification.
        notes: what its documentation or its source says, by the check that it explains.
        shown: lines that show what differs.
    """

    label: str
    distribution: str
    entrant: Entrant
    like: str = ADAMW
    notes: Mapping[str, str] = field(default_factory=dict)
    shown: tuple[Shown, ...] = ()


_STRIDED = Shown(
    "A view with gaps; six elements should become -1",
    """\
import torch

p = torch.nn.Parameter(torch.zeros(3, 4)[:, ::2])
optimizer = torch.optim.AdamW([p], lr=1.0, fused=True)
p.grad = torch.ones(3, 2)
optimizer.step()
print(p.detach())
""",
)
_CROSSED = Shown(
    "A gradient with other strides than its parameter; each element should move against the sign of its gradient",
    """\
import torch

p = torch.nn.Parameter(torch.zeros(2, 2))
optimizer = torch.optim.AdamW([p], lr=1.0, fused=True)
p.grad = torch.tensor([[1.0, 2.0], [-1.0, -2.0]]).t()
optimizer.step()
print(p.grad, p.detach(), sep="\\n")
""",
)
_AMSGRAD = Shown(
    "amsgrad off and on, then the same of torch",
    """\
import bitsandbytes, torch

for make in (bitsandbytes.optim.AdamW, torch.optim.AdamW):
    for amsgrad in (False, True):
        p = torch.nn.Parameter(torch.zeros(1))
        optimizer = make([p], lr=1.0, betas=(0.9, 0.9), amsgrad=amsgrad)
        for g in [10.0] + 9 * [1.0]:
            p.grad = torch.tensor([g])
            optimizer.step()
        print(make.__module__, amsgrad, p.item())
""",
)
_COMPILED = Shown(
    "torch.compile of the step",
    """\
import bitsandbytes, torch

p = torch.nn.Parameter(torch.zeros(8))
optimizer = bitsandbytes.optim.AdamW([p])
p.grad = torch.ones(8)
try:
    torch.compile(optimizer.step)()
except Exception as error:
    print(type(error).__name__, *str(error).splitlines()[:2])
""",
)
_DECAY = Shown(
    "Decay alone, with a gradient of zero; torch's Adam adds it to the gradient and moves by lr",
    """\
import bitsandbytes, torch

for make in (bitsandbytes.optim.Adam, bitsandbytes.optim.AdamW, torch.optim.Adam):
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = make([p], lr=0.1, weight_decay=0.5)
    p.grad = torch.zeros(1)
    optimizer.step()
    print(make.__module__, p.item())
""",
)
_MOMENTUM = Shown(
    "Three steps with nesterov and dampening off and on",
    """\
import bitsandbytes, torch

for make in (bitsandbytes.optim.SGD, torch.optim.SGD):
    for option in ({}, {"dampening": 0.5}, {"nesterov": True}):
        p = torch.nn.Parameter(torch.zeros(1))
        optimizer = make([p], lr=1.0, momentum=0.9, **option)
        for _ in range(3):
            p.grad = torch.ones(1)
            optimizer.step()
        print(make.__module__, option, p.item())
""",
)
_TRANSPOSED = Shown(
    "A transposed parameter; all elements should become -1",
    """\
import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam

p = torch.nn.Parameter(torch.zeros(2, 3).t())
optimizer = DeepSpeedCPUAdam([p], lr=1.0)
p.grad = torch.ones(2, 3).t()
optimizer.step()
print(p.detach())
""",
)
_NARROWED = Shown(
    "The first moment of a bfloat16 parameter before and after a checkpoint",
    """\
import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam

p = torch.nn.Parameter(torch.zeros(4, dtype=torch.bfloat16))
old = DeepSpeedCPUAdam([p])
p.grad = torch.ones_like(p)
old.step()
new = DeepSpeedCPUAdam([p])
new.load_state_dict(old.state_dict())
print(old.state[p]["exp_avg"], new.state[p]["exp_avg"], sep="\\n")
""",
)


_QUANTIZED_AMSGRAD = Shown(
    "One step with amsgrad, of a tensor that is quantized",
    """\
import torch
from torchao.optim import AdamW8bit

p = torch.nn.Parameter(torch.zeros(4096))
optimizer = AdamW8bit([p], amsgrad=True)
p.grad = torch.ones(4096)
try:
    optimizer.step()
except Exception as error:
    print(type(error).__name__, str(error).splitlines()[0])
""",
)


def _gradients(name: str, options: str) -> Shown:
    code = f"""\
import torch
from pytorch_optimizer import {name}

p = torch.nn.Parameter(torch.zeros(2))
optimizer = {name}([p], {options})
for _ in range(2):
    p.grad = torch.ones(2)
    optimizer.step()
    print(p.grad)
"""
    return Shown("Gradients after the step; they were ones before", code)


_THREADS = Shown(
    "Elements that differ between one thread and three, in bfloat16; then of an addition of torch alone",
    """\
import torch
from pytorch_optimizer import LARS

ends = []
for threads in (1, 3):
    torch.set_num_threads(threads)
    random = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.randn(120001, generator=random).bfloat16())
    optimizer = LARS([p], lr=0.5, momentum=0.9, dampening=0.1, weight_decay=0.01)
    for _ in range(3):
        p.grad = torch.randn(120001, generator=random).bfloat16()
        optimizer.step()
    x, y = torch.randn(2, 120001, generator=random).bfloat16()
    ends.append((p.detach(), x.add_(y, alpha=0.9)))
print([(one != other).sum().item() for one, other in zip(*ends)])
""",
)
_LEGACY = (
    "`compat.hpex` keeps the formula of Habana's class, so that trainings go on as they were; its docstring says so."
)
_NO_MASTER = (
    "`torch.optim.Optimizer.load_state_dict` gives state the dtype of its parameter. The class is made for float32 "
    "master parameters, where this does not show."
)
_REST = "Its constructor ends in `**kwargs`, whose names are not checked."
_EIGHT_BITS = (
    "Documented: moments of 4096 elements and more are kept in 8 bits, which `eps-placement` and `beta-rounding` show "
    "too."
)

SUBJECTS = (
    Audited("torch AdamW, foreach", "torch", Entrant("torch.optim", "AdamW", {"foreach": True})),
    Audited("torch AdamW, for-loop", "torch", Entrant("torch.optim", "AdamW", {"foreach": False})),
    Audited(
        "torch AdamW, fused", "torch", Entrant("torch.optim", "AdamW", {"fused": True}), shown=(_STRIDED, _CROSSED)
    ),
    Audited("gaudi3_rt FusedAdamW", "gaudi3_rt", Entrant("gaudi3_rt.optim", "FusedAdamW")),
    Audited(
        "gaudi3_rt compat.hpex FusedAdamW",
        "gaudi3_rt",
        Entrant("gaudi3_rt.compat.hpex", "FusedAdamW"),
        notes={"eps-placement": _LEGACY},
    ),
    Audited(
        "DeepSpeed CPUAdam",
        "deepspeed",
        Entrant("deepspeed.ops.adam", "DeepSpeedCPUAdam"),
        notes={
            "amsgrad": "Documented: amsgrad is not supported, and is refused.",
            "bias-correction-after-resume": "Its source multiplies powers of betas from step to step, and takes them "
            "anew after a resume. In bfloat16 it is the loss that `state-dict-round-trip` shows.",
            "state-dict-round-trip": _NO_MASTER,
        },
        shown=(_TRANSPOSED, _NARROWED),
    ),
    Audited(
        "bitsandbytes AdamW",
        "bitsandbytes",
        Entrant("bitsandbytes.optim", "AdamW"),
        shown=(_AMSGRAD, _COMPILED),
    ),
    Audited(
        "bitsandbytes AdamW8bit",
        "bitsandbytes",
        Entrant("bitsandbytes.optim", "AdamW8bit"),
        notes={"formula": _EIGHT_BITS, "amsgrad": "Documented: amsgrad is refused."},
    ),
    Audited("bitsandbytes Adam", "bitsandbytes", Entrant("bitsandbytes.optim", "Adam"), ADAM, shown=(_DECAY, _AMSGRAD)),
    Audited(
        "bitsandbytes SGD",
        "bitsandbytes",
        Entrant("bitsandbytes.optim", "SGD"),
        SGD,
        notes={"formula": "`dampening` has no effect, which `weight-decay` and `tiny-updates` show too."},
        shown=(_MOMENTUM,),
    ),
    Audited("bitsandbytes Lion", "bitsandbytes", Entrant("bitsandbytes.optim", "Lion"), "lion"),
    Audited("torchao _AdamW", "torchao", Entrant("torchao.optim", "_AdamW")),
    Audited(
        "torchao AdamW8bit",
        "torchao",
        Entrant("torchao.optim", "AdamW8bit"),
        notes={"formula": _EIGHT_BITS},
        shown=(_QUANTIZED_AMSGRAD,),
    ),
    Audited("timm AdamWLegacy", "timm", Entrant("timm.optim.adamw", "AdamWLegacy", alone=True)),
    Audited("timm Lion", "timm", Entrant("timm.optim.lion", "Lion", alone=True), "lion"),
    Audited("timm Lamb", "timm", Entrant("timm.optim.lamb", "Lamb", alone=True), "lamb"),
    Audited("timm Lars", "timm", Entrant("timm.optim.lars", "Lars", alone=True), "lars"),
    Audited(
        "pytorch_optimizer Lion",
        "pytorch_optimizer",
        Entrant("pytorch_optimizer", "Lion"),
        "lion",
        notes={"keywords": _REST},
        shown=(_gradients("Lion", "maximize=True"),),
    ),
    Audited(
        "pytorch_optimizer Lamb",
        "pytorch_optimizer",
        Entrant("pytorch_optimizer", "Lamb"),
        "lamb",
        notes={
            "keywords": _REST,
            "formula": "Its source corrects the bias of the first moment with `adam_debias=True` only, and that of the "
            "second not at all, and takes the norm of a parameter for 10 at most; documented: `max_grad_norm` acts "
            "with `pre_norm=True` only.",
        },
        shown=(_gradients("Lamb", "maximize=True"),),
    ),
    Audited(
        "pytorch_optimizer LARS",
        "pytorch_optimizer",
        Entrant("pytorch_optimizer", "LARS", {"trust_coefficient": 2e-3}),  # its name for what is exercised
        "lars",
        notes={
            "keywords": _REST,
            "formula": "Its source dampens the gradient of the first step too, and adds no eps to the norms; scalars "
            "and vectors are updated as by SGD.",
            "deterministic-threads": "An addition of torch does the same: it rounds some elements otherwise where the "
            "share of a thread ends.",
        },
        shown=(_gradients("LARS", "momentum=0.9, dampening=0.1"), _THREADS),
    ),
)
