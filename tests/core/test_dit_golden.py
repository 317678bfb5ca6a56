"""The transformer reproduces the original's numbers: whole, block by block, and in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dit_data import config_of, golden_weights, save
from torch import nn

from golden_data import GOLDEN, assert_close, golden, of_case, rel_l2
from hyvideo_core.model import DiT
from hyvideo_core.model.dit import RunBlock, Seams
from hyvideo_core.weights import detect_dit, load_dit

WEIGHTS = GOLDEN / "dit_weights.safetensors"
TOLERANCE = {"rel": 1e-5, "max_abs": 5e-5}
BF16_REL = 2.5e-2
CASES, META = golden("dit_cases")


I2V_CASES, I2V_META = golden("dit_i2v_cases")


def load_case(case: str, dtype: torch.dtype) -> DiT:
    config = config_of(META, guidance_embed=META["cases"][case]["guidance_embed"])
    return load_dit(WEIGHTS, config=config, dtype=dtype)


def run(dit: DiT, data: dict[str, torch.Tensor], **options: object) -> torch.Tensor:
    text = (data["text_states"], data["text_mask"], data["text_states_2"])
    return dit(data["x"], data["t"], *text, data.get("guidance"), **options)


@pytest.mark.parametrize("case", META["cases"])
def test_the_velocity_is_the_originals(case: str) -> None:
    data = of_case(CASES, case)
    assert_close(run(load_case(case, torch.float32), data), data["out"], **TOLERANCE)


@pytest.fixture(scope="module")
def concat_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny transformer with an input layer of 33 channels."""
    folder = tmp_path_factory.mktemp("concat")
    return save(folder / "i2v.safetensors", golden_weights() | golden("dit_i2v_concat_img_in")[0])


@pytest.mark.parametrize("head_groups", [1, 3])
@pytest.mark.parametrize("case", I2V_META["cases"])
def test_the_velocity_of_an_image_to_video_model_is_the_originals(
    case: str, head_groups: int, concat_weights: Path
) -> None:
    stated = I2V_META["cases"][case]
    replaces = stated["mode"] == "token_replace"
    channels = 16 if replaces else 33
    config = config_of(I2V_META, guidance_embed=stated["guidance_embed"], in_channels=channels)
    dit = load_dit(WEIGHTS if replaces else concat_weights, config=config, dtype=torch.float32)
    dit.head_groups = head_groups
    data = of_case(I2V_CASES, case)
    assert_close(run(dit, data, token_replace=replaces), data["out"], **TOLERANCE)


@pytest.mark.parametrize("case", META["cases"])
def test_bfloat16_stays_near_the_original(case: str) -> None:
    data = of_case(CASES, case)
    out = run(load_case(case, torch.bfloat16), data)
    assert out.dtype == torch.float32
    assert rel_l2(out, data["out"]) <= BF16_REL


def test_the_configuration_is_read_off_the_file() -> None:
    assert detect_dit(WEIGHTS) == config_of(META)


def recorder(found: dict[str, torch.Tensor], dit: DiT) -> Seams:
    """Seams that keep a copy of the tokens after every block."""
    names = {module: name for name, module in dit.named_modules()}

    def wrap(inner: RunBlock) -> RunBlock:
        def block(module: nn.Module, stream: object) -> None:
            inner(module, stream)
            name = names[module]
            if name.startswith("double"):
                found[f"{name}/img"], found[f"{name}/txt"] = stream.video.clone(), stream.text.clone()
            else:
                found[name] = stream.tokens.clone()

        return block

    return Seams(block=wrap)


def hook(found: dict[str, torch.Tensor], name: str) -> Callable[..., None]:
    return lambda module, args, output: found.__setitem__(name, output.clone())


def test_every_block_gives_the_activations_of_the_original() -> None:
    expected, meta = golden("dit_blocks")
    data = of_case(CASES, meta["case"].split()[0])
    dit = load_case("c_batch2", torch.float32)
    found: dict[str, torch.Tensor] = {}
    modules = {
        "img_in": "img_in", "time_in": "time_in", "vector_in": "vector_in", "guidance_in": "guidance_in",
        "txt_in": "txt_in", "txt_in.t_embedder": "txt_in.t_embedder", "txt_in.c_embedder": "txt_in.c_embedder",
        "txt_in.input_embedder": "txt_in.input_embedder", "final_layer_tokens": "final_layer",
        "txt_in.refiner_block.0": "txt_in.individual_token_refiner.blocks.0",
        "txt_in.refiner_block.1": "txt_in.individual_token_refiner.blocks.1",
    }  # fmt: skip
    for name, module in modules.items():
        dit.get_submodule(module).register_forward_hook(hook(found, name))
    found["out"] = run(dit, data, seams=recorder(found, dit))
    assert found.keys() == expected.keys()
    text_rows, video_rows = data["text_mask"].shape[1], found["img_in"].shape[1]
    for name, tensor in expected.items():
        for i, valid in enumerate(data["text_mask"].sum(1).tolist()):
            rows = slice(None)
            if tensor.ndim == 3 and tensor.shape[1] in (text_rows, text_rows + video_rows):
                rows = slice(tensor.shape[1] - text_rows + valid)  # padded text is nobody's business
            assert_close(found[name][i][rows], tensor[i][rows], **TOLERANCE)


@pytest.mark.parametrize("case", ["a_full_mask", "b_padded_text"])
def test_plain_fp8_files_are_read_up_cast(case: str, tmp_path: Path) -> None:
    tensors, meta = golden("dit_head128")
    weights = of_case(tensors, "w")
    assert torch.float8_e4m3fn in {tensor.dtype for tensor in weights.values()}
    path = save(tmp_path / "hunyuan_video_fp8_e4m3fn.safetensors", weights)
    dit = load_dit(path, dtype=torch.float32)
    assert dit.config == config_of(meta)
    data = of_case(tensors, case)
    assert_close(run(dit, data), data["out"], **TOLERANCE)
    assert rel_l2(run(load_dit(path), data), data["out"]) <= BF16_REL
