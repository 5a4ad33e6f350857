"""Which optimizer with which options: one model for each class of ``gaudi3_rt.optim``, told apart by ``name``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, TypeAdapter, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler
from typing_extensions import Self

from gaudi3_rt._section import (
    AsDtypeName,
    AsInteger,
    AsList,
    Broken,
    NotNegative,
    Number,
    Ratio,
    Section,
    Seed,
    setting,
)
from gaudi3_rt.errors import InvalidConfigurationError

if TYPE_CHECKING:
    import torch
    from torch.optim.optimizer import ParamsT

MomentsDtype: TypeAlias = Annotated[Literal["float32", "bfloat16", "int8", "float8_e4m3fn", "float8_e5m2"], AsDtypeName]
Beta = Annotated[float, Field(allow_inf_nan=False, ge=0, lt=1)]
Betas = Annotated[list[Beta], Field(min_length=2, max_length=2), AsList]
NsSteps = Annotated[int, Field(ge=0, le=99), AsInteger]

LEFT_OUT = {
    "capturable": "it chooses between torch's own implementations",
    "differentiable": "the fused optimizers refuse it",
    "foreach": "it chooses between torch's own implementations",
    "fused": "it chooses between torch's own implementations",
}
"""Options of the classes' signatures that are no keys of a configuration, because they change nothing, and why."""


class OptimizerConfig(Section):
    """One of the fused optimizers and its options: ``OptimizerConfig(name="adamw", lr=3e-4)``.

    What comes back is the model of that optimizer, e.g. :class:`AdamWConfig`, with its options and defaults; the same
    from ``OptimizerConfig.model_validate``.
    """

    class_name: ClassVar[str]
    left_out: ClassVar[dict[str, str]] = LEFT_OUT
    scaling: ClassVar[Literal["linear", "sqrt"]] = "sqrt"
    """How the learning rate usually grows with the batch size."""

    name: str
    lr: NotNegative
    weight_decay: NotNegative

    max_grad_norm: NotNegative | None = setting(
        None, "The L2 norm of all gradients together is clipped to this inside the step; null for no clipping.", "1"
    )
    norm: Literal["step", "overlapped"] = setting(
        "step", "When that norm is taken: in a pass at the start of the step, or by hooks during backward."
    )

    def __new__(cls, *_: Any, **options: Any) -> Self:
        """An object of the model that ``name`` asks for; a name that does not exist is refused by ``__init__``."""
        name = options.get("name")
        wanted = BY_NAME.get(name, cls) if cls is OptimizerConfig and isinstance(name, str) else cls
        return super().__new__(wanted)  # type: ignore[return-value]  # a subclass of what was asked for

    @model_validator(mode="wrap")
    @classmethod
    def _by_name(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Any:
        return _adapter.validate_python(value) if cls is OptimizerConfig else handler(value)

    def _broken(self) -> Iterator[Broken]:
        if self.norm == "overlapped" and self.max_grad_norm is None:
            yield Broken(
                ("norm",), self.norm, "'overlapped' says when the norm for max_grad_norm is taken; give that as well"
            )

    def options(self) -> dict[str, Any]:
        """The keyword arguments of the optimizer's class."""
        import torch  # noqa: PLC0415 (dtypes by their names, only here)

        values = self.model_dump(exclude={"name"})
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        wanted = values.get("moments_dtype")
        if isinstance(wanted, tuple):
            values["moments_dtype"] = tuple(getattr(torch, name) for name in wanted)
        elif wanted is not None:
            values["moments_dtype"] = getattr(torch, wanted)
        return values

    def build(self, params: ParamsT, **overrides: Any) -> torch.optim.Optimizer:
        """Makes the optimizer.

        Args:
            params: parameters, named parameters or groups, as for the class.
            **overrides: keyword arguments that win over the options here, e.g. ``max_grad_norm=math.inf``, which only
                measures the norm and which no configuration file can say.

        Raises:
            InvalidConfigurationError: this version of torch does not have the optimizer.
            TypeError, ValueError: the class refuses the parameters.
        """
        from gaudi3_rt import optim  # noqa: PLC0415 (a configuration is checked without it)

        try:
            made = getattr(optim, self.class_name)
        except AttributeError as error:
            raise InvalidConfigurationError(str(error), context={"path": "optimizer.name"}) from error
        optimizer: torch.optim.Optimizer = made(params, **{**self.options(), **overrides})
        return optimizer


class _Stored(OptimizerConfig):
    """What all but Muon have: the direction, and the options of storage of ``gaudi3_rt.optim.Options``."""

    maximize: bool = setting(False, "Ascend instead of descend.")
    rounding: Literal["nearest", "stochastic"] = setting(
        "nearest", "How bfloat16 parameters are rounded; stochastic rounding loses no small update on average."
    )
    seed: Seed = setting(0, "Seed of stochastic rounding.", "1")
    master: Literal["float32", "split"] | None = setting(
        None,
        "Keep bfloat16 parameters exactly: a float32 copy (4 bytes each), the missing 16 bits (2 bytes), or null.",
    )
    moments_dtype: MomentsDtype | Annotated[list[MomentsDtype], Field(min_length=2, max_length=2), AsList] | None = (
        setting(None, "Stored type of moments, or of first and second moments; null for the parameter's.")
    )
    ema_decay: Ratio | None = setting(
        None, "What a moving average of the parameters keeps in one step; null for no average.", "1"
    )

    def _broken(self) -> Iterator[Broken]:
        yield from super()._broken()
        if self.master is not None and self.rounding == "stochastic":
            yield Broken(
                ("rounding",),
                self.rounding,
                f"master={self.master!r} keeps the exact parameter, so stochastic rounding has no use; choose one",
            )


_LR = "Learning rate."
_BETAS = "What the two moments keep in one step."
_DECOUPLED = "Decoupled weight decay: multiplied by lr."
_L2 = "L2 penalty: times the parameter, it is added to the gradient."
_EPS = "Added to the denominator of the update."
_MOMENTUM = "What the momentum keeps in one step."
_DAMPENING = "What is left out of a gradient that is added to the momentum."
_NESTEROV = "Nesterov's momentum."
_AMSGRAD = "Divide by the running maximum of the second moment."


class AdamConfig(_Stored):
    """``gaudi3_rt.optim.FusedAdam``."""

    class_name = "FusedAdam"

    name: Literal["adam"]
    lr: NotNegative = setting(1e-3, _LR, "1")
    betas: Betas = setting([0.9, 0.999], _BETAS, "1")
    eps: NotNegative = setting(1e-8, _EPS, "1")
    weight_decay: NotNegative = setting(0.0, _L2, "1")
    amsgrad: bool = setting(False, _AMSGRAD)
    decoupled_weight_decay: bool = setting(False, "Take the update of adamw instead.")


class AdamWConfig(_Stored):
    """``gaudi3_rt.optim.FusedAdamW``."""

    class_name = "FusedAdamW"

    name: Literal["adamw"]
    lr: NotNegative = setting(1e-3, _LR, "1")
    betas: Betas = setting([0.9, 0.999], _BETAS, "1")
    eps: NotNegative = setting(1e-8, _EPS, "1")
    weight_decay: NotNegative = setting(1e-2, _DECOUPLED, "1")
    amsgrad: bool = setting(False, _AMSGRAD)


class LAMBConfig(_Stored):
    """``gaudi3_rt.optim.FusedLAMB``."""

    class_name = "FusedLAMB"
    left_out = {**LEFT_OUT, "amsgrad": "LAMB has no such variant"}  # noqa: RUF012 (annotated in the base)

    name: Literal["lamb"]
    lr: NotNegative = setting(1e-3, _LR, "1")
    bias_correction: bool = setting(True, "Divide the moments by 1 - beta**t.")
    betas: Betas = setting([0.9, 0.999], _BETAS, "1")
    eps: NotNegative = setting(1e-6, _EPS, "1")
    weight_decay: NotNegative = setting(0.01, "Weight decay, inside the trust ratio.", "1")
    adam_w_mode: bool = setting(True, "Decoupled weight decay; false adds it to the gradient.")
    grad_averaging: bool = setting(True, "Weigh the gradient with 1 - beta1 in the first moment.")
    set_grad_none: bool = setting(True, "What zero_grad() does by default.")
    max_grad_norm: NotNegative | None = setting(
        1.0, "The L2 norm of all gradients together is clipped to this inside the step; null for no clipping.", "1"
    )
    use_nvlamb: bool = setting(False, "Trust ratios also without weight decay.")


class LARSConfig(_Stored):
    """``gaudi3_rt.optim.FusedLARS``."""

    class_name = "FusedLARS"
    scaling = "linear"

    name: Literal["lars"]
    lr: NotNegative = setting(1.0, _LR, "1")
    momentum: NotNegative = setting(0.0, _MOMENTUM, "1")
    dampening: Number = setting(0.0, _DAMPENING, "1")
    weight_decay: NotNegative = setting(0.0, "L2 penalty, inside the ratio.", "1")
    nesterov: bool = setting(False, _NESTEROV)
    trust_coeff: NotNegative = setting(0.001, "The size of an update relative to its parameter.", "1")
    eps: NotNegative = setting(1e-8, _EPS, "1")
    trust_clip: bool = setting(False, "Never take larger steps than SGD would.")
    always_adapt: bool = setting(False, "Scale also without weight decay.")

    def _broken(self) -> Iterator[Broken]:
        yield from super()._broken()
        yield from _nesterov(self)


class LionConfig(_Stored):
    """``gaudi3_rt.optim.FusedLion``."""

    class_name = "FusedLion"

    name: Literal["lion"]
    lr: NotNegative = setting(1e-4, "Learning rate: the size of a step.", "1")
    betas: Betas = setting([0.9, 0.99], "What is kept of the moment in the interpolation and in the moment.", "1")
    weight_decay: NotNegative = setting(0.0, _DECOUPLED, "1")


class SGDConfig(_Stored):
    """``gaudi3_rt.optim.FusedSGD``."""

    class_name = "FusedSGD"
    scaling = "linear"

    name: Literal["sgd"]
    lr: NotNegative = setting(1e-3, _LR, "1")
    momentum: NotNegative = setting(0.0, _MOMENTUM, "1")
    dampening: Number = setting(0.0, _DAMPENING, "1")
    weight_decay: NotNegative = setting(0.0, _L2, "1")
    nesterov: bool = setting(False, _NESTEROV)

    def _broken(self) -> Iterator[Broken]:
        yield from super()._broken()
        yield from _nesterov(self)


class AdagradConfig(_Stored):
    """``gaudi3_rt.optim.FusedAdagrad``."""

    class_name = "FusedAdagrad"

    name: Literal["adagrad"]
    lr: NotNegative = setting(1e-2, _LR, "1")
    lr_decay: NotNegative = setting(0.0, "The learning rate is divided by 1 + (t - 1) * lr_decay.", "1")
    weight_decay: NotNegative = setting(0.0, _L2, "1")
    # The accumulator is stored like its parameter, so the largest float16 is the most that any can hold.
    initial_accumulator_value: Annotated[float, Field(allow_inf_nan=False, ge=0, le=65504)] = setting(
        0.0, "What the sums of squares start from.", "1"
    )
    eps: NotNegative = setting(1e-10, _EPS, "1")


class MuonConfig(OptimizerConfig):
    """``gaudi3_rt.optim.FusedMuon``, for 2-D parameters only; needs PyTorch 2.9 or newer."""

    class_name = "FusedMuon"

    name: Literal["muon"]
    lr: NotNegative = setting(1e-3, _LR, "1")
    weight_decay: NotNegative = setting(0.1, _DECOUPLED, "1")
    momentum: Ratio = setting(0.95, _MOMENTUM, "1")
    nesterov: bool = setting(True, _NESTEROV)
    ns_coefficients: Annotated[list[Number], Field(min_length=3, max_length=3), AsList] = setting(
        [3.4445, -4.7750, 2.0315], "Of the polynomial a x + b x^3 + c x^5 of the Newton-Schulz iteration.", "1"
    )
    eps: NotNegative = setting(1e-7, "Least norm by which a matrix is divided before it is iterated.", "1")
    ns_steps: NsSteps = setting(5, "Newton-Schulz iterations.", "iterations")
    adjust_lr_fn: Literal["original", "match_rms_adamw"] | None = setting(
        None, "How lr is adjusted to the shape of a matrix; null is original."
    )


def _nesterov(config: SGDConfig | LARSConfig) -> Iterator[Broken]:
    if config.nesterov and (config.momentum == 0 or config.dampening != 0):
        seen = f"momentum={config.momentum!r} and dampening={config.dampening!r}"
        yield Broken(("nesterov",), True, f"needs a momentum and no dampening; here {seen}")


AnyOptimizer = Annotated[
    AdagradConfig | AdamConfig | AdamWConfig | LAMBConfig | LARSConfig | LionConfig | MuonConfig | SGDConfig,
    Field(discriminator="name"),
]
ALL = (AdagradConfig, AdamConfig, AdamWConfig, LAMBConfig, LARSConfig, LionConfig, MuonConfig, SGDConfig)
BY_NAME: dict[str, type[OptimizerConfig]] = {
    name: one
    for one in ALL
    for name in one.model_fields["name"].annotation.__args__  # type: ignore[union-attr]
}
_adapter: TypeAdapter[Any] = TypeAdapter(AnyOptimizer)
