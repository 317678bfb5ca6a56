"""The registry's archive where Manager puts it: in a folder of any name, with ComfyUI's own packages and no others."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from comfy_cli.file_utils import zip_files
from PIL import Image

from tools import bare_host, comfyui
from tools.client import ExecutionFailed
from tools.paths import ROOT, SHIPPED_MODELS, WORKFLOWS
from tools.server import Server

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern"),  # comfy-cli's own
]

MACHINE = "Ein Rechner, größer & 視頻"
FOLDER = "HyVideo Studio (größer) 視頻"
IMAGE = "mein Bild é 視頻.png"
LORA = Path("Meine LoRAs", "Nacht & 夜.safetensors")
PREFIX = "Meine Videos/été 視頻\\clip a"
TIMEOUT_S = 120.0


@contextmanager
def running(machine: Path, also: tuple[str, ...] = ()) -> Iterator[Server]:
    """A server whose Python has the host's packages and ``also``, with the archive as its only pack."""
    host = comfyui.locate()
    server = Server(host, machine / "ComfyUI's files", python=bare_host.make(machine / "Python", host, also))
    unpack(server.base / "custom_nodes" / FOLDER)
    with pytest.MonkeyPatch.context() as patch:
        # The clone, which it would link beside the archive, stays out.
        patch.setattr("tools.server.link_folder", lambda link, target: None)
        with server:
            yield server


def unpack(folder: Path) -> None:
    """The archive, as the registry gets it."""
    folder.mkdir(parents=True)
    archive = folder / "node.zip"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        zip_files(archive)
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)
    archive.unlink()


def workflow(name: str) -> dict:
    return json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))


def saved(server: Server, outputs: dict) -> list[Path]:
    found = [file for output in outputs.values() for file in output.get("images", [])]
    return [server.output / file["subfolder"] / file["filename"] for file in found]


def test_it_needs_none_of_its_requirements_to_start_and_tells_where_one_is_missing(tmp_path):
    with running(tmp_path / MACHINE) as server, server.client() as client:
        log = server.log.read_text("utf-8", errors="replace")
        assert f"custom_nodes/{FOLDER}" in log.replace("\\", "/")
        assert "IMPORT FAILED" not in log
        assert "Traceback" not in log
        outputs = client.run(workflow("hyvideo_demo_image"), timeout_s=TIMEOUT_S)["outputs"]
        (image,) = saved(server, outputs)
        assert image.is_file()
        with pytest.raises(ExecutionFailed, match="Install the package imageio-ffmpeg in ComfyUI's Python"):
            client.run(workflow("hyvideo_demo_t2v"), timeout_s=TIMEOUT_S)


def test_folders_and_files_may_have_any_name(tmp_path, clip):
    """Of the pack, of ComfyUI's files, of an image, a LoRA and a result."""
    with running(tmp_path / MACHINE, also=("imageio-ffmpeg", "gguf")) as server, server.client() as client:
        assert sorted(client.get("/api/workflow_templates")[FOLDER]) == sorted(p.stem for p in WORKFLOWS.glob("*.json"))
        target = server.base / "models" / "loras" / LORA
        target.parent.mkdir(parents=True)
        shutil.copy(SHIPPED_MODELS / "loras" / "hyvideo_demo_lora_night.safetensors", target)
        Image.new("RGB", (96, 48), "white").save(tmp_path / IMAGE)
        job = workflow("hyvideo_demo_i2v")
        job["8"] = {"class_type": "LoadImage", "inputs": {"image": client.upload(tmp_path / IMAGE)}}
        lora = {"model": ["1", 0], "lora": LORA.as_posix(), "strength": 0.5}
        job["lora"] = {"class_type": "HyvLora", "inputs": lora}
        job["9"]["inputs"]["model"] = ["lora", 0]
        job["12"]["inputs"]["filename_prefix"] = PREFIX
        (video,) = saved(server, client.run(job, timeout_s=TIMEOUT_S)["outputs"])
        assert video.relative_to(server.output) == Path("Meine Videos", "été 視頻", "clip a_00001_.mp4")
        assert json.loads(clip(video).tags["prompt"])["lora"]["inputs"] == lora
