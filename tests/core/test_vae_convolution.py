"""Every convolution of the VAE goes through one function, which goes past the versions of cuDNN that waste memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from golden_data import GOLDEN
from hyvideo_core.vae import convolution
from hyvideo_core.vae.convolution import wastes_memory
from hyvideo_core.weights.vae import load_vae


@pytest.mark.parametrize(
    ("torch_version", "cudnn_version", "wasteful"),
    [
        ("2.8.0+cu129", 91002, False),
        ("2.9.0", 91002, True),
        ("2.9.1+cu130", 91300, True),
        ("2.10.0+cu128", 91499, True),
        ("2.10.0a0+gitabcdef", 91002, True),
        ("2.11.0+cu130", 91300, False),
        ("3.9.0", 91300, False),
        ("2.9.0", 91001, False),
        ("2.9.0", 91500, False),
        ("2.9.0", None, False),
    ],
)
def test_the_versions_that_waste_memory(torch_version: str, cudnn_version: int | None, wasteful: bool) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        assert wastes_memory(torch_version, cudnn_version, dtype) is wasteful
    assert not wastes_memory(torch_version, cudnn_version, torch.float32)


def test_on_a_cpu_the_versions_never_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(convolution, "wastes_memory", lambda _, cudnn_version, __: asked.append(cudnn_version))
    x, weight = torch.randn(1, 2, 3, 4, 4), torch.randn(3, 2, 3, 3, 3)
    assert torch.equal(convolution.conv3d(x, weight, None), F.conv3d(x, weight))
    assert asked == [None]


@pytest.mark.parametrize("wasteful", [False, True])
def test_every_convolution_takes_the_way_that_is_chosen(wasteful: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = load_vae(GOLDEN / "vae_weights.safetensors")
    video, latent = torch.randn(1, 3, 5, 16, 24), torch.randn(1, 16, 2, 2, 3)
    expected = vae.encode(video).moments, vae.decode(latent)
    ways: set[str] = set()
    plain = F.conv3d

    def named(x: torch.Tensor, weight: torch.Tensor, *, stride: tuple[int, ...], **rest: Any) -> torch.Tensor:
        ways.add("named")
        fixed = ((0, 0, 0), (1, 1, 1), 1, False)
        assert tuple(rest[name] for name in ("padding", "dilation", "groups", "benchmark")) == fixed
        return plain(x, weight, stride=stride)

    def counted(*arguments: Any) -> torch.Tensor:
        ways.add("plain")
        return plain(*arguments)

    def outside(*_: Any) -> torch.Tensor:
        raise AssertionError("a layer was called past conv3d")

    replaced: list[tuple[Any, str, Callable[..., Any]]] = [
        (torch, "cudnn_convolution", named),
        (F, "conv3d", counted),
        (torch.nn.Conv3d, "forward", outside),
        (convolution, "wastes_memory", lambda *_: wasteful),
    ]
    for owner, name, stand_in in replaced:
        monkeypatch.setattr(owner, name, stand_in)
    found = vae.encode(video).moments, vae.decode(latent)
    assert ways == {"named" if wasteful else "plain"}
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
