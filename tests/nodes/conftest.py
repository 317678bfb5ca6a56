"""A ComfyUI with this pack as the tests of the nodes use it: jobs in, results or errors out."""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent))
# The server inherits it: threads gain nothing on tensors this small, and cost much on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Memory readings are to speak of what the pack holds. With a fixed threshold every tensor of a MiB has a mapping of its
# own, which goes when it is freed. glibc otherwise raises the threshold with use and keeps freed tensors in its lists:
# tens of MiB more or less, whatever the pack does.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**20))

import jobs

from old_files import put as put_old_files
from tools.client import ComfyClient, ExecutionFailed, PromptRejected
from tools.server import Server

Json = dict[str, Any]
TIMEOUT_S = 120.0
#: The pack's line in the server's log for every module whose weights are read.
READING = re.compile(r"reading the weights of HyVideo (.+)")


class Studio:
    """A server and a client of it."""

    #: Seeds that no other job has, so that nothing of theirs is found in the server's cache.
    unused_seeds = itertools.count(10**6)

    def __init__(self, server: Server, client: ComfyClient) -> None:
        self.server, self.client = server, client

    def run(self, job: Json, **extra: Any) -> Json:
        """The outputs of a job that succeeds, by node id."""
        return self.client.run(job, timeout_s=TIMEOUT_S, **extra)["outputs"]

    def failure(self, job: Json) -> str:
        """What the user reads when a job fails while it runs; the next job must work all the same."""
        with pytest.raises(ExecutionFailed) as caught:
            self.client.run(job, timeout_s=TIMEOUT_S)
        assert caught.value.event.type == "execution_error"
        self.assert_works()
        return str(caught.value.event.data["exception_message"])

    def rejection(self, job: Json) -> Json:
        """The server's errors by node id for a job that is not even queued."""
        with pytest.raises(PromptRejected) as caught:
            self.client.queue(job)
        return caught.value.node_errors

    def assert_works(self) -> None:
        """A plain job samples and saves."""
        assert self.server.is_alive()
        assert torch.isfinite(self.latent({"sampler.seed": next(self.unused_seeds)})).all()

    def drop_results(self) -> None:
        """Make the server forget every output, so that the next job computes anew; it unloads all models too."""
        self.client.free(unload_models=False, free_memory=True)

    def release(self) -> None:
        """Make the server give everything back; it does so once it is idle."""
        self.client.free(unload_models=True, free_memory=True)
        # The request is answered before it is carried out: at the latest between the next two jobs.
        job = jobs.text_to_latent({"save.samples": ["size", 0]})
        for _ in range(2):
            self.run({name: job[name] for name in ("size", "save")})

    def reads(self) -> Counter[str]:
        """How often the weights of each role were read since the server started."""
        return Counter(READING.findall(self.server.log.read_text("utf-8", errors="replace")))

    def rss_mib(self) -> float:
        """Memory of the server's process."""
        return psutil.Process(self.server.pid).memory_info().rss / 2**20

    def files(self, outputs: Json, node_id: str = "save") -> list[Path]:
        """What a node saved in the output folder, in order."""
        found = [file for kind in outputs[node_id].values() if isinstance(kind, list) for file in kind]
        return [self.server.output / file["subfolder"] / file["filename"] for file in found if isinstance(file, dict)]

    def latent(self, changes: Mapping[str, Any] | None = None) -> torch.Tensor:
        """The latent that ``jobs.text_to_latent`` makes with these changes."""
        return self.saved_latent(jobs.text_to_latent(changes))

    def saved_latent(self, job: Json) -> torch.Tensor:
        """The latent that the job's node ``save`` writes."""
        return load_file(self.files(self.run(job))[0])["latent_tensor"]

    def images(self, changes: Mapping[str, Any] | None = None) -> np.ndarray:
        """The frames [F, H, W, 3] that ``jobs.text_to_images`` makes with these changes."""
        return np.stack([np.asarray(Image.open(path)) for path in self.files(self.run(jobs.text_to_images(changes)))])


class Clip:
    """An mp4, decoded."""

    def __init__(self, path: Path) -> None:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            self.codec = stream.codec_context.name
            self.fps = float(stream.average_rate)
            self.tags = dict(container.metadata)
            self.frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height."""
        return self.frames.shape[2], self.frames.shape[1]


@pytest.fixture
def studio(server: Server, client: ComfyClient) -> Studio:
    """The running server with the toy models."""
    return Studio(server, client)


@pytest.fixture(scope="session")
def clip() -> Callable[[Path], Clip]:
    """Decodes an mp4."""
    return Clip


@pytest.fixture(scope="module")
def old_files(server: Server) -> Iterator[None]:
    """Models and pictures by the names that they have in old workflows."""
    models = put_old_files(server.base)
    yield
    for path in models:
        path.unlink()


@pytest.fixture
def place(server: Server) -> Iterator[Callable[[str, bytes | Mapping[str, torch.Tensor]], Path]]:
    """Puts a file under the server's own models folder for one test: bytes, or tensors as safetensors."""
    from safetensors.torch import save_file

    placed: list[Path] = []

    def put(name: str, content: bytes | Mapping[str, torch.Tensor]) -> Path:
        path = server.base / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        placed.append(path)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            save_file(dict(content), str(path))
        return path

    yield put
    for path in placed:
        path.unlink(missing_ok=True)
