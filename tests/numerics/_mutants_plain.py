"""Plain optimizers in torch operations, which mutants change in one thing."""

# ruff: noqa: ARG002 (methods that mutants override have one signature)

import torch


class PlainAdamW(torch.optim.Optimizer):
    """AdamW as torch documents it, float32 arithmetic, one rounding of what is stored."""

    _step_supports_amp_scaling = True

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=1e-2,
        amsgrad=False,
        *,
        maximize=False,
        foreach=None,
        capturable=False,
        differentiable=False,
        fused=None,
    ):
        self.check_ranges(lr, betas, eps, weight_decay)
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "amsgrad": amsgrad, "maximize": maximize})

    def check_ranges(self, lr, betas, eps, weight_decay):
        if min(float(lr), eps, weight_decay) < 0 or not all(0 <= beta < 1 for beta in betas):
            msg = "out of range"
            raise ValueError(msg)

    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.step_all()
        return loss

    @torch.no_grad()
    def step_all(self):
        if not self.skips():
            for group in self.param_groups:
                self.step_group(group)

    def skips(self):
        return getattr(self, "found_inf", None) is not None and bool(self.found_inf)

    def step_group(self, group):
        for p in group["params"]:
            if p.grad is not None:
                self.update(p, group)

    def update(self, p, group):
        own = self.state[p]
        if not own:
            self.start(p, own)
        lr, g = self.lr(group), self.gradient(p, group)
        t = self.count(own, group)
        beta1, beta2 = self.betas(group)
        w = self.decay(p, p.float(), lr, group)
        m = self.first(own, beta1, g)
        v = self.second(own, beta2, g)
        own["exp_avg"].copy_(m)
        own["exp_avg_sq"].copy_(v)
        if group["amsgrad"]:
            v = torch.maximum(own.setdefault("max_exp_avg_sq", torch.zeros_like(p)).float(), v)
            own["max_exp_avg_sq"].copy_(v)
        self.write(p, w - self.size(lr, t, beta1) * m / self.denominator(v, t, beta2, group["eps"]))

    def start(self, p, own):
        own["step"] = torch.zeros(())
        own["exp_avg"] = torch.zeros_like(p)
        own["exp_avg_sq"] = torch.zeros_like(p)

    def count(self, own, group):
        own["step"] += 1
        return own["step"]

    def lr(self, group):
        return group["lr"]

    def betas(self, group):
        return group["betas"]

    def gradient(self, p, group):
        scale = getattr(self, "grad_scale", None)
        g = p.grad.float() if scale is None else p.grad.float() / scale
        return -g if group["maximize"] else g

    def decay(self, p, w, lr, group):
        return w * (1 - lr * group["weight_decay"])

    def first(self, own, beta1, g):
        return beta1 * own["exp_avg"].float() + (1 - beta1) * g

    def second(self, own, beta2, g):
        return beta2 * own["exp_avg_sq"].float() + (1 - beta2) * g * g

    def size(self, lr, t, beta1):
        return lr / (1 - beta1**t)

    def denominator(self, v, t, beta2, eps):
        return (v / (1 - beta2**t)).sqrt() + eps

    def write(self, p, value):
        p.copy_(value)


class Each(torch.optim.Optimizer):
    """Updates one parameter after the other."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, group)
        return loss


class PlainSGD(Each):
    """SGD as torch documents it."""

    def __init__(
        self,
        params,
        lr=1e-3,
        momentum=0,
        dampening=0,
        weight_decay=0,
        nesterov=False,
        *,
        maximize=False,
        foreach=None,
        differentiable=False,
        fused=None,
    ):
        if min(float(lr), momentum, weight_decay) < 0:
            msg = "out of range"
            raise ValueError(msg)
        options = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**options, "nesterov": nesterov, "maximize": maximize})

    def update(self, p, group):
        g = -p.grad.float() if group["maximize"] else p.grad.float()
        g = g + group["weight_decay"] * p.float()
        if group["momentum"]:
            old = self.state[p].get("momentum_buffer")
            b = g if old is None else group["momentum"] * old.float() + (1 - group["dampening"]) * g
            self.state[p]["momentum_buffer"] = self.stored(b, p)
            g = g + group["momentum"] * b if self.nesterov(group) else b
        p.copy_(p.float() - group["lr"] * g)

    def stored(self, b, p):
        return b.to(p.dtype)

    def nesterov(self, group):
        return group["nesterov"]


class PlainMuon(Each):
    """Muon as torch documents it, with products in float32."""

    def __init__(
        self,
        params,
        lr=1e-3,
        weight_decay=0.1,
        momentum=0.95,
        nesterov=True,
        ns_coefficients=(3.4445, -4.7750, 2.0315),
        eps=1e-7,
        ns_steps=5,
        adjust_lr_fn=None,
    ):
        if min(float(lr), momentum, weight_decay) < 0:
            msg = "out of range"
            raise ValueError(msg)
        options = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov, "eps": eps}
        options |= {"ns_coefficients": ns_coefficients, "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn}
        super().__init__(params, options)

    def update(self, p, group):
        mu, g = group["momentum"], p.grad.float()
        buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        buffer.lerp_(p.grad, 1 - mu)
        u = (1 - mu) * g + mu * buffer.float() if group["nesterov"] else buffer.float()
        x = self.orthogonal(u, group)
        p.copy_(p.float() * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * self.ratio(p, group) * x)

    def orthogonal(self, u, group):
        a, b, c = group["ns_coefficients"]
        x = u / u.norm().clamp(min=group["eps"])
        for _ in range(group["ns_steps"]):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x

    def ratio(self, p, group):
        rows, columns = p.shape
        if group["adjust_lr_fn"] == "match_rms_adamw":
            return 0.2 * max(rows, columns) ** 0.5
        return max(1, rows / columns) ** 0.5
