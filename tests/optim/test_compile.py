"""torch.compile sees the step: one graph, no break, no recompilation by a scheduler; operators pass opcheck."""

import copy

import pytest
import torch
from _optimizers import EVERY_OPTION
from _problems import hyper_of
from _training import assert_same, everything
from torch._dynamo.testing import CompileCounterWithBackend
from torch.library import opcheck

from gaudi3_rt import _core
from gaudi3_rt.optim import FusedAdamW, FusedEMA, FusedLAMB, FusedLARS, functional


@pytest.fixture(autouse=True)
def fresh_compiler(monkeypatch, tmp_path):
    """No compiled code of another test, and none left for the next run."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    from torch._inductor import config  # noqa: PLC0415 (makes a folder where the variable says)

    torch._dynamo.reset()
    quick = {
        "cpp_cache_precompile_headers": False,  # they would go to another place
        "compile_threads": 1,  # no processes that import torch to compile a kernel or two
        "cpp.vec_isa_ok": False,  # loops of inductor's own need no vectors, and no tries of which ones compile here
    }
    with config.patch(quick):
        yield
    torch._dynamo.reset()


def network():
    """A small network with equal weights at each call."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(9, 13), torch.nn.Tanh(), torch.nn.Linear(13, 3))


def backward(model, seed):
    """New gradient tensors, as after zero_grad(set_to_none=True)."""
    model.zero_grad()
    model(torch.randn(4, 9, generator=torch.Generator().manual_seed(seed))).square().mean().backward()


CLIPPING = {"max_grad_norm": 0.1}
OPTIONS = [
    ("AdamW, defaults", {}),
    ("AdamW, defaults", CLIPPING),
    ("AdamW, amsgrad", CLIPPING),
    ("AdamW, maximize", {}),
    ("AdamW, tensor lr", {"lr": torch.tensor(1e-2)}),
    ("Adam, weight decay", CLIPPING),
    ("Adam, amsgrad", {}),
    ("SGD, weight decay", CLIPPING),
    ("SGD, dampening", {}),
    ("SGD, nesterov", CLIPPING),
    ("Lion, weight decay", CLIPPING),
    ("Adagrad, lr_decay", {}),
]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_fifty_scheduler_steps_compile_once(backend, name, options):
    """No graph break (fullgraph), one compilation, and the bits of the eager step."""
    models = [network(), network()]
    optimizers = [EVERY_OPTION[name].make(m.parameters(), **{"lr": 1e-2, **copy.deepcopy(options)}) for m in models]
    schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(o, 50) for o in optimizers]
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(optimizers[0].step, backend=counter, fullgraph=True)
    for step in range(50):
        for model, take, scheduler in zip(models, (compiled, optimizers[1].step), schedulers, strict=True):
            backward(model, step)
            take()
            scheduler.step()
    assert counter.frame_count == 1
    assert all(torch.equal(p, q) for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True))
    assert optimizers[0].last_grad_norm == optimizers[1].last_grad_norm
    assert float(optimizers[0].state[models[0][0].weight]["step"]) == 50


@pytest.mark.parametrize(
    ("cls", "dtype", "options"),
    [
        (FusedAdamW, torch.bfloat16, {"rounding": "stochastic", "moments_dtype": torch.int8, "ema_decay": 0.9}),
        (FusedAdamW, torch.bfloat16, {"master": "split", "moments_dtype": torch.float8_e4m3fn}),
        (FusedLAMB, torch.float32, {"moments_dtype": (torch.bfloat16, torch.int8)}),
        (FusedLARS, torch.bfloat16, {"master": "float32", "norm": "overlapped"}),
    ],
    ids=["stochastic int8", "split fp8", "LAMB", "LARS"],
)
def test_storage_is_that_of_the_eager_step(cls, dtype, options):
    """Codes, scales and random bits too: equal bytes of everything, and one compilation over scheduler steps."""
    torch.manual_seed(0)
    start = [torch.randn(80, 256), torch.randn(7)]
    both = [[torch.nn.Parameter(x.to(dtype, copy=True)) for x in start] for _ in range(2)]
    optimizers = [cls(params, lr=1e-2, **{"max_grad_norm": 0.5, **options}) for params in both]
    schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(o, 50) for o in optimizers]
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(optimizers[0].step, backend=counter, fullgraph=True)
    for step in range(6):
        for params, take, scheduler in zip(both, (compiled, optimizers[1].step), schedulers, strict=True):
            for p in params:
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step)).to(dtype)
            take()
            scheduler.step()
    assert counter.frame_count == 1
    assert optimizers[0].last_grad_norm == optimizers[1].last_grad_norm
    assert_same(everything(optimizers[0]), everything(optimizers[1]))


def test_inductor():
    """The default backend, with a function around the step that does more."""
    models = [network(), network()]
    optimizers = [FusedAdamW(m.parameters(), lr=1e-2, max_grad_norm=0.5) for m in models]

    @torch.compile(fullgraph=True)
    def finish(scale):
        for p in models[0].parameters():
            p.grad.mul_(scale)
        optimizers[0].step()
        return models[0][0].weight.sum()

    for step in range(3):
        for model in models:
            backward(model, step)
        result = finish(0.5)
        for p in models[1].parameters():
            p.grad.mul_(0.5)
        optimizers[1].step()
        torch.testing.assert_close(result, models[0][0].weight.sum())
    assert all(torch.equal(p, q) for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_groups_late_gradients_and_loading():
    """What changes the work is seen: a parameter that gets its first gradient, a new group, a loaded state."""
    models = [network(), network()]
    optimizers = []
    for model in models:
        params = list(model.parameters())
        groups = [{"params": params[:2]}, {"params": params[2:3], "lr": 0.1, "amsgrad": True}]
        optimizers.append(FusedAdamW(groups, lr=1e-2))
    compiled = torch.compile(optimizers[0].step, backend="eager", fullgraph=True)

    def both(seed, change=lambda _m, _o: None):
        for model, optimizer, take in zip(models, optimizers, (compiled, optimizers[1].step), strict=True):
            backward(model, seed)
            change(model, optimizer)
            take()
        assert all(torch.equal(p, q) for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True))

    def without_first_gradient(model, _):
        model[0].weight.grad = None

    def with_new_group(model, optimizer):
        optimizer.add_param_group({"params": [model[2].bias], "lr": 0.5})

    def with_loaded_state(_, optimizer):
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    both(0, without_first_gradient)
    both(1)
    both(2, with_new_group)
    both(3)
    both(4, with_loaded_state)
    both(5)


@pytest.mark.parametrize("how", ["group", "scheduler"])
def test_a_learning_rate_that_is_changed_in_the_compiled_function(how):
    """The step after it uses the new one, as it does uncompiled: dynamo would defer the change, so the graph is cut."""

    def train(compiler):
        model = network()
        optimizer = FusedAdamW(model.parameters(), lr=1e-2)
        optimizer._opt_called = True  # the scheduler below comes before the first step on purpose
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

        def step(lr):
            if how == "scheduler":
                scheduler.step()
            else:
                for group in optimizer.param_groups:
                    group["lr"] = lr
            optimizer.step()

        step = compiler(step)
        for seed in range(4):
            backward(model, seed)
            step(0.1 / (seed + 1))
        return list(model.parameters())

    compiled = train(lambda f: torch.compile(f, backend="eager"))
    assert all(torch.equal(p, q) for p, q in zip(compiled, train(lambda f: f), strict=True))


def test_state_that_is_replaced_behind_the_compiled_step_is_an_error():
    """Never a step with old state, nor with a part of the groups: the message says what to do."""
    model = network()
    params = list(model.parameters())
    optimizer = FusedAdamW([{"params": params[:2]}, {"params": params[2:]}])
    compiled = torch.compile(optimizer.step, backend="eager", fullgraph=True)
    backward(model, 0)
    compiled()
    before = [p.detach().clone() for p in params]
    optimizer.state[params[3]]["exp_avg"] = torch.zeros_like(params[3])
    with pytest.raises(RuntimeError, match=r"state or the options of group 1 were replaced .* load_state_dict"):
        compiled()
    assert torch.is_grad_enabled()
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))


def test_eager_and_compiled_steps_take_turns():
    """State that an eager step makes for a parameter without gradient in the compiled one is no contradiction."""
    model = network()
    optimizer = FusedAdamW(model.parameters())
    compiled = torch.compile(optimizer.step, backend="eager", fullgraph=True)
    for step, take in enumerate((compiled, optimizer.step, compiled, optimizer.step)):
        backward(model, step)
        if step % 2 == 0:
            model[2].bias.grad = None
        take()
    assert [float(optimizer.state[p]["step"]) for p in model.parameters()] == [4, 4, 4, 2]


def test_amp_attributes_in_a_compiled_step():
    """grad_scale and found_inf are honoured: unscaled when clean, skipped when not."""
    models = [network(), network()]
    optimizers = [FusedAdamW(m.parameters(), lr=1e-2, max_grad_norm=0.1) for m in models]
    compiled = torch.compile(optimizers[0].step, backend="aot_eager", fullgraph=True)
    for optimizer in optimizers:
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(8.0), torch.tensor(0.0)
    for seed, poison in enumerate((False, True, False)):
        for model, optimizer, take in zip(models, optimizers, (compiled, optimizers[1].step), strict=True):
            backward(model, seed)
            optimizer.found_inf.zero_()
            if poison:
                model[0].weight.grad[0, 0] = float("nan")
            take()
            assert optimizer.last_step_skipped == poison
            assert float(optimizer.state[model[0].weight]["step"]) == (1, 1, 2)[seed]
    assert all(torch.equal(p, q) for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_functional_forms_and_averages_in_a_compiled_function():
    """They end the graph, without a warning, and do what they do uncompiled."""
    results = []
    for compiler in (lambda f: f, lambda f: torch.compile(f, backend="eager")):
        params, sums, steps = [torch.ones(3)], [torch.zeros(3)], [torch.tensor(0.0)]
        ema = FusedEMA(params, 0.5)

        def finish(grad, params=params, sums=sums, steps=steps, ema=ema):
            options = {"lr": 0.1, "weight_decay": 0.0, "lr_decay": 0.0, "eps": 1e-8, "maximize": False}
            functional.adagrad(params, [grad * 2], sums, steps, **options)
            ema.update()
            return params[0].sum()

        finish = compiler(finish)
        sums_of_params = [finish(torch.arange(1.0, 4.0)) for _ in range(3)]
        results.append([*params, *sums, *steps, *ema.averages, *sums_of_params])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def operands(kernel):
    """Arguments of step_ for three tensors."""
    n_states = len(_core.describe_kernel(kernel)["state"])
    generator = torch.Generator().manual_seed(0)
    params, grads = ([torch.randn(s, generator=generator) for s in ((5, 7), (3,), ())] for _ in range(2))
    states = [torch.rand_like(p) for _ in range(n_states) for p in params]
    steps = [torch.tensor(float(i)) for i in range(3)]
    hyper = torch.tensor([*hyper_of(kernel), 1.0], dtype=torch.float64)
    keys = " ".join(_core.describe_kernel(kernel)["state"])
    return kernel, keys, params, grads, states, steps, hyper


def test_opcheck_of_the_step(kernel):
    """Schema, fake kernel, autograd registration and AOT dispatch are what torch expects of an operator."""
    opcheck(torch.ops.gaudi3_rt.step_, operands(kernel))
    factors = {"grad_factor": torch.tensor(0.5, dtype=torch.float64), "found_inf": torch.tensor(0.0)}
    opcheck(torch.ops.gaudi3_rt.step_, operands(kernel), factors)


def test_opcheck_of_the_others():
    """The same for the operators that read."""
    optimizer = FusedAdamW([torch.nn.Parameter(torch.ones(3))], max_grad_norm=1.0)
    optimizer._list_for_trace()
    anchor = torch.ones(2)
    opcheck(torch.ops.gaudi3_rt.sum_squares, ([torch.randn(5, 7), torch.randn(3)],))
    opcheck(torch.ops.gaudi3_rt.group_hyper, (anchor, optimizer._name, 0))
    total = torch.tensor(4.0, dtype=torch.float64)
    opcheck(torch.ops.gaudi3_rt.grad_factor, (anchor, total, None, None, optimizer._name))


def test_the_step_operator_refuses_what_does_not_fit():
    """Lists of the wrong length, unknown kernels: a sentence, and nothing written."""
    kernel, keys, params, grads, states, steps, hyper = operands("adamw")
    before = [p.clone() for p in params]
    with pytest.raises(ValueError, match=r"3 parameters with the keys .* have 6 tensors of state, got 5"):
        torch.ops.gaudi3_rt.step_(kernel, keys, params, grads, states[:-1], steps, hyper)
    with pytest.raises(ValueError, match=r"unknown kernel 'nope'; known: .*adamw"):
        torch.ops.gaudi3_rt.step_("nope", keys, params, grads, states, steps, hyper)
    with pytest.raises(ValueError, match=r"takes the hyper-parameters \(lr, beta1"):
        torch.ops.gaudi3_rt.step_(kernel, keys, params, grads, states, steps, hyper[1:])
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
