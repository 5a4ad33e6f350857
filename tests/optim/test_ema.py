"""FusedEMA averages parameters as torch.optim.swa_utils does, and lends them to a model."""

import copy

import pytest
import torch
from torch.optim import swa_utils

from gaudi3_rt.optim import FusedEMA


def network(dtype=torch.float32):
    """A small network with equal weights at each call, and with a buffer."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(9, 13), torch.nn.BatchNorm1d(13), torch.nn.Linear(13, 3)).to(dtype)


@torch.no_grad()
def move(model, seed):
    """New values for all parameters, near the old ones."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.add_(torch.randn(p.shape, generator=generator).to(p.dtype), alpha=0.1)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999, 0.9999, 1.0])
def test_is_the_average_of_torch(decay):
    """After 1000 updates, of torch's in double to within float rounding, and of torch's in float."""
    model = network()
    ours = FusedEMA(model, decay)
    exact = [p.detach().double() for p in model.parameters()]
    theirs = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(decay))
    theirs.update_parameters(model)  # the first update of torch's class is a copy
    average = swa_utils.get_ema_multi_avg_fn(decay)
    for step in range(1000):
        move(model, step)
        ours.update()
        theirs.update_parameters(model)
        average(exact, [p.detach().double() for p in model.parameters()], None)
    largest = max(float(p.abs().max()) for p in exact)
    moved = max(float((a - p.detach()).abs().max()) for a, p in zip(ours.averages, network().parameters(), strict=True))
    bound = 3 * 1000**0.5 * 2**-24 * largest
    assert moved > 100 * bound or decay == 1
    for a, b, c in zip(ours.averages, theirs.parameters(), exact, strict=True):
        torch.testing.assert_close(a.double(), c, rtol=0, atol=bound)
        torch.testing.assert_close(a, b.detach(), rtol=0, atol=2 * bound)
    assert ours.n_averaged == 1000


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_averages_are_wide_unless_asked_otherwise(dtype):
    """Of half-precision parameters in float32, where small changes are not lost; of float64 ones in float64."""
    p = torch.nn.Parameter(torch.ones(1000, dtype=dtype))
    wide, narrow = FusedEMA([p], 0.999), FusedEMA([p], 0.999, dtype=torch.bfloat16)
    with torch.no_grad():
        p.fill_(1.5)
    for _ in range(100):
        wide.update()
        narrow.update()
    assert wide.averages[0].dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    torch.testing.assert_close(wide.averages[0], torch.full_like(wide.averages[0], 1.5 - 0.5 * 0.999**100))
    assert torch.equal(narrow.averages[0], torch.ones(1000, dtype=torch.bfloat16))  # as documented: it stands still


def test_all_layouts_and_devices():
    """Transposed, strided, empty and 0-d parameters, float64 ones and those of another device, in one update."""
    values = [torch.ones(7, 5).t(), torch.ones(40)[::2], torch.ones(0), torch.tensor(1.0), torch.ones(3).double()]
    params = [*values, torch.ones(3, device="meta")]
    ema = FusedEMA(params, 0.75)
    for value in values:
        value.fill_(2)
    ema.update()
    for average in ema.averages[:-1]:
        torch.testing.assert_close(average, torch.full_like(average, 1.25))
    assert ema.averages[-1].is_meta


def test_the_number_of_threads_changes_no_bit():
    """Large tensors that are cut, with one thread and with three."""
    results = []
    for n_threads in (1, 3):
        torch.set_num_threads(n_threads)
        params = [torch.zeros(n) for n in (200_000, 3, 70_001)]
        ema = FusedEMA(params, 0.9)
        for p in params:
            p.normal_(generator=torch.Generator().manual_seed(len(p)))
        ema.update()
        results.append(ema.averages)
    assert all(torch.equal(a, b) and a.any() for a, b in zip(*results, strict=True))


def test_swap_lends_the_averages():
    """Inside the block the model has the averages, after it its own bits, also if the block raises."""
    model = network(torch.bfloat16)
    ema = FusedEMA(model, 0.5)
    move(model, 0)
    ema.update()
    own = copy.deepcopy(model.state_dict())
    with ema.swap():
        for p, average in zip(model.parameters(), ema.averages, strict=True):
            assert torch.equal(p, average.to(torch.bfloat16))
    assert all(torch.equal(value, own[key]) for key, value in model.state_dict().items())
    message = "raised in the block"
    with pytest.raises(RuntimeError, match=message), ema.swap():
        raise RuntimeError(message)
    assert all(torch.equal(value, own[key]) for key, value in model.state_dict().items())


def test_update_while_the_averages_are_lent_is_refused():
    """An average of averages is nobody's intent; nor can they be lent twice."""
    model = network()
    ema = FusedEMA(model)
    with ema.swap():
        with pytest.raises(RuntimeError, match="swap"):
            ema.update()
        with pytest.raises(RuntimeError, match="swap"), ema.swap():
            pass
    ema.update()
    assert ema.n_averaged == 1


def test_copy_to():
    """Into another model, a list, or the model itself; autograd is told of it."""
    model = network()
    ema = FusedEMA(model, 0.5)
    move(model, 0)
    ema.update()
    other = network()
    ema.copy_to(other)
    assert all(torch.equal(p, a) for p, a in zip(other.parameters(), ema.averages, strict=True))
    version = model[0].weight._version
    ema.copy_to()
    assert all(torch.equal(p, a) for p, a in zip(model.parameters(), ema.averages, strict=True))
    assert model[0].weight._version > version
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match="got 2 parameters for 6 averages"):
        ema.copy_to(list(other.parameters())[:2])
    with pytest.raises(ValueError, match=r"parameter 0 has shape \(2, 9\), the average has \(13, 9\)"):
        ema.copy_to([torch.zeros(2, 9), *list(other.parameters())[1:]])
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


def test_state_goes_on_after_loading():
    """A round trip through state_dict, and a deep copy, continue alike; loading does not share memory."""
    model = network()
    ema = FusedEMA(model, 0.9)
    for step in range(3):
        move(model, step)
        ema.update()
    resumed = FusedEMA(model)
    resumed.load_state_dict(ema.state_dict())
    copied_model, copied = copy.deepcopy((model, ema))
    assert (resumed.decay, resumed.n_averaged) == (0.9, 3)
    move(model, 3)
    move(copied_model, 3)
    for one in (ema, resumed, copied):
        one.update()
        assert one.n_averaged == 4
        assert all(torch.equal(a, b) for a, b in zip(one.averages, ema.averages, strict=True))
        assert one is ema or all(a.data_ptr() != b.data_ptr() for a, b in zip(one.averages, ema.averages, strict=True))


BAD_STATE = {
    "another thing": (lambda sd: sd.pop("averages"), r"has no \['averages'\]; was it saved by FusedEMA"),
    "fewer": (lambda sd: sd["averages"].pop(), "got 5 saved averages for 6 averages"),
    "wrong shape": (
        lambda sd: sd["averages"].__setitem__(5, torch.ones(2)),
        r"saved average 5 has shape \(2,\), the average has \(3,\)",
    ),
    "wrong decay": (lambda sd: sd.update(decay=1.5), r"decay=1\.5: must be a number from 0 to 1"),
}


@pytest.mark.parametrize(("change", "message"), BAD_STATE.values(), ids=BAD_STATE)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(change, message):
    """One sentence says what is wrong."""
    model = network()
    ema = FusedEMA(model, 0.9)
    before = [a.clone() for a in ema.averages]
    move(model, 0)
    other = FusedEMA(model, 0.5)
    other.update()
    state_dict = other.state_dict()
    change(state_dict)
    with pytest.raises(ValueError, match=message):
        ema.load_state_dict(state_dict)
    assert (ema.decay, ema.n_averaged) == (0.9, 0)
    assert all(torch.equal(a, b) for a, b in zip(ema.averages, before, strict=True))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([torch.ones(1)], -0.1), ValueError, r"decay=-0\.1: must be a number from 0 to 1"),
        (([torch.ones(1)], float("nan")), ValueError, "decay=nan: must be a number from 0 to 1"),
        (([],), ValueError, "there are no parameters to average"),
        (([torch.ones(1), torch.ones(1, dtype=torch.int64)],), TypeError, r"parameter 1 has dtype torch\.int64"),
        (([torch.ones(1, dtype=torch.complex64)],), TypeError, r"parameter 0 has dtype torch\.complex64"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    """What was given and what is allowed."""
    with pytest.raises(error, match=message):
        FusedEMA(*arguments)


def test_a_bad_dtype_is_refused():
    """The averages' own dtype has to be real and floating-point too."""
    with pytest.raises(TypeError, match=r"dtype=torch\.int8: averages need a real floating-point dtype"):
        FusedEMA([torch.ones(1)], dtype=torch.int8)


def test_a_refused_update_changes_nothing():
    """A parameter that was resized, and a decay that was set out of range."""
    params = [torch.zeros(3), torch.zeros(4)]
    ema = FusedEMA(params, 0.5)
    params[0].fill_(1)
    ema.decay = 2.0
    with pytest.raises(ValueError, match=r"decay=2\.0"):
        ema.update()
    ema.decay = 0.5
    params[1].data = torch.zeros(5)
    with pytest.raises(ValueError, match=r"parameter 1 has shape \(5,\), the average has \(4,\)"):
        ema.update()
    assert not ema.averages[0].any()
    assert ema.n_averaged == 0
