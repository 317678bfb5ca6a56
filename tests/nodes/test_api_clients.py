"""Four clients at once: a hundred jobs that succeed, fail, are interrupted or cancelled; nothing stays behind."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import jobs
import psutil
import pytest

from tools.client import ComfyError, PromptRejected
from tools.server import Server

pytestmark = [pytest.mark.server, pytest.mark.slow]

logger = logging.getLogger(__name__)

CLIENTS = 4
#: Of each kind, for each client: a hundred jobs in all.
SHARE = {"good": 9, "rejected": 4, "failing": 4, "interrupted": 3, "deleted": 3, "cancelled": 2}
#: A hang, not a measure of speed.
HANG_S = 300.0
#: What readings of the same state differ by, with room; the jobs hold some tens of MiB each.
GROWTH_MIB = 40
#: How long connections that are being closed may still count as open files.
SETTLE_S = 30.0
LONG = {"sampler.steps": 1000, "size.frames": 33}


@dataclass
class Life:
    """What became of the server's answers while the jobs ran."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: list[str] = field(default_factory=list)


def job_of(kind: str, seed: int) -> jobs.Json:
    """A job of this kind; those to be stopped would go on for minutes."""
    if kind == "good":
        make = random.Random(seed).choice([jobs.text_to_latent, jobs.text_to_video, jobs.text_to_images])
        return make({"sampler.seed": seed, "sampler.steps": 1})
    if kind == "rejected":
        return jobs.text_to_latent({"sampler.seed": seed, "size.frames": -4})
    if kind == "failing":
        return jobs.text_to_video({"sampler.seed": seed, "sampler.steps": 1, "prompt.prompt": "a cat " * 300})
    return jobs.text_to_video(LONG | {"sampler.seed": seed})


class Client:
    """One of the four, with its own connection: queues its jobs in an order of its own, and sees each to its end."""

    def __init__(self, server: Server, number: int) -> None:
        self._server, self._number = server, number
        self._random = random.Random(number)

    def run(self) -> Counter[tuple[str, str]]:
        """How often a job of which kind ended how."""
        kinds = [kind for kind, count in SHARE.items() for _ in range(count)]
        self._random.shuffle(kinds)
        found: Counter[tuple[str, str]] = Counter()
        with self._server.client() as self._client:
            for place, kind in enumerate(kinds):
                found[kind, self._end(kind, job_of(kind, 10_000 * self._number + place))] += 1
        return found

    def _end(self, kind: str, job: jobs.Json) -> str:
        try:
            prompt_id = self._client.queue(job)
        except PromptRejected:
            return "rejected"
        if kind == "deleted":
            return self._taken_back(prompt_id, lambda: self._client.post("/queue", {"delete": [prompt_id]}))
        if kind == "cancelled":
            return self._taken_back(prompt_id, lambda: self._client.post(f"/api/jobs/{prompt_id}/cancel", {}))
        for event in self._client.follow(prompt_id, timeout_s=HANG_S):
            if kind == "interrupted" and event.type == "progress" and event.data["node"] == "sampler":
                self._client.interrupt(prompt_id)
            if event.is_final:
                return event.type
        return "lost"

    def _taken_back(self, prompt_id: str, take) -> str:
        """Take a job back while it waits. If it has begun by then, it is interrupted instead."""
        take()
        deadline = time.monotonic() + HANG_S
        while time.monotonic() < deadline:
            try:
                status = self._client.get(f"/api/jobs/{prompt_id}")["status"]
            except ComfyError as error:
                return "gone" if error.status == 404 else str(error)
            if status == "in_progress":
                self._client.interrupt(prompt_id)
            elif status != "pending":
                return status
            time.sleep(0.05)
        return "lost"


def watch(server: Server, life: Life, ended: threading.Event) -> None:
    """Ask the server what it is asked by every open browser, until the jobs have ended."""
    with server.client() as client:
        while not ended.wait(0.2):
            for ask in (client.system_stats, client.object_info, client.queue_state):
                began = time.monotonic()
                try:
                    ask()
                except ComfyError as error:
                    life.errors.append(str(error))
                life.seconds[ask.__name__].append(time.monotonic() - began)


@dataclass(frozen=True)
class Held:
    """What the server's process holds once it was asked to give everything back."""

    threads: int
    files: int
    children: int
    rss_mib: float

    @classmethod
    def of(cls, studio) -> Held:
        studio.release()
        process = psutil.Process(studio.server.pid)
        files = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
        return cls(process.num_threads(), files, len(process.children(recursive=True)), studio.rss_mib())


def warm_up(studio) -> None:
    """One job of each kind of work, so that what stays loaded for good is there before it is counted."""
    for place, make in enumerate((jobs.text_to_latent, jobs.text_to_video, jobs.text_to_images)):
        studio.run(make({"sampler.seed": 900 + place, "size.frames": 33, "sampler.steps": 1}))


def test_a_hundred_jobs_of_four_clients_end_as_they_must_and_leave_nothing(studio, server):
    warm_up(studio)
    expected = studio.latent({"sampler.seed": 4321})
    before, life, ended = Held.of(studio), Life(), threading.Event()
    unfinished_before = unfinished(server)
    watcher = threading.Thread(target=watch, args=(server, life, ended))
    watcher.start()
    try:
        with ThreadPoolExecutor(CLIENTS) as pool:
            runs = [pool.submit(Client(server, number).run) for number in range(CLIENTS)]
            ends = sum((run.result(timeout=4 * HANG_S) for run in runs), Counter())
    finally:
        ended.set()
        watcher.join()

    assert_right(ends)
    assert not life.errors
    state = studio.client.queue_state()
    assert (state["queue_running"], state["queue_pending"]) == ([], [])
    assert unfinished(server) <= unfinished_before
    after = settled(studio, before)
    told = {name: f"{median(found):.2f}, at most {max(found):.2f}" for name, found in life.seconds.items()}
    logger.info("before %s, after %s; seconds to answer: %s", before, after, told)
    assert after.threads <= before.threads
    assert after.files <= before.files
    assert after.children == 0
    assert after.rss_mib - before.rss_mib < GROWTH_MIB
    # No hook, no patch and no state of any of them is left on the models.
    assert (studio.latent({"sampler.seed": 4321}) == expected).all()


def settled(studio, before: Held) -> Held:
    """What is held once no more files and threads are than before, or after ``SETTLE_S``."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        after = Held.of(studio)
        if (after.files <= before.files and after.threads <= before.threads) or time.monotonic() > deadline:
            return after
        time.sleep(0.5)


def assert_right(ends: Counter[tuple[str, str]]) -> None:
    """A job that is taken back is gone, or was running already and is cancelled."""
    allowed = {
        "good": {"execution_success"},
        "rejected": {"rejected"},
        "failing": {"execution_error"},
        "interrupted": {"execution_interrupted"},
        "deleted": {"gone", "cancelled"},
        "cancelled": {"gone", "cancelled"},
    }
    assert ends.total() == CLIENTS * sum(SHARE.values()) == 100
    assert {(kind, end) for kind, end in ends if end not in allowed[kind]} == set(), ends
    assert {kind: sum(n for (k, _), n in ends.items() if k == kind) for kind in SHARE} == {
        kind: CLIENTS * count for kind, count in SHARE.items()
    }
    assert any(end == "gone" for _, end in ends), "none was cancelled while it waited"


def unfinished(server: Server) -> set[Path]:
    """Parts and drafts of results, and folders with nothing in them."""
    return {
        path
        for path in server.output.rglob("*")
        if path.name.startswith(".") or path.suffix == ".tmp" or (path.is_dir() and not any(path.iterdir()))
    }
