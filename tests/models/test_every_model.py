"""What every network in the registry must do, at sizes that take no time."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from mamba_unet import build_model, list_models
from mamba_unet.models import model_spec


@pytest.fixture(params=list_models())
def name(request):
    return request.param


@pytest.fixture
def model(name):
    torch.manual_seed(0)
    return build_model(name, size="nano")


@pytest.fixture
def sides(name):
    """(H, W) -> the sides of an image of this network: with `depth` slices where it takes volumes."""

    def sides_of(height: int, width: int, depth: int = 4) -> tuple[int, ...]:
        return (depth, height, width)[3 - model_spec(name).spatial_dims :]

    return sides_of


@pytest.mark.parametrize(("height", "width", "depth"), [(1, 1, 1), (15, 17, 3), (32, 32, 4), (33, 50, 7)])
def test_any_size_comes_back_as_logits_of_that_size(model, sides, height, width, depth):
    size = sides(height, width, depth)
    with torch.no_grad():
        assert model.eval()(torch.randn(2, 1, *size)).shape == (2, 4, *size)


def test_a_batch_of_none_gives_logits_of_none_and_no_gradients(model, sides):
    size = sides(33, 32)
    logits = model.eval()(torch.randn(0, 1, *size))
    assert logits.shape == (0, 4, *size)
    logits.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_runs_in_any_precision_of_its_weights(model, sides, dtype):
    x = torch.randn(1, 1, *sides(32, 32))
    with torch.no_grad():
        expected, logits = model.eval()(x), model.to(dtype)(x.to(dtype))
    assert logits.dtype == dtype
    tolerance = 0.05 * expected.abs().max() if dtype.itemsize == 2 else 1e-4
    assert (logits - expected).abs().max() < tolerance


@pytest.mark.parametrize("in_channels", [1, 2, 3])
def test_any_number_of_channels_and_classes(name, sides, in_channels):
    model = build_model(name, in_channels, 5, size="nano").eval()
    with torch.no_grad():
        assert model(torch.randn(1, in_channels, *sides(32, 32))).shape == (1, 5, *sides(32, 32))


def test_an_image_gets_the_same_logits_in_any_batch(model, sides):
    batch = torch.randn(3, 1, *sides(32, 32))
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(batch)[1:2], model(batch[1:2]), rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter_and_are_finite(model, sides):
    model.eval()(torch.randn(2, 1, *sides(64, 64))).square().mean().backward()  # no branch is dropped
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_two_images_are_overfitted(model, sides):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 1, *sides(32, 32, depth=2), generator=generator)
    label = torch.zeros(2, *sides(32, 32, depth=2), dtype=torch.long)
    label[0, ..., 4:20, 6:18], label[1, ..., 10:30, 3:15] = 1, 2
    image += label[:, None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(100):
        optimizer.zero_grad()
        cross_entropy(model(image), label).backward()
        optimizer.step()
    assert (model.eval()(image).argmax(1) == label).float().mean() > 0.97


def test_a_saved_network_comes_back_the_same(model, sides, tmp_path):
    model.eval().save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    x = torch.randn(1, 1, *sides(24, 40))
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def test_compiles_without_a_graph_break(model, sides):
    model.eval()
    x = torch.randn(1, 1, *sides(32, 48))
    torch.compiler.reset()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), model(x))


def test_exports(model, sides):
    model.eval()
    x = torch.randn(1, 1, *sides(30, 32))
    program = torch.export.export(model, (x,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)


def test_bfloat16_autocast_gives_finite_logits_and_gradients(model, sides):
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(100 * torch.randn(2, 1, *sides(32, 32)))
        cross_entropy(logits, torch.ones(2, *sides(32, 32), dtype=torch.long)).backward()
    assert logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
