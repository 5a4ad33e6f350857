"""Other people's code drives the optimizer unpatched: schedulers, averaging, Hugging Face's Trainer."""

import pytest
import torch
from _optimizers import EVERY_KERNEL
from torch.optim import lr_scheduler, swa_utils

from gaudi3_rt.optim import FusedAdamW


def network():
    """A small network with equal weights at each call."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 5),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 1e-2, total_steps=30),  # changes the betas too
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-4, 1e-2, step_size_up=4),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 7),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=5), lr_scheduler.ExponentialLR(o, 0.9)], [5]
    ),
    "SWALR": lambda o: swa_utils.SWALR(o, swa_lr=1e-3),
}


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.parametrize("tensor_lr", [False, True])
def test_schedulers(make, tensor_lr):
    """The same learning rates and the same training as with torch's class."""
    models = [network(), network()]
    optimizers = [
        cls(m.parameters(), lr=torch.tensor(1e-2) if tensor_lr else 1e-2)
        for m, cls in zip(models, (FusedAdamW, torch.optim.AdamW), strict=True)
    ]
    schedulers = [make(o) for o in optimizers]
    for step in range(30):
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(step))
        for model, optimizer, scheduler in zip(models, optimizers, schedulers, strict=True):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            if step < 29:
                scheduler.step()
        assert [float(r) for r in schedulers[0].get_last_lr()] == [float(r) for r in schedulers[1].get_last_lr()]
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_schedulers_of_momentum(name):
    """Those that change SGD's momentum too."""
    case = EVERY_KERNEL["SGD, nesterov"]
    models = [network(), network()]
    optimizers = [make(m.parameters(), lr=1e-2) for m, make in zip(models, (case.make, case.reference), strict=True)]
    schedulers = [SCHEDULERS[name](o) for o in optimizers]
    seen = set()
    for step in range(29):
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(step))
        for model, optimizer, scheduler in zip(models, optimizers, schedulers, strict=True):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            scheduler.step()
        seen.add(optimizers[0].param_groups[0]["momentum"])
    assert len(seen) > 3
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5)


def test_a_scheduler_before_the_optimizer_still_warns():
    """The warning of torch about the wrong order is not lost."""
    optimizer = FusedAdamW(network().parameters())
    scheduler = lr_scheduler.StepLR(optimizer, 5)
    with pytest.warns(UserWarning, match=r"lr_scheduler\.step\(\)` before `optimizer\.step"):
        scheduler.step()


def test_averaged_model():
    """Weight averaging reads the parameters that we wrote."""
    model = network()
    averaged = swa_utils.AveragedModel(model)
    optimizer = FusedAdamW(model.parameters(), lr=1e-2)
    seen = []
    for step in range(4):
        optimizer.zero_grad()
        model(torch.full((2, 8), float(step))).square().mean().backward()
        optimizer.step()
        averaged.update_parameters(model)
        seen.append(model[0].weight.detach().clone())
    torch.testing.assert_close(averaged.module[0].weight, torch.stack(seen).mean(0))


@pytest.mark.filterwarnings("default")  # what transformers and accelerate warn of is theirs
def test_hugging_face_trainer(tmp_path):
    """A tiny randomly initialised GPT-2 learns under Trainer(optimizers=...), saves, and resumes where it was."""
    import transformers  # noqa: PLC0415 (takes seconds; only this test needs it)

    def make(steps):
        torch.manual_seed(0)
        config = transformers.GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2)
        model = transformers.GPT2LMHeadModel(config)
        optimizer = FusedAdamW(model.parameters(), lr=1e-2, max_grad_norm=1.0)
        scheduler = lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + 0.01 * step))
        ids = (torch.arange(64).reshape(16, 4) % 32).repeat(1, 4)
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=steps,
            per_device_train_batch_size=4,
            save_steps=10,
            logging_steps=5,
            report_to=[],
            max_grad_norm=0.0,  # ours clips inside the step
            use_cpu=True,
            disable_tqdm=True,
            seed=0,
        )
        dataset = [{"input_ids": row, "labels": row} for row in ids]
        trainer = transformers.Trainer(model, arguments, train_dataset=dataset, optimizers=(optimizer, scheduler))
        return trainer, optimizer

    whole, optimizer = make(20)
    whole.train()
    losses = [entry["loss"] for entry in whole.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    assert {float(state["step"]) for state in optimizer.state.values()} == {20}
    resumed, _ = make(20)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    for p, q in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q)
