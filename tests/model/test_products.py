"""The product of a linear layer gives the same numbers by every kernel, for any number of rows."""

from typing import get_args

import pytest
import torch
from torch.nn import functional as F

from vlmlab.model import products
from vlmlab.model.products import ACTIVATIONS, Activation, Linear, linear

ROWS = [(1,), (3,), (products.FEW,), (products.FEW + 1,), (40,), (2, 5), ()]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("bias", [True, False])
def test_kernels_agree_with_the_plain_product(rows, bias):
    layer, x = Linear(48, 30, bias=bias), torch.randn(*rows, 48)
    with torch.no_grad():
        ours = layer(x)
    assert ours.shape == (*rows, 30) and ours.is_contiguous()
    assert torch.allclose(ours, F.linear(x, layer.weight, layer.bias), atol=1e-5)


@pytest.mark.parametrize("activation", get_args(Activation))
@pytest.mark.parametrize("rows", [1, 40])
def test_an_activation_applied_on_the_way_is_the_one_applied_afterwards(activation, rows):
    layer, x = Linear(48, 30), 4 * torch.randn(rows, 48)
    after = ACTIVATIONS[activation](F.linear(x, layer.weight, layer.bias))
    with torch.no_grad():
        assert torch.allclose(layer(x, activation), after, atol=2e-6)
    assert torch.equal(layer(x, activation), after)  # with gradients: the same operations


def test_no_rows_at_all_and_rows_with_gaps():
    layer, wide = Linear(48, 30), torch.randn(9, 96)
    with torch.no_grad():
        assert layer(torch.zeros(0, 48)).shape == (0, 30)
        gaps = wide[:, ::2]
        assert torch.allclose(layer(gaps), F.linear(gaps, layer.weight, layer.bias), atol=1e-5)


def test_a_weight_in_fewer_bits_is_multiplied_in_those():
    x, weight, bias = torch.randn(6, 48), torch.randn(30, 48).bfloat16(), torch.randn(30)
    out = linear(x, weight, bias, "relu")
    assert out.dtype == torch.float32
    assert torch.equal(out, F.relu(F.linear(x.bfloat16(), weight).float() + bias))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_through_a_frozen_weight_are_those_of_the_plain_product(rows, bias):
    layer, x = Linear(48, 30, bias=bias).requires_grad_(False), torch.randn(*rows, 48, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    for given, product in ((x, layer), (other, lambda some: F.linear(some, layer.weight, layer.bias))):
        out = product(given)
        (out.sin() * torch.arange(30)).sum().backward()
    assert torch.allclose(x.grad, other.grad, atol=1e-4)
    turned = torch.randn(30, *rows).movedim(0, -1)  # a gradient that is not laid out row by row
    (one,), (two,) = (torch.autograd.grad(layer(x), x, turned), torch.autograd.grad(x @ layer.weight.t(), x, turned))
    assert torch.allclose(one, two, atol=1e-4)
    assert layer.weight.grad is None


def test_a_weight_that_learns_has_its_gradient():
    layer, x = Linear(48, 30), torch.randn(40, 48)
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()  # only the bias learns
    assert layer.weight.grad is None and torch.allclose(layer.bias.grad, torch.full((30,), 40.0))
    layer.weight.requires_grad_(True)
    layer(x).sum().backward()
    assert torch.allclose(layer.weight.grad, x.sum(0).expand(30, 48), atol=1e-4)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_low_rank_product_beside_a_frozen_weight_is_the_sum_of_both_with_its_gradients(rows, bias):
    layer = Linear(48, 30, bias=bias).requires_grad_(False)
    a, b, x = torch.randn(4, 48), torch.randn(30, 4), torch.randn(*rows, 48)
    found = []
    for product in (
        lambda x, a, b: products.adapted(x, layer.weight, layer.bias, a, b, 0.5),
        lambda x, a, b: F.linear(x, layer.weight, layer.bias) + 0.5 * (x @ a.t() @ b.t()),
    ):
        given = [one.clone().requires_grad_() for one in (x, a, b)]
        out = product(*given)
        found.append([out, *torch.autograd.grad((out.sin() * torch.arange(30)).sum(), given)])
    for ours, plain in zip(*found, strict=True):
        assert ours.shape == plain.shape
        assert torch.allclose(ours, plain, atol=2e-3, rtol=1e-4)


def test_a_low_rank_product_beside_a_weight_that_learns_leaves_it_its_gradient():
    layer, x = Linear(48, 30), torch.randn(40, 48)
    a, b = torch.randn(4, 48), torch.randn(30, 4)
    products.adapted(x, layer.weight, layer.bias, a, b, 0.5).sum().backward()
    assert torch.allclose(layer.weight.grad, x.sum(0).expand(30, 48), atol=1e-4)
