"""The vendor's names, signatures and formulas: SGD, Adagrad, EMA, clipping, LAMB."""

import ast
import copy
import inspect
import math
import pickle

import pytest
import torch
from _problems import ROOT
from _vendors import distance, parameters, set_grads, train

from gaudi3_rt import optim
from gaudi3_rt.compat import hpex

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
