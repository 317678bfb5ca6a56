"""GGUF files as checkpoints: the gguf package reads the header, the tensors stay memory-mapped, packed as they are.

Language models carry llama.cpp's names and its order of the rows of q and k; ``LlamaGguf`` shows them as Hugging
Face has them, still packed.

Source: ggml ``docs/gguf.md`` (file format), llama.cpp ``convert_hf_to_gguf.py`` (names and order of a Llama),
ComfyUI-GGUF ``tools/convert.py`` (architecture ``hyvid``, original shapes in the metadata).
"""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hyvideo_core.errors import CheckpointError
from hyvideo_core.ops import Stored
from hyvideo_core.ops.ggml import FORMATS, Ggml
from hyvideo_core.weights.files import Checkpoint, as_tensor

if TYPE_CHECKING:
    from gguf import GGUFReader

MAGIC = b"GGUF"
#: Formats of ordinary numbers.
PLAIN_FORMATS = ("F32", "F16", "BF16")
#: Where ComfyUI-GGUF's converter notes the shape of a tensor that it had to flatten.
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
#: More tensors or metadata entries than any model has.
MAX_ENTRIES = 2**16
#: Longer arrays are a tokenizer's words, which nobody here reads; shapes are shorter.
MAX_ARRAY = 16
#: More words than any tokenizer has.
MAX_WORDS = 2**24

_LLAMA_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LLAMA_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class GgufCheckpoint(Checkpoint):
    """A ``.gguf`` file. ``[name]`` gives numbers, float32 where they were quantised; ``stored(name)`` the packed rows.

    ``metadata`` holds its strings and numbers as text, ``general.architecture`` among them. Raises
    ``CheckpointError`` for files that are damaged, of another kind, or in a quantisation that is not supported.
    """

    def __init__(self, path: Path) -> None:
        reader = _read_header(path)
        self._stored = {}
        shapes = {}
        for tensor in reader.tensors:
            # A bfloat16 tensor and a quantised one come as bytes.
            data, kind = as_tensor(tensor.data), tensor.tensor_type.name
            if kind not in (*PLAIN_FORMATS, *FORMATS):
                raise CheckpointError(
                    f"{path.name}: {tensor.name} is quantised as {kind}, but this loader reads "
                    f"{', '.join((*PLAIN_FORMATS, *FORMATS))}. Choose a file with one of these in its name, such as "
                    "Q4_K_M or Q8_0."
                )
            if kind == "BF16":
                data = data.view(torch.bfloat16)
            stored = Stored(data, Ggml(kind)) if kind in FORMATS else Stored(data)
            self._stored[tensor.name] = stored
            shapes[tensor.name] = _original_shape(reader, tensor.name) or stored.shape
            if not 0 < math.prod(shapes[tensor.name]) == math.prod(stored.shape):
                raise CheckpointError(
                    f"{path.name}: {tensor.name} is {list(stored.shape)} in the file, which cannot be the "
                    f"{list(shapes[tensor.name])} that its metadata promises. The file is damaged; download it again."
                )
        super().__init__(path, shapes, _metadata(reader))

    def __getitem__(self, name: str) -> torch.Tensor:
        stored = self._stored[name]
        dtype = torch.float32 if stored.is_packed else stored.data.dtype
        return stored.dense(dtype).view(self.shapes[name])

    def stored(self, name: str) -> Stored:
        """Packed if it is a quantised matrix; anything else is plain, unpacked to float32 where it must be."""
        stored = self._stored[name]
        if stored.is_packed and len(stored.shape) == 2 and stored.shape == self.shapes[name]:
            return stored
        return Stored(self[name])

    def held(self, name: str) -> tuple[str, int]:
        """How the file stores a tensor (``Q4_K``, ``float16``) and its bytes; nothing is unpacked to tell."""
        stored = self._stored[name]
        kind = stored.packing.name if stored.is_packed else str(stored.data.dtype).removeprefix("torch.")
        return kind, stored.nbytes

    @property
    def architecture(self) -> str:
        """What the file says it is: ``hyvid`` for this transformer, ``llama`` for a language model."""
        return self.metadata.get("general.architecture", "")


class LlamaGguf(Checkpoint):
    """A Llama's GGUF under Hugging Face names (``model.layers.0.…``), q and k in Hugging Face's order.

    ``metadata["config"]`` states in Hugging Face's terms what the shapes do not tell, as in a safetensors file.
    Raises ``CheckpointError`` for other architectures and head counts that do not fit.
    """

    def __init__(self, file: GgufCheckpoint) -> None:
        if file.architecture != "llama":
            raise CheckpointError(
                f"{file.path.name} is a GGUF of architecture {file.architecture!r}, but the language model's 'llama' "
                "was expected. Choose a GGUF of llava-llama-3-8b."
            )
        self._file = file
        self._names = {llama_name(name): name for name in file}
        super().__init__(file.path, {name: file.shapes[found] for name, found in self._names.items()}, {})
        self._config = _llama_config(file)
        self.metadata = {**file.metadata, "config": json.dumps(self._config)}
        for name, shape in self.shapes.items():
            heads = self._permuted_heads(name)
            if heads and (len(shape) != 2 or shape[0] % (2 * heads)):
                raise CheckpointError(
                    f"{file.path.name}: {self._names[name]} has shape {list(shape)}, which {heads} heads do not "
                    "divide. The file is damaged; download it again."
                )

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._in_order(name, self._file[self._names[name]])

    def stored(self, name: str) -> Stored:
        """As the file's, rows in Hugging Face's order: whole rows move, so they stay packed."""
        stored = self._file.stored(self._names[name])
        return Stored(self._in_order(name, stored.data), stored.packing, stored.scale)

    def held(self, name: str) -> tuple[str, int]:
        """As in the file; nothing is put in order to tell."""
        return self._file.held(self._names[name])

    def _permuted_heads(self, name: str) -> int:
        """Heads of a matrix whose rows llama.cpp reorders; 0 for all others."""
        if name.endswith("self_attn.q_proj.weight"):
            return int(self._config["num_attention_heads"])
        return int(self._config["num_key_value_heads"]) if name.endswith("self_attn.k_proj.weight") else 0

    def _in_order(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """llama.cpp puts the two halves that rotate together side by side; Hugging Face has half after half."""
        heads = self._permuted_heads(name)
        if not heads:
            return rows
        return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def open_gguf(path: Path) -> Checkpoint:
    """A GGUF file under the names its loader knows: a language model under Hugging Face's, others as they are."""
    file = GgufCheckpoint(path)
    return LlamaGguf(file) if file.architecture == "llama" else file


def llama_name(name: str) -> str:
    """The Hugging Face name of a llama.cpp tensor; names it does not know stay as they are."""
    stem, dot, leaf = name.rpartition(".")
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    if layer and layer[2] in _LLAMA_LAYER:
        return f"model.layers.{layer[1]}.{_LLAMA_LAYER[layer[2]]}.{leaf}"
    return _LLAMA_TOP.get(stem, stem) + dot + leaf


def _llama_config(file: GgufCheckpoint) -> dict[str, Any]:
    """Source: llama.cpp ``gguf-py/gguf/constants.py`` (keys) and ``src/llama-model.cpp`` (defaults)."""

    def number(key: str, default: str = "") -> float:
        text = file.metadata.get(f"llama.{key}", default)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise CheckpointError(
                f"{file.path.name} states llama.{key} as {text!r}, but it must be a positive number. The file is "
                "damaged; download it again."
            )
        return value

    heads = int(number("attention.head_count"))
    config: dict[str, Any] = {
        "num_attention_heads": heads,
        "num_key_value_heads": int(number("attention.head_count_kv", str(heads))),
        "rope_theta": number("rope.freq_base", "10000"),
        "rms_norm_eps": number("attention.layer_norm_rms_epsilon"),
        "num_hidden_layers": int(number("block_count")),
    }
    # Llama 3.1 and later stretch their rotary frequencies by factors of their own.
    scaling = file.metadata.get("llama.rope.scaling.type", "none")
    if "rope_freqs.weight" in file or scaling != "none":
        config["rope_scaling"] = {"rope_type": "llama3" if scaling == "none" else scaling}
    return config


def _read_header(path: Path) -> GGUFReader:
    """The package's reader of the file. No tensor is read. Raises ``CheckpointError``."""
    with path.open("rb") as file:
        beginning = file.read(24)
    if beginning[:4] != MAGIC:
        raise CheckpointError(
            f"{path.name} does not begin with {MAGIC.decode()}. It is another kind of file under that name (often a "
            "web page saved in its place); download it again."
        )
    try:
        if max(struct.unpack("<8xQQ", beginning)) > MAX_ENTRIES:
            raise ValueError("it promises more tensors or metadata than any model has, or is of the other byte order")
        return _bounded_reader(path)
    except ImportError as error:
        raise CheckpointError(
            f"{path.name} needs the gguf package, which cannot be imported ({error}). Install it into the Python that "
            "runs this with: python -m pip install gguf"
        ) from error
    except (ValueError, LookupError, TypeError, OverflowError, struct.error, OSError) as error:
        raise CheckpointError(
            f"{path.name} cannot be read as GGUF ({error}). The download broke off, the file is damaged, or it was "
            "written for a newer gguf package; download it again, or update that package."
        ) from error


def _bounded_reader(path: Path) -> GGUFReader:
    """The package's reader, kept from running past the end of a damaged file and from listing a tokenizer's words.

    As it is, it takes seconds and hundreds of MB for the words of a Llama-3, and never ends where the length of an
    array is damaged.
    """
    from gguf import GGUFReader, GGUFValueType

    class BoundedReader(GGUFReader):
        def _get(self, offset: int, dtype: Any, count: int = 1, *order: Any, **named: Any) -> Any:
            found = super()._get(offset, dtype, count, *order, **named)
            if len(found) < count:
                raise ValueError(f"it ends after {len(self.data):,} bytes, in the middle of its contents")
            return found

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type != GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            words = self.data.data
            kind, length = struct.unpack_from("<IQ", words, orig_offs)
            if length <= MAX_ARRAY and kind in self.gguf_scalar_to_np:
                return super()._get_field_parts(orig_offs, raw_type)
            end = orig_offs + 12
            if kind == GGUFValueType.STRING:
                if length > MAX_WORDS:
                    raise ValueError(f"it has an array of {length:,} words")
                for _ in range(length):
                    end += 8 + struct.unpack_from("<Q", words, end)[0]
            else:
                end += length * self.gguf_scalar_to_np[GGUFValueType(kind)]().itemsize
            return end - orig_offs, [], [], []

    # Read-only: a writable map of a file larger than the machine's memory is refused by Linux.
    return BoundedReader(path, "r")


def _original_shape(reader: GGUFReader, name: str) -> tuple[int, ...]:
    """The shape noted for a tensor that was flattened; () where there is none."""
    field = reader.get_field(ORIGINAL_SHAPE + name)
    return () if field is None else tuple(int(field.parts[index][0]) for index in field.data)


def _metadata(reader: GGUFReader) -> dict[str, str]:
    """Strings and single numbers as text."""
    metadata = {}
    for name, field in reader.fields.items():
        kinds = [kind.name for kind in field.types]
        if kinds == ["STRING"]:
            metadata[name] = bytes(field.parts[-1]).decode("utf-8", "replace")
        elif len(kinds) == 1:
            metadata[name] = str(field.parts[-1][0].item())
    return metadata
