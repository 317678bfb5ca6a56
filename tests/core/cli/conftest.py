"""``generate`` on the toy model, as the tests of the command line use it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_data import PROMPT, SMALL, Call, Ending
from safetensors.torch import save_file

from hyvideo_core.cli import generate, main
from tools.toy_model import build


@pytest.fixture(scope="session")
def files() -> list[str]:
    """The arguments that name the toy model."""
    models = build.ensure()
    named = {"--dit": build.TRANSFORMER, "--vae": build.VAE, "--text-encoder": build.LLAMA, "--clip": build.CLIP}
    return [part for name, file in named.items() for part in (name, str(models / file))]


@pytest.fixture(scope="session")
def readers() -> Mapping[str, Callable[..., Any]]:
    """What reads the text encoders, each of them once."""
    return {name: cache(getattr(generate, name)) for name in ("load_mllm", "load_clip")}


@pytest.fixture(scope="module", autouse=True)
def quick(readers: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Text encoders are read once, and objects of other tests are not searched for garbage again and again."""
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        for name, reader in readers.items():
            patch.setattr(generate, name, reader)
        yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def comfyui(llama_tokenizer: Path) -> str:
    """A ComfyUI's folder."""
    return str(llama_tokenizer.parent.parent.parent)


@pytest.fixture
def call(
    files: list[str],
    comfyui: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Call:
    """``generate`` in this process, on the toy model at a small size unless told otherwise."""
    monkeypatch.setenv("COMFYUI_PATH", comfyui)

    def run(*arguments: str) -> Ending:
        folder = ["--save-path", str(tmp_path / "videos")]
        argv = ["generate", "--prompt", PROMPT, *files, *SMALL, "--device", "cpu", *folder, *arguments]
        try:
            status = main(argv)
        except SystemExit as end:
            status = int(end.code)  # type: ignore[arg-type]
        out, said = capsys.readouterr()
        assert "Traceback" not in said
        return Ending(status, [Path(line) for line in out.splitlines()], said)

    return run


@pytest.fixture(scope="session")
def lora(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A LoRA for two layers of the toy model."""
    width = build.TRANSFORMER_CONFIG["hidden_size"]
    tensors = {}
    for layer in ("double_blocks.0.img_attn_proj", "single_blocks.1.modulation.linear"):
        rows = width * (3 if "modulation" in layer else 1)
        tensors[f"transformer.{layer}.lora_A.weight"] = torch.randn(
            4, width, generator=torch.Generator().manual_seed(1)
        )
        tensors[f"transformer.{layer}.lora_B.weight"] = torch.randn(rows, 4, generator=torch.Generator().manual_seed(2))
    path = tmp_path_factory.mktemp("loras") / "style.safetensors"
    save_file(tensors, str(path))
    return str(path)
