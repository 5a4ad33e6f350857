"""The legacy classes have the vendor's arguments and formulas: these are written out here in float64."""

import ast
import copy
import inspect
import math
import pickle

import pytest
import torch
from _problems import ROOT

from gaudi3_rt import optim
from gaudi3_rt.compat import hpex

UNIT = 2.0**-24
SHAPES = [(9, 5), (33,), ()]


def parameters(seed=0, dtype=torch.float32, shapes=SHAPES):
    """Equal parameters at each call."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def exact(params):
    """The same in float64, as plain tensors."""
    return [p.detach().double() for p in params]


def set_grads(seed, *lists, scale=1.0):
    """The same random gradients for each list of parameters."""
    for params in lists:
        generator = torch.Generator().manual_seed(seed)
        for p in params:
            p.grad = (torch.randn(p.shape, generator=generator) * scale).to(p.dtype)


def train(params, optimizer, steps, first=0, scale=1.0):
    """Steps with random gradients that depend only on the step's number."""
    for step in range(first, first + steps):
        set_grads(step, params, scale=scale)
        optimizer.step()


def distance(ours, theirs):
    """Largest absolute difference over two lists of tensors."""
    return max(
        float((a.detach().double() - b.detach().double()).abs().max()) for a, b in zip(ours, theirs, strict=True)
    )


# Signatures

SIGNATURES = {
    "FusedAdamW": "params, lr=0.001, betas=(0.9, 0.999), eps=1e-06, weight_decay=0.0, bias_correction=True, "
    "moments_dtype=None",
    "FusedSGD": "params, lr, momentum=0, weight_decay=0, dampening=0, nesterov=False",
    "FusedAdagrad": "params, lr=0.01, lr_decay=0, weight_decay=0, initial_accumulator_value=0, eps=1e-10",
    "FusedResourceApplyMomentum": "params, lr, momentum=0, weight_decay=0, nesterov=False",
    "FusedLars": "optimizer, skip_mask, eeta=0.001, eps=1e-08",
    "FusedLamb": "params, lr=0.001, bias_correction=True, betas=(0.9, 0.999), eps=1e-06, weight_decay=0.01, "
    "adam_w_mode=True, grad_averaging=True, set_grad_none=True, max_grad_norm=1.0, use_lamb=False, fused=False, "
    "dtype=None",
    "FusedEMA": "model, decay=0.9999, updates=0",
    "FusedClipNorm": "parameters, max_norm",
}


def test_all_names_are_listed_with_their_signatures():
    """A name cannot be added without its arguments being compared."""
    assert set(SIGNATURES) == set(hpex.__all__)


@pytest.mark.parametrize("name", SIGNATURES)
def test_arguments_and_defaults_are_the_vendors(name):
    """Names, order and defaults, so that a call can stay as it is; and the docstring says that it is legacy."""
    cls = getattr(hpex, name)
    taken = inspect.signature(cls).parameters.values()
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in taken]
    assert ", ".join(map(str, plain)) == SIGNATURES[name]
    assert cls.__doc__.startswith("Legacy: the ")


def test_the_vendors_package_is_never_imported():
    """No import of it, at the top of a module or inside a function."""
    for path in (ROOT / "python").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in getattr(node, "names", [])] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("habana") for name in names), path


# AdamW


class VendorsAdamW:
    """The vendor's formula in float64, one parameter list, one count."""

    def __init__(self, values, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, bias_correction=True):
        self.values, self.lr, self.betas, self.eps = values, lr, betas, eps
        self.decay, self.corrects, self.t = weight_decay, bias_correction, 0
        self.moments = [[torch.zeros_like(v) for v in values] for _ in range(2)]

    def step(self, grads):
        """One step; a gradient that is None leaves its parameter alone."""
        self.t += 1
        beta1, beta2 = self.betas
        alpha = self.lr * (math.sqrt(1 - beta2**self.t) / (1 - beta1**self.t) if self.corrects else 1)
        for w, g, m, v in zip(self.values, grads, *self.moments, strict=True):
            if g is None:
                continue
            m.mul_(beta1).add_((1 - beta1) * g.double())
            v.mul_(beta2).add_((1 - beta2) * g.double() ** 2)
            w.mul_(1 - self.lr * self.decay)
            w.sub_(alpha * m / (v.sqrt() + self.eps))


ADAMW = {
    "defaults": (1.0, {}),
    "defaults, gradients near eps": (1e-5, {}),
    "decay": (1.0, {"weight_decay": 0.1}),
    "no correction": (1.0, {"bias_correction": False, "weight_decay": 0.1}),
    "no correction, gradients near eps": (1e-5, {"bias_correction": False}),
    "large eps": (1.0, {"eps": 1e-1}),
    "betas": (1e-5, {"betas": (0.5, 0.95)}),
    "betas of zero": (1.0, {"betas": (0.0, 0.0), "eps": 1e-3}),
    "no learning": (1.0, {"lr": 0.0, "weight_decay": 0.1}),
}  # scale of the gradients, options


@pytest.mark.parametrize(("scale", "options"), ADAMW.values(), ids=ADAMW)
def test_adamw_is_the_vendors_formula_over_hundreds_of_steps(scale, options):
    """Parameters stay within the rounding of 400 steps of the formula in float64.

    One rounding a step, of a parameter that moves by less than 0.5: their sum grows with the root of their number.
    """
    options = {"lr": 3e-3, **options}
    ours = parameters()
    start, reference = exact(ours), VendorsAdamW(exact(ours), **options)
    optimizer = hpex.FusedAdamW(ours, **options)
    for step in range(400):
        set_grads(step, ours, scale=scale)
        optimizer.step()
        reference.step([p.grad for p in ours])
        if step == 200:
            optimizer.param_groups[0]["lr"] = reference.lr = options["lr"] / 3
    largest = max(float(v.abs().max()) for v in start) + 0.5
    rounding = 3 * 400**0.5 * UNIT * largest
    assert distance(ours, reference.values) < rounding
    assert optimizer.param_groups[0]["step"] == 400
    if options["lr"]:
        assert distance(ours, start) > 100 * rounding
    else:
        assert distance(ours, start) == 0


def test_adamw_differs_from_torch_as_its_docstring_says():
    """With gradients near eps, ten steps are a tenth of torch's; with eps scaled step by step they would be equal."""
    ours, theirs = parameters(), parameters()
    start = exact(ours)
    a, b = hpex.FusedAdamW(ours), torch.optim.AdamW(theirs, eps=1e-6, weight_decay=0.0)
    equal = parameters()
    c = torch.optim.AdamW(equal, eps=1e-6, weight_decay=0.0)
    for step in range(10):
        set_grads(step, ours, theirs, equal, scale=1e-6)
        a.step()
        b.step()
        c.param_groups[0]["eps"] = 1e-6 / math.sqrt(1 - 0.999 ** (step + 1))
        c.step()
    assert distance(ours, start) < 0.2 * distance(theirs, start)
    assert distance(ours, equal) < 40 * UNIT


def test_adamw_counts_steps_by_group():
    """A late parameter has the bias correction of its group's count; a group without gradients does not count."""
    ours = parameters()
    optimizer = hpex.FusedAdamW([{"params": ours[:2]}, {"params": ours[2:]}], lr=1e-2)
    reference = VendorsAdamW(exact(ours[:2]), lr=1e-2)
    for step in range(30):
        set_grads(step, ours)
        if step < 20:
            ours[1].grad = None
        ours[2].grad = None
        optimizer.step()
        reference.step([p.grad for p in ours[:2]])
    assert distance(ours[:2], reference.values) < 100 * UNIT
    assert [group.get("step") for group in optimizer.param_groups] == [30, None]


def test_adamw_state_has_the_vendors_schema_and_goes_on_after_loading():
    """The state's count stays 0, the group's goes on; old checkpoints say correct_bias; torch's are refused."""
    params = parameters()
    optimizer = hpex.FusedAdamW(params, lr=1e-2, weight_decay=0.1)
    train(params, optimizer, 10)
    saved = copy.deepcopy(optimizer.state_dict())
    assert list(saved["state"][0]) == ["step", "exp_avg", "exp_avg_sq"]
    assert [entry["step"] for entry in saved["state"].values()] == [0, 0, 0]
    assert saved["param_groups"][0]["step"] == 10
    saved["param_groups"][0]["correct_bias"] = saved["param_groups"][0].pop("bias_correction")
    kept = copy.deepcopy(saved)
    copied = copy.deepcopy(params)
    resumed = hpex.FusedAdamW(copied, bias_correction=False)
    resumed.load_state_dict(saved)
    assert saved["param_groups"] == kept["param_groups"]
    pickled = pickle.loads(pickle.dumps(optimizer))  # noqa: S301 (our own bytes)
    train(params, optimizer, 10, first=10)
    for other in (resumed, pickled):
        own = other.param_groups[0]["params"]
        train(own, other, 10, first=10)
        assert all(torch.equal(p, q) for p, q in zip(params, own, strict=True))
    with pytest.raises(ValueError, match=r"no \['bias_correction'\]; was it saved by another class"):
        resumed.load_state_dict(torch.optim.AdamW(parameters()).state_dict())


def test_adamw_counts_no_step_that_was_skipped_or_refused():
    """Under AMP, and where a gradient does not fit: neither count nor parameter moves."""
    params = parameters()
    optimizer = hpex.FusedAdamW(params, lr=1e-2)
    train(params, optimizer, 2)
    before = exact(params)
    optimizer.found_inf = torch.tensor(1.0)
    train(params, optimizer, 1)
    del optimizer.found_inf
    optimizer.state[params[1]]["exp_avg"] = torch.zeros(2)
    with pytest.raises(ValueError, match="exp_avg of parameter 1 of group 0 has shape"):
        train(params, optimizer, 1)
    assert distance(params, before) == 0
    assert optimizer.param_groups[0]["step"] == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adamw_moments_have_the_dtypes_asked_for(dtype):
    """One for both, one each, or the parameter's; also in a copy that has made no state yet."""
    for asked, want in (
        (None, (dtype, dtype)),
        (torch.float16, (torch.float16, torch.float16)),
        ((torch.bfloat16, torch.float32), (torch.bfloat16, torch.float32)),
    ):
        made = hpex.FusedAdamW(parameters(dtype=dtype), moments_dtype=asked)
        for optimizer in (made, copy.deepcopy(made)):
            params = optimizer.param_groups[0]["params"]
            train(params, optimizer, 2)
            for p in params:
                assert (optimizer.state[p]["exp_avg"].dtype, optimizer.state[p]["exp_avg_sq"].dtype) == want


def test_adamw_of_bfloat16_keeps_what_the_vendors_arithmetic_loses():
    """A spike in the second moment decays with float32 moments, as in the formula; in bfloat16 0.999 would be 1."""
    (p,) = params = parameters(dtype=torch.bfloat16, shapes=[(64,)])
    optimizer = hpex.FusedAdamW(params, moments_dtype=torch.float32)
    reference = VendorsAdamW(exact(params))
    for step in range(500):
        set_grads(step, params, scale=10.0 if step < 20 else 0.01)
        optimizer.step()
        reference.step([p.grad])
    moment = optimizer.state[p]["exp_avg_sq"]
    torch.testing.assert_close(moment.double(), reference.moments[1][0], rtol=1e-4, atol=0)


def test_adamw_in_a_compiled_function_and_under_a_scheduler():
    """The step runs outside of the graph, and counts there; a scheduler does not take it for forgotten."""

    def run(compiler):
        params = parameters()
        optimizer = hpex.FusedAdamW(params, lr=1e-2)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

        @compiler
        def finish():
            for p in params:
                p.grad.mul_(0.5)
            optimizer.step()

        for step in range(5):
            set_grads(step, params)
            finish()
            scheduler.step()
        assert optimizer.param_groups[0]["step"] == 5
        return params

    torch._dynamo.reset()
    compiled = run(lambda f: torch.compile(f, backend="eager"))
    torch._dynamo.reset()
    assert all(torch.equal(p, q) for p, q in zip(compiled, run(lambda f: f), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr=-1.0: must be >= 0"),
        ({"betas": (0.9, 1.0)}, r"betas=\(0.9, 1.0\): both must be in \[0, 1\)"),
        ({"eps": -1e-8}, "eps=-1e-08: must be >= 0"),
        ({"moments_dtype": torch.int8}, r"moments_dtype=torch.int8: must be one of .*bfloat16"),
        ({"moments_dtype": (torch.float32,)}, "a pair of them, or None"),
    ],
)
def test_adamw_refuses_arguments_out_of_range(options, message):
    """One sentence each."""
    with pytest.raises(ValueError, match=message):
        hpex.FusedAdamW(parameters(), **options)


# SGD and Adagrad


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_takes_its_arguments_by_the_vendors_positions(nesterov):
    """Weight decay before dampening: the numbers are torch's with the same names."""
    ours, theirs = parameters(), parameters()
    dampening = 0 if nesterov else 0.3
    a = hpex.FusedSGD(ours, 0.1, 0.9, 0.01, dampening, nesterov)
    b = torch.optim.SGD(theirs, 0.1, momentum=0.9, weight_decay=0.01, dampening=dampening, nesterov=nesterov)
    train(ours, a, 50)
    train(theirs, b, 50)
    assert distance(ours, theirs) < 1e-5
    with pytest.raises(TypeError, match="lr"):
        hpex.FusedSGD(ours)


def test_adagrad_has_torchs_formula():
    """By position; and a scheduler has its effect, as in torch."""
    ours, theirs = parameters(), parameters()
    arguments = (0.1, 0.01, 0.02, 0.5, 1e-3)
    optimizers = [hpex.FusedAdagrad(ours, *arguments), torch.optim.Adagrad(theirs, *arguments)]
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in optimizers]
    for step in range(50):
        for params, optimizer, scheduler in zip((ours, theirs), optimizers, schedulers, strict=True):
            train(params, optimizer, 1, first=step)
            scheduler.step()
    assert distance(ours, theirs) < 1e-5


# LARS


def lars(values, grads, momenta, mask, *, lr, decay, mu, eeta, eps):
    """The vendor's wrapper and its momentum in float64, in place."""
    for w, g, b, adapts in zip(values, grads, momenta, mask, strict=True):
        scaled = lr * g.double()
        if adapts:
            of_w, of_g = float(w.norm()), float(g.double().norm())
            r = eeta * of_w / (of_g + of_w * decay + eps) if of_w > 0 and of_g > 0 else 1.0
            scaled = lr * r * (g.double() + decay * w)
        b.mul_(mu).sub_(scaled)
        w.add_(b)


def test_lars_with_its_momentum_is_the_vendors_formula():
    """Adapted and not, with a parameter of zeros and a gradient of zeros, over 100 steps of a changing lr."""
    ours = [*parameters(), torch.nn.Parameter(torch.zeros(7)), torch.nn.Parameter(torch.ones(4))]
    mask = [1, 0, 1, 1, 1]
    numbers = {"eeta": 0.02, "eps": 1e-3}
    inner = hpex.FusedResourceApplyMomentum(ours, 0.5, momentum=0.9, weight_decay=0.1)
    optimizer = hpex.FusedLars(inner, mask, **numbers)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
    values, momenta = exact(ours), [torch.zeros_like(p, dtype=torch.float64) for p in ours]
    for step in range(100):
        set_grads(step, ours)
        ours[4].grad.zero_()
        lr = 0.5 * 0.97**step
        lars(values, [p.grad for p in ours], momenta, mask, lr=lr, decay=0.1, mu=0.9, **numbers)
        optimizer.step()
        scheduler.step()
        assert inner.param_groups[0]["weight_decay"] == 0.1
    assert distance(ours, values) < 1e-5 * max(1.0, *(float(v.abs().max()) for v in values))
    assert distance([inner.state[p]["momentum_buffer"] for p in ours], momenta) < 1e-5
    assert distance(ours, [*parameters(), torch.zeros(7), torch.ones(4)]) > 0.1


def test_lars_wraps_any_optimizer():
    """Weight decay is in the gradient and not applied again; groups without the option get none; closures run."""
    params, reference = parameters(), exact(parameters())
    sgd = torch.optim.SGD(params, lr=0.5, weight_decay=0.2)
    optimizer = hpex.FusedLars(sgd, [1, 0, 1], eeta=0.1)

    def closure():
        set_grads(3, params)
        return torch.tensor(7.0)

    assert optimizer.step(closure) == 7
    set_grads(3, want := parameters())
    for w, p, adapts in zip(reference, want, [1, 0, 1], strict=True):
        g, r = p.grad.double(), 1.0
        if adapts:
            r = 0.1 * float(w.norm()) / (float(g.norm()) + 0.2 * float(w.norm()) + 1e-8)
            g = g + 0.2 * w
        w.sub_(0.5 * (0.5 * r * g))  # SGD multiplies by lr once more
    assert distance(params, reference) < 4 * UNIT
    without_decay = torch.optim.Rprop(params, lr=0.1)
    assert hpex.FusedLars(without_decay, [1, 1, 1]).step(closure) == 7


def test_lars_shares_groups_state_and_checkpoints_with_what_it_wraps():
    """A checkpoint of the wrapper is that of the wrapped optimizer; after loading both still share it."""
    params = parameters()
    optimizer = hpex.FusedLars(hpex.FusedResourceApplyMomentum(params, 0.1, momentum=0.9), [1, 1, 0])
    train(params, optimizer, 5)
    copied = copy.deepcopy(params)
    resumed = hpex.FusedLars(hpex.FusedResourceApplyMomentum(copied, 0.5), [1, 1, 0])
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(params, optimizer, 5, first=5)
    train(copied, resumed, 5, first=5)
    assert all(torch.equal(p, q) for p, q in zip(params, copied, strict=True))
    optimizer.zero_grad()
    assert all((p.grad == 0).all() for p in params)
    optimizer.zero_grad(set_to_none=True)
    assert all(p.grad is None for p in params)
    loss = optimizer.step((params[0] ** 2).sum)
    assert loss.requires_grad


def test_lars_gives_weight_decay_back_when_the_step_fails():
    """Also then; and a mask that is too short is refused at once."""
    params = parameters()
    inner = hpex.FusedResourceApplyMomentum(params, 0.1, momentum=0.9, weight_decay=0.3)
    optimizer = hpex.FusedLars(inner, [1, 1, 1])
    train(params, optimizer, 1)
    inner.state[params[0]]["momentum_buffer"] = torch.zeros(3)
    with pytest.raises(ValueError, match="momentum_buffer of parameter 0"):
        train(params, optimizer, 1)
    assert inner.param_groups[0]["weight_decay"] == 0.3
    with pytest.raises(ValueError, match="skip_mask has 2 entries; the longest group has 3 parameters"):
        hpex.FusedLars(inner, [1, 1])


def test_momentum_is_the_same_in_a_compiled_step():
    """The turned sign of the gradient reaches the graph."""
    lists = [parameters(), parameters()]
    optimizers = [hpex.FusedResourceApplyMomentum(ps, 0.1, momentum=0.5) for ps in lists]
    torch._dynamo.reset()
    compiled = torch.compile(optimizers[0].step, backend="eager", fullgraph=True)
    for step in range(3):
        set_grads(step, *lists, scale=0.1)
        compiled()
        optimizers[1].step()
    torch._dynamo.reset()
    assert all(torch.equal(p, q) for p, q in zip(*lists, strict=True))
    assert distance(lists[0], parameters()) > 0.1


# EMA and clipping


def network():
    """A module with parameters, averaged buffers and a count."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 2))


def test_ema_is_the_vendors_formula():
    """Parameters and buffers, with a decay that grows; the copy is in evaluation mode, the count is copied."""
    model = network()
    ema = hpex.FusedEMA(model, decay=0.999, updates=100)
    want = {key: value.double() for key, value in model.state_dict().items()}
    for step in range(300):
        model(torch.randn(8, 4, generator=torch.Generator().manual_seed(step)))
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(step)), alpha=0.1)
        ema.update(torch.nn.DataParallel(model) if step % 2 else model)
        d = 0.999 * (1 - math.exp(-(101 + step) / 2000))
        for key, value in model.state_dict().items():
            want[key] = d * want[key] + (1 - d) * value.double() if value.is_floating_point() else value.double()
    assert ema.updates == 400
    assert not ema.ema.training
    for key, value in ema.ema.state_dict().items():
        torch.testing.assert_close(value.double(), want[key], rtol=1e-5, atol=1e-6)
    assert distance(ema.ema.parameters(), model.parameters()) > 1e-2
    assert int(ema.ema.state_dict()["1.num_batches_tracked"]) == 300
    assert pickle.loads(pickle.dumps(ema)).decay(2000) == ema.decay(2000)  # noqa: S301 (our own bytes)


def test_ema_copies_attributes_and_refuses_another_model():
    """As asked: included, or all but the excluded; never what begins with an underscore."""
    model = network()
    ema = hpex.FusedEMA(model)
    model.names, model.stride, model.reducer, model._hidden = ["a"], 8, object(), 1
    ema.update_attr(model, include=("names",))
    assert ema.ema.names == ["a"]
    assert not hasattr(ema.ema, "stride")
    ema.update_attr(model)
    assert ema.ema.stride == 8
    assert not hasattr(ema.ema, "reducer")
    assert not hasattr(ema.ema, "_hidden")
    before = copy.deepcopy(ema.ema.state_dict())
    with pytest.raises(ValueError, match=r"differ in the entries \['0.bias', '0.weight'"):
        ema.update(torch.nn.Sequential(torch.nn.ReLU()))
    assert all(torch.equal(value, before[key]) for key, value in ema.ema.state_dict().items())
    with pytest.raises(ValueError, match="decay=-1: must be >= 0"):
        hpex.FusedEMA(model, decay=-1)


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clip_norm_is_that_of_torch(max_norm):
    """Gradients and returned norm; a tensor alone; none at all."""
    ours, theirs = parameters(), parameters()
    set_grads(0, ours, theirs)
    clip = hpex.FusedClipNorm(ours, max_norm)
    norm = clip.clip_norm(ours)
    torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(theirs, max_norm))
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=0)
    set_grads(0, ours[:1])
    whole = ours[0].grad.double().norm()
    assert float(clip.clip_norm(ours[0])) == pytest.approx(float(whole), rel=1e-6)
    assert float(hpex.FusedClipNorm(ours, 1.0).clip_norm([torch.nn.Parameter(torch.ones(2))])) == 0


def test_the_import_line_is_all_that_changes():
    """The same training script with the legacy class and with ours: both learn, by different numbers."""

    def train_with(package):
        torch.manual_seed(0)
        model = torch.nn.Linear(8, 1)
        optimizer = package.FusedAdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
        x = torch.randn(64, 8)
        losses = []
        for _ in range(100):
            optimizer.zero_grad()
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean() * 1e-6
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    legacy, ours = train_with(hpex), train_with(optim)
    assert legacy[0] == ours[0]
    assert ours[-1] < 0.8 * legacy[-1] < 0.8 * legacy[0]


# LAMB


@pytest.mark.parametrize("max_grad_norm", [1.0, 1e6])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.0}, {"weight_decay": 0.0, "use_lamb": True}], ids=str)
def test_lamb_is_the_vendors_formula(options, max_grad_norm):
    """100 steps against the formula in float64; a parameter that is zero is the documented exception."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in ((20, 30), (7,))]
    optimizer = hpex.FusedLamb(params, lr=1e-2, max_grad_norm=max_grad_norm, **options)
    decay, always = options.get("weight_decay", 0.01), options.get("use_lamb", False)
    exact = [p.detach().double() for p in params]
    moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in exact]
    for t in range(1, 101):
        for p in params:
            p.grad = torch.randn(p.shape)
        norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in params))
        for (w, (m, v)), p in zip(zip(exact, moments, strict=True), params, strict=True):
            g = p.grad.double() / max(1.0, norm / max_grad_norm)
            m.mul_(0.9).add_(0.1 * g)
            v.mul_(0.999).add_(0.001 * g * g)
            u = m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-6) + decay * w
            w.sub_(1e-2 * (w.norm() / u.norm() if decay or always else 1) * u)
        optimizer.step()
    assert distance(params, exact) < 1e-4
    assert max(float(w.abs().max()) for w in exact) > 0.1
