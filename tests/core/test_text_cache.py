"""The cache of encodings: known prompts are not encoded again, and it never gives anything but what encoding would."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dit_data import prompt, randn
from prompt_data import encoders, same

from hyvideo_core.errors import NumericsError
from hyvideo_core.text import IMAGE, VIDEO, Template, cache, custom
from hyvideo_core.text.cache import EncoderFile, EncodingCache, EncodingKey, image_digest
from hyvideo_core.text.embeddings_file import Provenance, save_conditioning
from hyvideo_core.types import Conditioning
from tools.paths import ROOT

LLM, CLIP = EncoderFile("llava.safetensors", 16_000, 5), EncoderFile("clip_l.safetensors", 400, 6)
KEY = EncodingKey("a cat", VIDEO, (LLM, CLIP), "torch.float16")
PLENTY = 10**9


class Counted:
    """An encoder that counts how often it is asked."""

    def __init__(self, conditioning: Conditioning | None = None) -> None:
        self.conditioning, self.calls = conditioning or prompt(), 0

    def __call__(self) -> Conditioning:
        self.calls += 1
        return self.conditioning


@pytest.fixture
def store(tmp_path: Path) -> EncodingCache:
    return EncodingCache(tmp_path / "encoded", PLENTY)


def entries(store: EncodingCache) -> list[Path]:
    return sorted(store.folder.iterdir()) if store.folder.exists() else []


def numbered(number: int) -> EncodingKey:
    return replace(KEY, prompt=f"prompt {number}")


def test_a_known_prompt_is_not_encoded_again_and_comes_back_to_the_last_bit(store: EncodingCache) -> None:
    masked = Conditioning(randn(2, 3, 4).half(), randn(2, 5).half(), torch.tensor([[1, 1, 1], [1, 0, 0]]))
    encode = Counted(masked)
    first, second = store.get(KEY, encode), store.get(KEY, encode)
    assert encode.calls == 1
    assert same(first, masked)
    assert same(second, masked)


def test_another_process_knows_it_too(store: EncodingCache) -> None:
    store.get(KEY, Counted())
    again = Counted()
    assert same(EncodingCache(store.folder, PLENTY).get(KEY, again), prompt())
    assert again.calls == 0


def test_what_the_encoders_give_is_the_same_with_and_without_a_cache(store: EncodingCache) -> None:
    both = encoders()
    plain = both.encode(["a red circle"], VIDEO)
    calls = both.mllm.llama.calls
    for _ in range(3):
        assert same(store.get(KEY, lambda: both.encode(["a red circle"], VIDEO)), plain)
    assert both.mllm.llama.calls == calls + 1


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, prompt="a dog"),
        replace(KEY, prompt="A cat"),
        replace(KEY, template=IMAGE),
        replace(KEY, template=replace(VIDEO, crop_start=94)),
        replace(KEY, template=replace(VIDEO, max_length=350)),
        replace(KEY, template=custom(VIDEO.text)),  # no stated crop, and another way to find it
        replace(KEY, encoders=(CLIP, LLM)),
        replace(KEY, encoders=(LLM,)),
        replace(KEY, encoders=(replace(LLM, name="other.safetensors"), CLIP)),
        replace(KEY, encoders=(replace(LLM, size_bytes=1), CLIP)),
        replace(KEY, encoders=(LLM, replace(CLIP, modified_ns=1))),
        replace(KEY, dtype="torch.bfloat16"),
        replace(KEY, weighted=True),
        replace(KEY, truncate=True),
        replace(KEY, images=("a",)),
        replace(KEY, images=("a", "b")),
        replace(KEY, images=("b", "a")),
        replace(KEY, images=("a",), reading="::4"),
    ],
    ids=repr,
)
def test_everything_that_an_encoding_depends_on_makes_another_entry(store: EncodingCache, other: EncodingKey) -> None:
    store.get(KEY, Counted())
    encode = Counted(prompt(seed=50))
    assert same(store.get(other, encode), prompt(seed=50))
    assert encode.calls == 1
    assert same(store.get(KEY, Counted(prompt(seed=60))), prompt())


@pytest.mark.parametrize("same_as", [replace(KEY, prompt=" a cat\n"), replace(KEY, template=replace(VIDEO, name="x"))])
def test_what_changes_nothing_makes_no_other_entry(store: EncodingCache, same_as: EncodingKey) -> None:
    store.get(KEY, Counted())
    encode = Counted()
    store.get(same_as, encode)
    assert encode.calls == 0


def test_a_digest_stays_the_same_from_one_version_of_python_to_the_next() -> None:
    key = EncodingKey("a cat", Template("t", "{}", 0, 351), (EncoderFile("x", 1, 2),), "torch.float16")
    assert key.digest == "9a1d5499d4c933bccb544751b7b89ba5dd0f4eec3cde23282f1597f5db07449f"


def test_the_digest_of_an_image_tells_it_from_others_of_other_values_and_sizes() -> None:
    image = randn(2, 6, 3)
    others = [image + 1e-6, image.flip(0), image.view(6, 2, 3), image.view(3, 4, 3), torch.cat((image, image))]
    digests = [image_digest(each) for each in (image, *others)]
    assert len(set(digests)) == len(digests)
    assert image_digest(image.expand(2, -1, -1, -1)[1]) == digests[0]


def test_another_version_of_encoding_knows_nothing(store: EncodingCache, monkeypatch: pytest.MonkeyPatch) -> None:
    store.get(KEY, Counted())
    monkeypatch.setattr(cache, "ENCODING_VERSION", cache.ENCODING_VERSION + 1)
    encode = Counted()
    store.get(KEY, encode)
    assert encode.calls == 1


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def of_another_prompt(path: Path) -> None:
    save_conditioning(path, prompt(seed=70), Provenance("a dog", VIDEO.text, "?"))


def with_nan(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-4] + b"\xff\xff\xff\xff")


@pytest.mark.parametrize("damage", [truncated, emptied, of_another_prompt, with_nan])
def test_a_damaged_entry_is_dropped_with_a_warning_and_encoded_anew(
    store: EncodingCache, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    store.get(KEY, Counted())
    damage(entries(store)[0])
    encode = Counted()
    assert same(store.get(KEY, encode), prompt())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "dropped and encoded anew" in caplog.text
    store.get(KEY, encode)
    assert encode.calls == 1


def test_a_damaged_entry_is_gone_even_if_it_cannot_be_encoded_anew(store: EncodingCache) -> None:
    store.get(KEY, Counted())
    truncated(entries(store)[0])

    def fails() -> Conditioning:
        assert entries(store) == []
        raise NumericsError("no")

    with pytest.raises(NumericsError, match="no"):
        store.get(KEY, fails)


def test_an_encoding_that_fails_leaves_nothing(store: EncodingCache) -> None:
    def fails() -> Conditioning:
        raise NumericsError("no")

    with pytest.raises(NumericsError, match="no"):
        store.get(KEY, fails)
    with pytest.raises(NumericsError, match="holds NaN"):
        store.get(KEY, Counted(replace(prompt(), pooled=torch.full((1, 8), torch.nan))))
    assert entries(store) == []


def size_of_entry(store: EncodingCache) -> int:
    store.get(numbered(0), Counted())
    size = entries(store)[0].stat().st_size
    entries(store)[0].unlink()
    return size


def test_entries_used_longest_ago_go_first(store: EncodingCache) -> None:
    size = size_of_entry(store)
    small = EncodingCache(store.folder, 3 * size + 2)
    for number in range(3):
        small.get(numbered(number), Counted())
        os.utime(small.folder / f"{numbered(number).digest}.safetensors", ns=(number, number))
    small.get(numbered(0), Counted())  # used just now
    small.get(numbered(3), Counted())
    kept = {number for number in range(4) if (small.folder / f"{numbered(number).digest}.safetensors").exists()}
    assert kept == {0, 2, 3}


@pytest.mark.parametrize("held", [0, 1, 2, 5])
def test_the_folder_never_outgrows_its_limit(store: EncodingCache, held: int) -> None:
    size = size_of_entry(store)
    small = EncodingCache(store.folder, held * size + size // 2)
    for number in range(8):
        assert same(small.get(numbered(number), Counted()), prompt())
        assert sum(path.stat().st_size for path in entries(small)) <= small.max_bytes
    assert len(entries(small)) == held


def test_an_entry_too_large_for_the_folder_pushes_no_other_out(store: EncodingCache) -> None:
    size = size_of_entry(store)
    small = EncodingCache(store.folder, size + 10)
    small.get(numbered(1), Counted())
    small.get(numbered(2), Counted(Conditioning(randn(1, 500, 16), randn(1, 8))))
    assert [path.stem for path in entries(small)] == [numbered(1).digest]


def test_a_limit_of_zero_remembers_nothing(tmp_path: Path) -> None:
    store, encode = EncodingCache(tmp_path / "none", 0), Counted()
    store.get(KEY, encode)
    store.get(KEY, encode)
    assert encode.calls == 2
    assert not store.folder.exists()


def test_a_limit_below_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^max_bytes is -1, but must be 0 or more"):
        EncodingCache(tmp_path, -1)


def test_nothing_but_its_own_files_is_ever_deleted(store: EncodingCache) -> None:
    size = size_of_entry(store)
    others = ["notes.txt", "model.safetensors", f"{'a' * 63}.safetensors", ".hidden.tmp", f"{KEY.digest}.txt"]
    for name in others:
        (store.folder / name).write_bytes(b"x" * 10 * size)
        os.utime(store.folder / name, ns=(0, 0))
    small = EncodingCache(store.folder, size + 10)
    for number in range(3):
        small.get(numbered(number), Counted())
    assert {path.name for path in entries(small)} == {*others, f"{numbered(2).digest}.safetensors"}


def test_what_an_ended_process_left_unfinished_goes_after_an_hour(store: EncodingCache) -> None:
    store.get(KEY, Counted())
    name = f".{KEY.digest}.safetensors.{'b' * 32}.tmp"
    left = store.folder / name
    left.write_bytes(b"half")
    store.get(numbered(1), Counted())
    assert left.exists()
    long_ago = time.time() - 2 * 3600
    os.utime(left, (long_ago, long_ago))
    store.get(numbered(2), Counted())
    assert not left.exists()


def test_a_folder_that_cannot_be_written_costs_time_and_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    store, encode = EncodingCache(tmp_path / "file" / "encoded", PLENTY), Counted()
    assert same(store.get(KEY, encode), prompt())
    assert same(store.get(KEY, encode), prompt())
    assert "is not remembered" in caplog.text


def test_a_folder_that_may_only_be_read_serves_all_the_same(
    store: EncodingCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.get(KEY, Counted())

    def forbidden(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "utime", forbidden)
    encode = Counted()
    assert same(store.get(KEY, encode), prompt())
    assert encode.calls == 0
    assert not caplog.records


def test_an_entry_that_vanishes_while_it_is_read_is_encoded_anew(
    store: EncodingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.get(KEY, Counted())
    read = Path.read_bytes

    def gone(self: Path) -> bytes:
        self.unlink()
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", gone)
    encode = Counted()
    assert same(store.get(KEY, encode), prompt())
    assert encode.calls == 1


WORKER = """
import sys, torch
from pathlib import Path
from dataclasses import replace
from hyvideo_core.text import VIDEO
from hyvideo_core.text.cache import EncodingCache, EncodingKey
from hyvideo_core.types import Conditioning
store = EncodingCache(Path(sys.argv[1]), int(sys.argv[2]))
for turn in range(3):
    for number in range(12):
        key = EncodingKey(str(number), VIDEO, (), "x")
        expected = Conditioning(torch.full((1, 50, 64), float(number)), torch.full((1, 8), float(number)))
        found = store.get(key, lambda: expected)
        assert torch.equal(found.text, expected.text) and torch.equal(found.pooled, expected.pooled), number
"""


def test_two_processes_may_use_one_folder_at_once(tmp_path: Path) -> None:
    # Room for five entries of twelve, so that both delete all the time.
    limit = 5 * 14_500
    command = [sys.executable, "-c", WORKER, str(tmp_path), str(limit)]
    running = [
        subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        for _ in range(2)
    ]
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert "dropped" not in errors
    left = list(tmp_path.iterdir())
    assert 0 < sum(path.stat().st_size for path in left) <= limit
    assert not [path for path in left if path.suffix == ".tmp"]
