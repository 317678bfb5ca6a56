"""The files that are judged: the demo set's, and its transformer in the other layouts that people have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cases import Missing
from hyvideo_core.ops import fp8
from hyvideo_core.weights.dit import PACKED
from tools.demo_model import files

#: Writes a transformer's file in another layout into a folder.
Layout = Callable[[Path, Path], Path]


@dataclass(frozen=True)
class Files:
    """The trained networks: ``t2v`` with guidance distilled into it, ``i2v`` without, which takes a first frame too."""

    vae: Path = files.VAE
    llama: Path = files.LLAMA
    clip: Path = files.CLIP
    t2v: Path = files.T2V
    i2v: Path = files.I2V
    lora: Path = files.LORA

    def absent(self) -> list[Path]:
        """Those that are not there."""
        return [path for path in (self.vae, self.llama, self.clip, self.t2v, self.i2v, self.lora) if not path.is_file()]


def existing(path: Path) -> Path:
    """The path. Raises ``Missing`` where there is no such file."""
    if not path.is_file():
        raise Missing(f"{path.name} is not there; python -m tools.demo_model.export writes it once it is trained")
    return path


def fp8_file(source: Path, folder: Path) -> Path:
    """The matrices of blocks as e4m3 without scales."""
    tensors = {name: tensor.to(fp8.FP8) if _is_packed(name, tensor) else tensor for name, tensor in _read(source)}
    return _saved(folder / "fp8_e4m3fn.safetensors", tensors)


def scaled_fp8_file(source: Path, folder: Path) -> Path:
    """The matrices of blocks as e4m3 with a scale beside each, and the marker of such files."""
    tensors: dict[str, Tensor] = {"scaled_fp8": torch.empty(0, dtype=fp8.FP8)}
    for name, tensor in _read(source):
        tensors[name] = tensor
        if _is_packed(name, tensor):
            stored = fp8.quantized(tensor, per_channel=False)
            assert stored.scale is not None
            tensors[name] = stored.data
            tensors[name.removesuffix("weight") + "scale_weight"] = stored.scale.view(1)
    return _saved(folder / "fp8_scaled.safetensors", tensors)


def gguf_file(kind: str, source: Path, folder: Path) -> Path:
    """A GGUF with the matrices of blocks in ``kind``. Raises ``Missing`` where that cannot be written."""
    try:
        import gguf
        from gguf.quants import quantize
    except ImportError as error:
        raise Missing(f"the gguf package cannot be imported ({error})") from error
    packed, plain = gguf.GGMLQuantizationType[kind], gguf.GGMLQuantizationType.F32
    numbers, _ = gguf.GGML_QUANT_SIZES[packed]
    rows, kinds = {}, {}
    for name, tensor in _read(source):
        kinds[name] = packed if _is_packed(name, tensor) else plain
        if _is_packed(name, tensor) and tensor.shape[1] % numbers:
            raise Missing(f"rows of {tensor.shape[1]} numbers are no whole blocks of {numbers}")
        try:
            rows[name] = quantize(tensor.float().numpy(), kinds[name])
        except NotImplementedError as error:
            raise Missing(f"the gguf package reads {kind}, but cannot write it") from error
    writer = gguf.GGUFWriter(folder / f"{kind}.gguf", "hyvid")
    for name, data in rows.items():
        writer.add_tensor(name, data, raw_dtype=kinds[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / f"{kind}.gguf"


def _read(source: Path) -> list[tuple[str, Tensor]]:
    return list(load_file(existing(source)).items())


def _is_packed(name: str, tensor: Tensor) -> bool:
    return name.startswith(PACKED) and tensor.ndim == 2


def _saved(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, path)
    return path
