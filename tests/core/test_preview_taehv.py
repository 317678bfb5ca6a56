"""The tiny decoder: all frames, in order, in bounded memory, as ComfyUI's own code decodes them, and its file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from hyvideo_core.configs import HUNYUAN_VIDEO_VAE
from hyvideo_core.errors import CheckpointError
from hyvideo_core.preview import Taehv, load_taehv, taehv
from hyvideo_core.preview.taehv import Detail, TaehvDecoder, detail_for
from hyvideo_core.preview.taehv_file import name_in_file
from tools import comfyui

WITNESS = Path(__file__).parent / "host_taehv.py"
FULL = Detail()


@pytest.fixture(scope="module")
def decoder() -> TaehvDecoder:
    torch.manual_seed(0)
    return TaehvDecoder().eval().requires_grad_(False)


def latents(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def frames(decoder: TaehvDecoder, x: torch.Tensor, detail: Detail = FULL) -> torch.Tensor:
    return torch.stack(list(decoder.frames(x, detail)), dim=2)


def weights(decoder: TaehvDecoder) -> dict[str, torch.Tensor]:
    """As in the published file."""
    return {name_in_file(name): tensor.contiguous() for name, tensor in decoder.state_dict().items()}


@pytest.mark.parametrize(
    ("detail", "space", "time"),
    [
        (Detail(3, 2), "111", "011"),
        (Detail(2, 1), "110", "010"),
        (Detail(1, 2), "100", "011"),
        (Detail(0, 0), "000", "000"),
    ],
)
def test_it_decodes_as_comfyuis_own_does(
    decoder: TaehvDecoder, tmp_path: Path, detail: Detail, space: str, time: str
) -> None:
    host = comfyui.locate()
    if host is None:
        pytest.fail("There is no ComfyUI: run the tests with python tools/dev.py test, or set COMFYUI_PATH.")
    x = latents(2, 16, 4, 3, 5)
    given, made = tmp_path / "given.safetensors", tmp_path / "made.safetensors"
    # The host brings latents to model space by itself.
    save_file({**weights(decoder), "latents": x / HUNYUAN_VIDEO_VAE.scaling_factor}, given)
    subprocess.run([sys.executable, WITNESS, host, given, made, space, time], check=True, cwd=host, capture_output=True)
    expected = load_file(made)["frames"]
    found = frames(decoder, x, detail)
    assert found.shape == expected.shape
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected.clamp(0, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_all_frames_of_the_video_are_made(decoder: TaehvDecoder, count: int) -> None:
    assert frames(decoder, latents(1, 16, count, 2, 3)).shape == (1, 3, 4 * (count - 1) + 1, 16, 24)
    assert frames(decoder, latents(1, 16, count, 2, 3), Detail(2, 1)).shape == (1, 3, 2 * (count - 1) + 1, 8, 12)
    assert frames(decoder, latents(1, 16, count, 2, 3), Detail(0, 0)).shape == (1, 3, count, 2, 3)


def test_with_half_the_frames_every_second_one_is_made(decoder: TaehvDecoder) -> None:
    x = latents(1, 16, 4, 2, 3)
    torch.testing.assert_close(frames(decoder, x, Detail(3, 1)), frames(decoder, x)[:, :, ::2])


def test_a_frame_depends_on_those_before_it_and_on_none_after(decoder: TaehvDecoder) -> None:
    x, other = latents(1, 16, 4, 2, 3), latents(1, 16, 4, 2, 3)
    other[:, :, 2:] += 1
    one, two = frames(decoder, x), frames(decoder, other)
    assert torch.equal(one[:, :, :5], two[:, :, :5])
    assert not torch.equal(one[:, :, 5], two[:, :, 5])
    assert not torch.equal(frames(decoder, x[:, :, 1:])[:, :, 0], one[:, :, 4])


def test_the_clips_of_a_batch_do_not_mix(decoder: TaehvDecoder) -> None:
    x = latents(3, 16, 3, 2, 3)
    torch.testing.assert_close(frames(decoder, x), torch.cat([frames(decoder, each) for each in x.split(1)]))


def test_the_last_layers_output_is_the_brightness_from_zero_to_one() -> None:
    flat = TaehvDecoder().eval().requires_grad_(False)
    for parameter in flat.parameters():
        parameter.zero_()
    flat.leave.bias.copy_(torch.tensor([0.2, -3.0, 3.0]))
    clip = Taehv(flat)(latents(1, 16, 3, 2, 3))
    assert clip.frames.shape == (9, 16, 24, 3)
    assert (clip.frames == [51, 0, 255]).all()
    assert clip.fps == 24.0


def test_latents_far_off_are_taken_for_near_ones(decoder: TaehvDecoder) -> None:
    far, farther = torch.full((1, 16, 1, 2, 2), 60.0), torch.full((1, 16, 1, 2, 2), 600.0)
    assert torch.equal(frames(decoder, far), frames(decoder, farther))


def test_memory_does_not_grow_with_the_length_of_the_clip(decoder: TaehvDecoder) -> None:
    def most_alive(count: int) -> int:
        with torch.profiler.profile(profile_memory=True) as trace:
            for _ in decoder.frames(torch.zeros(1, 16, count, 8, 8), FULL):
                pass
        events = [e for e in trace.profiler.kineto_results.events() if e.name() == "[memory]"]
        alive = most = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            alive += event.nbytes()
            most = max(most, alive)
        return most - count * 16 * 8 * 8 * 4

    short, long = most_alive(3), most_alive(12)
    assert long < 1.1 * short


def test_a_preview_is_as_fine_as_its_limits_allow() -> None:
    assert detail_for((1, 16, 5, 6, 12)) == Detail(3, 2)
    assert detail_for((1, 16, 33, 90, 160)) == Detail(1, 2)
    assert detail_for((1, 16, 33, 68, 120)) == Detail(2, 1)
    assert detail_for((4, 16, 33, 68, 120)) == Detail(1, 1)
    assert detail_for((4, 16, 999, 300, 600)) == Detail(0, 0)


def test_what_is_left_out_is_not_computed(decoder: TaehvDecoder) -> None:
    def operations(detail: Detail) -> int:
        with FlopCounterMode(display=False) as counter:
            frames(decoder, latents(1, 16, 3, 4, 4), detail)
        return int(counter.get_total_flops())

    counts = [operations(Detail(*each)) for each in ((3, 2), (3, 1), (2, 1), (1, 1), (1, 0), (0, 0))]
    assert counts == sorted(set(counts), reverse=True)


def test_the_limits_hold_for_the_clip(decoder: TaehvDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taehv, "MAX_SIDE_PX", 32)
    monkeypatch.setattr(taehv, "MAX_PIXELS", 32 * 16 * 12)
    clip = Taehv(decoder)(latents(1, 16, 5, 4, 8))
    assert clip.frames.shape == (9, 16, 32, 3)
    assert clip.fps == 12.0


def test_previews_are_the_same_from_the_published_file(decoder: TaehvDecoder, tmp_path: Path) -> None:
    path, x = tmp_path / "taehv.safetensors", latents(1, 16, 3, 2, 3)
    save_file(weights(decoder) | {"encoder.0.weight": torch.zeros(64, 3, 3, 3)}, path)
    expected = Taehv(decoder)(x).frames
    assert np.array_equal(load_taehv(path)(x).frames, expected)
    torch.save(weights(decoder), tmp_path / "taehv.pth")
    assert np.array_equal(load_taehv(tmp_path / "taehv.pth")(x).frames, expected)


def test_of_layers_that_make_more_frames_the_last_are_taken(decoder: TaehvDecoder, tmp_path: Path) -> None:
    path, tensors, x = tmp_path / "taehv.safetensors", weights(decoder), latents(1, 16, 3, 2, 3)
    tensors["decoder.7.conv.weight"] = torch.cat((torch.ones(256, 256, 1, 1), tensors["decoder.7.conv.weight"]))
    save_file(tensors, path)
    assert np.array_equal(load_taehv(path)(x).frames, Taehv(decoder)(x).frames)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("decoder.22.bias"), "lacks 1 of 64 tensors of TaehvDecoder: leave.bias"),
        (
            lambda tensors: tensors.update({"decoder.1.weight": torch.zeros(256, 32, 3, 3)}),
            "decoder.1.weight has shape",
        ),
    ],
)
def test_a_file_of_another_model_is_refused(decoder: TaehvDecoder, tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    path, tensors = tmp_path / "taehv.safetensors", weights(decoder)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=message):
        load_taehv(path)


def test_loading_draws_no_random_numbers(decoder: TaehvDecoder, tmp_path: Path) -> None:
    path = tmp_path / "taehv.safetensors"
    save_file(weights(decoder), path)
    state = torch.get_rng_state()
    load_taehv(path)
    assert torch.equal(torch.get_rng_state(), state)
