"""Gradients averaged over ranks while backward still runs, and the same bits on any number of them."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import Self

from gaudi3_rt import _pending
from gaudi3_rt._protocols import Clock
from gaudi3_rt.errors import OptimizerError, ParameterValidationError
from gaudi3_rt.reduce import _agreement, _state
from gaudi3_rt.reduce._algorithms import AlgorithmName, recipe
from gaudi3_rt.reduce._backward import Backward
from gaudi3_rt.reduce._layout import plan
from gaudi3_rt.reduce._membership import Membership
from gaudi3_rt.reduce._optimizers import join_before_steps
from gaudi3_rt.reduce._params import named_parameters
from gaudi3_rt.reduce._pipeline import CLOSING, ArrivalError, Pipeline
from gaudi3_rt.reduce._transport import Transport

BUCKET_BYTES = 25 * 2**20


class GradientReducer:
    """Replaces the gradients of parameters by their mean over all ranks, or over logical shards.

    Hooks collect gradients in buckets in the order in which backward makes them, and each bucket travels while backward
    goes on. Until :meth:`wait` or the step of an optimizer has joined the reduction, ``param.grad`` is the local
    gradient; then it is a view of the bucket with the mean. So call ``wait()`` before anything else reads or changes
    gradients, as ``torch.nn.utils.clip_grad_norm_`` or ``torch.amp.GradScaler`` do.

    All additions are made in float32, whatever the parameters' dtype. A gradient that a rank does not have counts as
    zero; one that no rank has stays ``None``.

    Args:
        module_or_params: a module, or an iterable of parameters; those that need no gradient are left out.
        process_group: ranks to reduce over. ``None``: all, or this process alone where torch.distributed is not
            initialised.
        algorithm: how gradients travel; see ``docs/reduce.md``. ``"tree"`` gives the same bits on any number of ranks.
        wire: ``"bfloat16"`` or ``"int8"``: contributions and results travel so, each rounded once.
        bucket_bytes: a bucket ends before it is longer.
        overlap: send buckets during backward; ``False``: when it has ended.
        deterministic: form sums along the tree over the ranks, as ``"tree"`` does.
        logical_shards: of ``"tree"``: of how many backward passes of equal weight the mean is, over all ranks; default
            one a rank. Each rank makes those in ``shards``, in this order.
        error_feedback: add what rounding for the wire loses to the gradient of the next step. ``None``: for int8.
        group_size: of ``"hierarchical"``: ranks of a machine; default ``LOCAL_WORLD_SIZE``, else all.
        clock: tells the time and waits, after a failure.

    Attributes:
        steps: how many reductions have been joined.

    Raises:
        ParameterValidationError: an argument is not allowed, or ranks disagree about parameters or arguments.
        DataValidationError: parameters do not have the same values on all ranks.
    """

    def __init__(
        self,
        module_or_params: torch.nn.Module | Iterable[Tensor],
        process_group: dist.ProcessGroup | None = None,
        algorithm: AlgorithmName = "all_reduce",
        wire: str | torch.dtype | None = None,
        bucket_bytes: int = BUCKET_BYTES,
        overlap: bool = True,
        deterministic: bool = False,
        logical_shards: int | None = None,
        *,
        error_feedback: bool | None = None,
        group_size: int | None = None,
        clock: Clock = time,
    ) -> None:
        self._names, self._params, self._frozen = named_parameters(module_or_params)
        if bucket_bytes < 1:
            msg = f"bucket_bytes={bucket_bytes!r}: has to be 1 or more"
            raise ParameterValidationError(msg)
        for name, param in zip(self._names, self._params, strict=True):
            if _pending.is_reduced(param):
                msg = f"{name!r} is reduced by another GradientReducer already; close() that one before"
                raise ParameterValidationError(msg)
        self._bucket_bytes = bucket_bytes
        world = Membership.world_of(process_group)
        self._recipe = recipe(
            algorithm,
            wire,
            world,
            deterministic=deterministic,
            error_feedback=error_feedback,
            logical_shards=logical_shards,
            group_size=group_size,
        )
        self._members = Membership(process_group, self._params[0].device, clock)
        self._shards = range(*self._recipe.shares.ranges[self._members.rank])
        self._numbers = {id(param): number for number, param in enumerate(self._params)}
        self._first_order = range(len(self._params) - 1, -1, -1)  # what backward comes to first was registered last
        self._backward = Backward(self._params, self, overlap=overlap)
        self._order: Sequence[int] | None = None  # in which backward makes gradients, once the ranks agree about it
        self.steps = 0
        self._lay_out()
        try:
            self._members.agree(self._compare)
        except BaseException:
            self._backward.close()
            raise
        self._passes = 0
        self._unjoined = self._closed = False
        self._error: Exception | None = None
        self._owned: weakref.WeakKeyDictionary[torch.optim.Optimizer, tuple[int, bool]] = weakref.WeakKeyDictionary()
        self._hooks_off = weakref.finalize(self, _take_off, self._backward, join_before_steps(self))
        self._hooks_off.atexit = False
        _pending.add(self)

    @property
    def shards(self) -> range:
        """The logical shards of this rank: one backward pass each, in this order."""
        return self._shards

    @property
    def is_pending(self) -> bool:
        """Whether a reduction was started that nothing has joined yet."""
        return self._unjoined

    # Joining

    def wait(self) -> None:
        """Waits until the mean has arrived, and makes it the gradient of the parameters; does so once a reduction.

        Raises:
            NetworkConnectionError: a rank died, hangs or gave up; the same on all others, and on every later call.
                ``param.grad`` is the local gradient.
            OptimizerError: gradients were changed between backward and now, backward was not called for all shards, or
                it has not ended.
        """
        self._check_usable()
        if self._backward.has_begun:
            msg = (
                "backward has not ended: gradients are reduced when it has. Step when it has returned; if an exception "
                "broke it off, set gradients to zero and begin the step anew, with the first shard"
            )
            raise OptimizerError(msg)
        if 0 < self._passes < len(self._shards):
            msg = (
                f"{self._passes} of this rank's {len(self._shards)} logical shards had their backward pass: call "
                "backward once for each of reducer.shards (under no_sync() it does not count)"
            )
            raise OptimizerError(msg)
        if not self._unjoined:
            return
        for name, param in self._frozen:
            if param.requires_grad:
                msg = (
                    f"{name!r} needs a gradient now, and needed none when this GradientReducer was made, which does "
                    "not reduce it; close() it and make a new one"
                )
                raise OptimizerError(msg)
        changed = self._pipeline.changed()
        if changed is not None:
            name = self._names[self._numbers[id(changed)]]
            msg = (
                f"the gradient of {name!r} was changed after backward, while it was being reduced; call wait() of the "
                "GradientReducer before you clip, scale or replace gradients"
            )
            raise OptimizerError(msg)
        with self._reporting():
            self._pipeline.finish()
            self._pipeline.close_step()
            agreed = self._agreed_order()
            residuals = None if agreed is None else self._residuals()
        self._pipeline.hand_out()
        self._unjoined, self._passes = False, 0
        self.steps += 1
        if agreed is not None:
            self._order = agreed
            self._lay_out()
        if residuals is not None:
            residuals.spread(self._pipeline.lost(), self._params)

    def join_for(self, params: Iterable[Tensor]) -> None:
        """Waits if one of these parameters is among those of the reducer."""
        if (self._unjoined or self._backward.has_begun) and any(id(param) in self._numbers for param in params):
            self.wait()

    def has(self, param: Tensor) -> bool:
        """Whether it reduces this parameter."""
        return id(param) in self._numbers

    def owns(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether an optimizer has a parameter of this reducer."""
        n_groups = len(optimizer.param_groups)
        known = self._owned.get(optimizer)
        if known is None or known[0] != n_groups:
            params = (param for group in optimizer.param_groups for param in group["params"])
            known = self._owned[optimizer] = (n_groups, any(id(param) in self._numbers for param in params))
        return known[1]

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward in this block adds to the local gradients, and nothing is reduced; the next one outside reduces all.

        With ``logical_shards``, what is added in this block belongs to the shard of the next backward outside.
        """
        before, self._backward.paused = self._backward.paused, True
        try:
            yield
        finally:
            self._backward.paused = before

    def sum_squares(self, params: Iterable[Tensor] | None = None) -> float:
        """The sum of squares of gradients: its root is the norm that ``clip_grad_norm_`` and ``max_grad_norm`` take.

        Of gradients that the reducer has handed out and nobody has changed since it is known without reading them: from
        the sum itself, or, where that is the backend's, from the second step on that asks for it. Its bits are those of
        ``gaudi3_rt.reduce.sum_squares`` on one process.

        Args:
            params: of whose gradients; ``None``: all of the reducer.
        """
        self.wait()
        asked = self._params if params is None else list(params)
        return self._pipeline.sum_squares(asked, [self._numbers.get(id(param)) for param in asked])

    # What is carried from step to step

    def state_dict(self) -> dict[str, Any]:
        """What later steps depend on besides parameters and optimizer; each rank has its own, and has to save it.

        That is the order of the buckets, how many steps there were, and, with error feedback, what the wire has lost. A
        training that loads it goes on with the bits of one that was not interrupted.

        Returns:
            Tensors, lists, numbers and strings, which ``torch.load(..., weights_only=True)`` takes; all copied.

        Raises:
            OptimizerError: backward was called and not joined; save after the step.
        """
        self._check_usable()
        if self._unjoined or self._passes or self._backward.has_begun:
            msg = "a reduction has begun and was not joined: save the state after wait() or the optimizer's step"
            raise OptimizerError(msg)
        residuals = _state.Residuals.of(self._pipeline.lost(), self._params)
        return {
            "settings": self._own_settings(),
            "steps": self.steps,
            "order": None if self._order is None else [self._names[number] for number in self._order],
            "residuals": residuals.named(self._names),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on where ``state_dict()`` was called; to be called by all ranks, after they have loaded parameters.

        A reduction that was not joined is dropped.

        Args:
            state_dict: what this rank has saved.

        Raises:
            ParameterValidationError: it was saved by another rank, for other parameters or with other arguments, and
                nothing has changed; or ranks have loaded different steps.
            DataValidationError: parameters do not have the same values on all ranks.
            NetworkConnectionError: a rank does not call this.
        """
        self._check_usable()
        _state.check(state_dict, self._own_settings(), self._names, self._params)
        with self._reporting():
            self._pipeline.finish()
        self._backward.forget()
        self._passes, self._unjoined = 0, False
        numbers = {name: number for number, name in enumerate(self._names)}
        order = state_dict["order"]
        self._order = None if order is None else [numbers[name] for name in order]
        self._backward.order = [] if order is None else None
        self.steps = int(state_dict["steps"])
        self._lay_out()
        _state.Residuals.loaded(state_dict["residuals"], self._names).spread(self._pipeline.lost(), self._params)
        try:
            self._members.agree(self._compare)
        except Exception as error:
            self._error = error
            raise

    def _residuals(self) -> _state.Residuals | None:
        """What the wire has lost, for other buckets, in which other ranks may form the means; ``None`` for nothing."""
        if not self._recipe.error_feedback:
            return None
        found = _state.Residuals.of(self._pipeline.lost(), self._params)
        self._pipeline.add_up(found.whole_means(self._params))
        return found

    def _own_settings(self) -> dict[str, Any]:
        return {**self._settings(), "rank": self._members.rank, "world_size": self._members.world}

    # Backward

    def _begin_pass(self, *, broken_off: bool) -> None:
        self._check_usable()
        if broken_off:
            self._passes = 0  # what it has added to sums of shards cannot be taken out again
        if self._passes == len(self._shards):
            if self._passes > 1:
                msg = (
                    f"all {self._passes} logical shards of this rank had their backward pass; join the reduction with "
                    "wait() or an optimizer's step before the next (checkpointing with use_reentrant=True makes "
                    "several passes of one: use use_reentrant=False)"
                )
                raise OptimizerError(msg)
            self._passes = 0  # another backward before the join: what was sent is overtaken by the new sum
        if self._passes == 0:
            self._unjoined = False
            with self._reporting():
                self._pipeline.begin()

    def _begin_again(self) -> None:
        if len(self._shards) > 1:
            msg = (
                "a gradient came twice in one backward pass, as with checkpointing with use_reentrant=True; with "
                "several logical shards a rank, use use_reentrant=False"
            )
            raise OptimizerError(msg)
        with self._reporting():
            self._pipeline.begin()

    def _send(self, bucket: int) -> None:
        with self._reporting():
            self._check_dense(bucket)
            if self._passes == len(self._shards) - 1:
                self._pipeline.launch(bucket)
            else:
                self._pipeline.keep(bucket)

    def _check_dense(self, bucket: int) -> None:
        for number in self._pipeline.layout.buckets[bucket].params:
            grad = self._params[number].grad
            if grad is not None and grad.layout is not torch.strided:
                msg = (
                    f"the gradient of {self._names[number]!r} is {grad.layout}: reduced are dense ones; "
                    "torch.nn.Embedding makes them with sparse=False"
                )
                raise ParameterValidationError(msg)

    def _end_pass(self) -> None:
        self._passes += 1
        self._unjoined = self._passes == len(self._shards)

    # Buckets

    def _lay_out(self) -> None:
        layout = plan(self._params, self._first_order if self._order is None else self._order, self._bucket_bytes)
        members = self._members
        self._pipeline = Pipeline(
            self._params, layout, members.transport, self._recipe.builder(members.transport), members.device
        )
        self._backward.lay_out(layout)

    def _settings(self) -> dict[str, Any]:
        return {
            "algorithm": self._recipe.algorithm,
            "wire": self._recipe.wire,
            "bucket_bytes": self._bucket_bytes,
            "deterministic": self._recipe.deterministic,
            "logical_shards": self._recipe.shares.n_shards,
            "error_feedback": self._recipe.error_feedback,
            "group_size": self._recipe.group_size,
        }

    def _compare(self, transport: Transport) -> None:
        settings = {**self._settings(), "steps": self.steps}
        _agreement.check_layout(transport, self._names, self._params, settings, self._pipeline.layout)
        _agreement.check_values(transport, self._names, self._params)

    def _agreed_order(self) -> list[int] | None:
        """After the first step, the order in which rank 0 has seen gradients; what it has not seen comes last."""
        observed = self._backward.order
        if observed is None:
            return None
        self._backward.order = None
        return self._pipeline.from_first_rank(list(dict.fromkeys([*observed, *self._first_order])))

    # Failure

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turns what breaks a reduction into the error that all survivors raise."""
        started = self._members.now()
        try:
            yield
        except ArrivalError as error:
            self._error = self._members.failure(self.steps, error.bucket, error.cause, self._describe, started)
            raise self._error from error.cause.__cause__  # what the backend raised
        except BaseException as error:  # an interrupt, too, leaves a bucket half reduced
            interrupted = f"this GradientReducer was interrupted by {type(error).__name__}; make a new one"
            self._error = error if isinstance(error, Exception) else OptimizerError(interrupted)
            self._members.give_up(self.steps, self._backward.last_sent, error)
            raise
        finally:
            if self._error is not None:
                with contextlib.suppress(RuntimeError):  # without memory for it: the error that was there tells more
                    self._pipeline.give_back()

    def _describe(self, bucket: int) -> str:
        if bucket == CLOSING:
            return "the numbers after all buckets"
        params = self._pipeline.layout.buckets[bucket].params
        more = f" and {len(params) - 1} more" * (len(params) > 1)
        return f"bucket {bucket} ({self._names[params[0]]!r}{more})"

    def _check_usable(self) -> None:
        if self._error is not None:
            raise self._error
        if self._closed:
            msg = "this GradientReducer is closed; make a new one"
            raise OptimizerError(msg)

    # The end

    def close(self) -> None:
        """Takes the hooks away; gradients stay as they are."""
        if self._closed:
            return
        self._closed = True
        self._hooks_off()
        _pending.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None and self._error is None:
            self._members.give_up(self.steps, CLOSING, error)
            self._error = OptimizerError("this GradientReducer was left by an error; make a new one")
        self.close()


def _take_off(backward: Backward, step_hook: Any) -> None:
    """The hooks of a reducer that is closed, or that nobody holds any more."""
    backward.close()
    step_hook.remove()
