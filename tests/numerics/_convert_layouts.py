"""States of optimizers as each library saves them, written out by hand; nothing here is made by what is tested."""

import torch

LAYOUTS = ("torch", "gaudi3_rt", "hpex", "apex", "deepspeed", "bitsandbytes", "torchao")
WRAPPED = "__bnb_optimizer_quant_state__"
TORCH_GROUP = {
    "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "amsgrad": False, "maximize": False,
    "foreach": None, "capturable": False, "differentiable": False, "fused": None, "decoupled_weight_decay": True,
}  # fmt: skip
SHAPES = ((4, 6), (7,), (), (0, 3), (70, 80))


def moments(shapes=SHAPES, dtype=torch.float32, seed=0):
    """First and second moments as a training leaves them: gradients of about 1e-3."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            (1e-3 * torch.randn(shape, generator=generator)).to(dtype),
            (1e-6 * torch.rand(shape, generator=generator) + 1e-9).to(dtype),
        )
        for shape in shapes
    ]


def torch_state(pairs, steps, groups=None, names=None, **options):
    """AdamW of torch."""
    groups = groups or [len(pairs)]
    state = {
        i: {"step": torch.tensor(float(step)), "exp_avg": first, "exp_avg_sq": second}
        for i, ((first, second), step) in enumerate(zip(pairs, steps, strict=True))
    }
    made, first = [], 0
    for size in groups:
        ids = list(range(first, first + size))
        own = {"param_names": [names[i] for i in ids]} if names else {}
        made.append({**TORCH_GROUP, **options, **own, "params": ids})
        first += size
    return {"state": state, "param_groups": made}


def saved_by(layout, pairs, step, names=None):
    """The same moments and one count for all, in one group, as a library saves them."""
    options = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
    named = {"param_names": list(names)} if names else {}
    group = {**options, **named, "params": list(range(len(pairs)))}
    corrected = {**group, "bias_correction": True}
    plain = [{"exp_avg": first, "exp_avg_sq": second} for first, second in pairs]
    if layout in {"torch", "gaudi3_rt"}:
        return torch_state(pairs, [step] * len(pairs), names=names)
    if layout == "hpex":
        groups, entries = [{**corrected, "step": step}], [{"step": 0, **entry} for entry in plain]
    elif layout == "apex":
        groups, entries = [{**corrected, "step": step}], plain
    elif layout == "deepspeed":
        groups, entries = [{**corrected, "amsgrad": False}], [{"step": step, **entry} for entry in plain]
    elif layout == "bitsandbytes":
        groups = [{**group, "alpha": 0.0, "t_alpha": None, "t_beta3": None}]
        entries = [{"step": step, WRAPPED: {"state1": first, "state2": second}} for first, second in pairs]
    elif layout == "torchao":
        groups = [{**group, "lr": torch.tensor(1e-3), "amsgrad": False}]
        entries = [{"step": torch.tensor(float(step)), **entry} for entry in plain]
    return {"state": dict(enumerate(entries)), "param_groups": groups}


def parameters():
    """Equal ones at each call."""
    generator = torch.Generator().manual_seed(1)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 6), (7,), (), (0, 3))]


def train(optimizer, params, steps, first=0):
    """Updates with gradients that depend on the number of the step alone."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        for param in params:
            param.grad = 1e-3 * torch.randn(param.shape, generator=generator)
        optimizer.step()


def assert_same(one, two):
    """Two values of state_dicts, with the bits and dtypes of their tensors."""
    assert type(one) is type(two), (one, two)
    if isinstance(one, torch.Tensor):
        assert one.dtype is two.dtype
        assert one.shape == two.shape
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_same(one[key], two[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(two)
        for mine, theirs in zip(one, two, strict=True):
            assert_same(mine, theirs)
    else:
        assert one == two
