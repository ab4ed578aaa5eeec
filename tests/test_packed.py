"""Networks packed for the processor, and replayed on a GPU: the same function."""

from __future__ import annotations

import copy

import pytest
import torch

from faceparse_core.devices import has_native
from faceparse_core.models import cuda_graphs, strips
from faceparse_core.models.lite import Lite, LiteConfig
from faceparse_core.models.packed import can_pack
from faceparse_core.models.segformer import SIZES, SegFormer


def _moved_norms(network):
    """Batch norms that do something."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return network


@pytest.fixture(params=["lite", "lite with blocks", "b0"])
def network(request):
    torch.manual_seed(3)
    kinds = {
        "lite": Lite,
        "lite with blocks": lambda: Lite(LiteConfig(blocks=(1, 0, 2, 4))),
        "b0": lambda: SegFormer(SIZES["b0"]),
    }
    return _moved_norms(kinds[request.param]()).eval()


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (2, 3, 96, 160)])
def test_packed_networks_compute_the_same(network, shape):
    pixels = torch.randn(shape)
    expected = network(pixels)
    network.fold().pack()
    for _ in range(2):
        assert torch.allclose(network(pixels), expected, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("size", [1 << 12, 1 << 16, 1 << 18])
def test_layers_in_strips_compute_the_same(network, size, monkeypatch):
    pixels = torch.randn(2, 3, 96, 160)
    network.fold()
    expected = network(pixels)
    network.pack()
    monkeypatch.setattr(strips, "_STRIP_BYTES", size)
    with torch.inference_mode():
        assert torch.allclose(network(pixels), expected, atol=1e-4 * expected.abs().max().item())


def test_a_block_before_the_classifier_becomes_part_of_it():
    torch.manual_seed(5)
    network = _moved_norms(Lite(LiteConfig(blocks=(1, 0, 0, 2)))).eval()
    pixels = torch.randn(1, 3, 64, 96)
    expected = network(pixels)
    merged = network.fold()(pixels)
    assert torch.allclose(merged, expected, atol=1e-4 * expected.abs().max().item())
    assert torch.equal(network.fold()(pixels), merged)
    assert isinstance(network.blocks[0], torch.nn.Identity)


def test_packed_half_precision_is_as_near_as_plain(network):
    if not has_native("bf16"):
        pytest.skip("this processor has no bfloat16")
    pixels = torch.randn(1, 3, 128, 128)
    network = network.fold().to(memory_format=torch.channels_last)
    expected = network(pixels)
    plain = copy.deepcopy(network).bfloat16()
    packed = copy.deepcopy(plain).pack()
    assert can_pack(plain) == any("Packed" in type(module).__name__ for module in packed.modules())
    given = pixels.bfloat16().contiguous(memory_format=torch.channels_last)
    error, usual = ((n(given).float() - expected).norm() for n in (packed, plain))
    assert error < 1.2 * usual and error < 0.05 * expected.norm()


def test_what_is_to_be_trained_is_not_packed():
    network = SegFormer(SIZES["b0"])
    assert network.pack() is network and network.state_dict().keys() == SegFormer(SIZES["b0"]).state_dict().keys()


def test_folded_heads_sum_as_upsampling_does(network):
    if isinstance(network, Lite):
        pytest.skip("another head")
    network.fold()
    taps = [torch.randn(2, 40 >> i, 56 >> i, size) for i, size in enumerate(network.config.hidden_sizes)]
    maps = [torch.nn.functional.linear(tap, weight) for tap, weight in zip(taps, network.head.merged, strict=True)]
    total = maps[0] + network.head.classify.shift
    for x in maps[1:]:
        up = torch.nn.functional.interpolate(x.permute(0, 3, 1, 2), size=(40, 56), mode="bilinear")
        total = total + up.permute(0, 2, 3, 1)
    expected = network.head.classify(total.relu()).permute(0, 3, 1, 2)
    assert torch.allclose(network.head(taps), expected, atol=1e-5)


class Doubled(torch.nn.Module):
    def forward(self, pixels):
        return 2 * pixels


def test_a_shape_is_recorded_when_it_comes_again_and_replayed_then(monkeypatch):
    recorded = []

    def record(network, pixels):
        recorded.append(tuple(pixels.shape))
        return lambda other: network(other)

    monkeypatch.setattr(cuda_graphs, "record", record)
    graphed = cuda_graphs.Graphed(Doubled())
    for size in (8, 8, 8, 16, 8):
        pixels = torch.randn(1, 3, size, size)
        assert torch.equal(graphed(pixels), 2 * pixels)
    assert recorded == [(1, 3, 8, 8)]
    many = torch.randn(cuda_graphs.LARGEST_BATCH + 1, 3, 8, 8)
    for _ in range(3):
        graphed(many)
    assert len(recorded) == 1
    for size in range(32, 32 + 6):
        graphed(torch.zeros(1, 3, size, size))
        graphed(torch.zeros(1, 3, size, size))
    assert len(graphed._replays) == cuda_graphs._SHAPES


def test_where_recording_fails_one_warning_says_so_and_work_goes_on(monkeypatch, caplog):
    def record(network, pixels):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graphs, "record", record)
    graphed = cuda_graphs.Graphed(Doubled())
    pixels = torch.randn(1, 3, 8, 8)
    for _ in range(4):
        assert torch.equal(graphed(pixels), 2 * pixels)
    assert len(caplog.records) == 1 and "not permitted" in caplog.text
