"""What the caches of steps share: which steps may be skipped, a slot for each evaluation, and what is told of it.

From one step to the next a model says nearly the same. A cache keeps something of an evaluation and makes do with it
in later steps, until too much has changed.

One evaluation of a step decides for all branches: the first, which is the positive prompt's, or that of both prompts as
one batch. Guidance lives on the difference of two branches, where one that is fresh beside one that is kept would show,
times the weight. So do EasyCache's authors (``EasyCache4Wan2.2``) and TeaCache's for HunyuanVideo, whose two prompts
are one batch; diffusers' First Block Cache lets each branch decide for itself. So it is with the two sides of an edit,
which lives on their difference too. Parts of the frames and a solver's two evaluations in a step decide for themselves.

A run that goes on in another process needs all of this. What is kept of a long video is large, and so is a checkpoint
then; it is copied to the computer's memory, so that nothing more is held on the device.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Generic, TypeVar

import torch

from hyvideo_core.configs import DiTConfig
from hyvideo_core.model.blocks import Stream
from hyvideo_core.model.dit import DiT
from hyvideo_core.model.layers import token_chunks
from hyvideo_core.sample.seams import BranchNote, CacheNote, Evaluation, Extension, Predict, Run
from hyvideo_core.types import Conditioning

#: Where a cache may be kept: "model" is the model's device.
DEVICES = ("model", "cpu")
#: Before the name of a side, in what is remembered of a run: the number of the set of extensions that act there.
AROUND = "around"


@dataclass
class Slot:
    """What is kept of an evaluation for the next one of its key.

    ``last`` is that evaluation, whether it was skipped or not; ``is_filled`` tells whether there is a result to reuse.
    What else there is are numbers, tensors and tuples of tensors, of which ``RESULTS`` are what ``StepCache.device`` is
    about.
    """

    RESULTS: ClassVar[tuple[str, ...]] = ()
    last: Evaluation
    is_filled: bool = False

    def remembered(self) -> dict[str, torch.Tensor]:
        """All of it by name, results in the computer's memory; nothing here is ever changed."""
        last, prompt = self.last, self.last.conditioning
        numbers = _packed(last.sigma, last.step, last.steps, last.token_replace)
        own = {"numbers": numbers, "x": last.x, "text": prompt.text, "pooled": prompt.pooled}
        if prompt.text_mask is not None:
            own["mask"] = prompt.text_mask
        for name in self._names():
            value = getattr(self, name)
            if isinstance(value, bool | float):
                own[name] = _packed(value)
            elif value is not None:
                parts = {f"{name}.{i}": each for i, each in enumerate(value)} if type(value) is tuple else {name: value}
                results = {key: each.to("cpu", copy=True) for key, each in parts.items() if name in self.RESULTS}
                own |= parts | results
        return own

    def recall(self, kept: Mapping[str, torch.Tensor], results_on: torch.device) -> None:
        """Bring a new slot to what was ``remembered``, but for ``last``."""
        for name in self._names():
            parts = {key: each for key, each in kept.items() if key == name or key.startswith(f"{name}.")}
            if name in self.RESULTS:
                parts = {key: each.to(results_on) for key, each in parts.items()}
            if not parts:
                setattr(self, name, None)
            elif name not in parts:
                setattr(self, name, tuple(parts[f"{name}.{i}"] for i in range(len(parts))))
            elif isinstance(getattr(self, name), bool | float):
                setattr(self, name, type(getattr(self, name))(*_unpacked(parts[name])))
            else:
                setattr(self, name, parts[name])

    def _names(self) -> list[str]:
        return [each.name for each in fields(self) if each.name != "last"]


SlotT = TypeVar("SlotT", bound=Slot)


@dataclass
class Current(Generic[SlotT]):
    """The evaluation that runs, its slot, the one of the step before, and whether it decides for others."""

    evaluation: Evaluation
    slot: SlotT
    before: Evaluation
    leads: bool


@dataclass
class Tally:
    """What was skipped of one branch: step → whether all of it was, and the work of the blocks, in elements of x."""

    steps: dict[int, bool] = field(default_factory=dict)
    work: float = 0.0
    saved: float = 0.0


class CacheState(Generic[SlotT]):
    """The slots of one run, with ``new_slot`` to make one; gone when the run ends."""

    def __init__(self, run: Run, new_slot: Callable[[Evaluation], SlotT]) -> None:
        self.dit = run.dit
        self.slots: dict[tuple[str, int, tuple[int, ...]], SlotT] = {}
        self.tallies: dict[str, Tally] = {}
        self._new_slot = new_slot
        self._current: Current[SlotT] | None = None
        self._compositions = 0
        #: The number of the composition that the slots of each side were filled in.
        self._around: dict[str, int] = {}
        self._step = -1
        #: Whether evaluations are skipped in this step, by stage and part.
        self._decisions: dict[tuple[int, tuple[int, ...]], bool] = {}
        # Not left to the end of the last reference: an exception's traceback holds some.
        run.stack.callback(self.forget)

    @property
    def current(self) -> Current[SlotT]:
        """What runs now."""
        assert self._current is not None
        return self._current

    def composed(self) -> int:
        """A number for one more set of extensions that act together, the same in a run that goes on."""
        self._compositions += 1
        return self._compositions

    def enter(self, evaluation: Evaluation, composition: int) -> Current[SlotT]:
        """Begin an evaluation. ``composition`` is the number of the set of extensions that act in it."""
        side = evaluation.side
        if self._around.get(side) != composition:
            # With other extensions around them, blocks say something else than what is kept.
            self.slots = {key: each for key, each in self.slots.items() if each.last.side != side}
            self._around[side] = composition
        if evaluation.step != self._step:
            self._step = evaluation.step
            self._decisions.clear()
        slot = self.slots.get(evaluation.key)
        # A key that is new will take the place of another: what may still come in this step is not waited for.
        oldest = evaluation.step if slot is None else evaluation.step - 1
        if slot is None or not _follows(evaluation, slot.last):
            slot = self._new_slot(evaluation)
        before, slot.last = slot.last, evaluation
        self.slots[evaluation.key] = slot
        self.slots = {key: each for key, each in self.slots.items() if each.last.step >= oldest}
        place = evaluation.stage, evaluation.part
        leads = place not in self._decisions
        self._decisions.setdefault(place, False)
        self._current = Current(evaluation, slot, before, leads)
        return self._current

    def skips(self, decide: Callable[[], bool]) -> bool:
        """Whether the evaluation that runs is skipped; ``decide`` is asked where it leads."""
        current = self.current
        place = current.evaluation.stage, current.evaluation.part
        if current.leads:
            self._decisions[place] = decide()
        # What others have kept is as new: they were computed with the one that decides, or are gone from the slots.
        return self._decisions[place] and current.slot.is_filled

    def count(self, saved_share: float) -> None:
        """Note that ``saved_share`` (0–1) of the blocks' work in this evaluation was saved."""
        evaluation = self.current.evaluation
        tally = self.tallies.setdefault(evaluation.key[0], Tally())
        tally.steps[evaluation.step] = tally.steps.get(evaluation.step, True) and saved_share > 0
        tally.work += evaluation.x.numel()
        tally.saved += evaluation.x.numel() * saved_share

    def remembered(self) -> dict[str, torch.Tensor]:
        """What later evaluations depend on."""
        kept = {f"{AROUND}/{side}": torch.tensor(number) for side, number in self._around.items()}
        for slot in self.slots.values():
            last = slot.last
            place = json.dumps([last.branch, last.side, last.stage, last.part])
            kept |= {f"{place}/{name}": each for name, each in slot.remembered().items()}
        return kept

    def recall(self, kept: Mapping[str, torch.Tensor], results_on: torch.device) -> None:
        """Go on from what was ``remembered``; tensors are on the model's device, results shall be on ``results_on``."""
        places: defaultdict[str, dict[str, torch.Tensor]] = defaultdict(dict)
        for full_name, tensor in kept.items():
            place, _, name = full_name.rpartition("/")
            if place == AROUND:
                self._around[name] = int(tensor)
            else:
                places[place][name] = tensor
        for place, own in places.items():
            slot = self._new_slot(_evaluation(place, own))
            slot.recall(own, results_on)
            self.slots[slot.last.key] = slot

    def forget(self) -> None:
        """Give back all that is kept."""
        self.slots.clear()
        self._decisions.clear()
        self._current = None


@dataclass(frozen=True)
class StepCache(Extension):
    """Base of the caches. The first ``warm_up`` and the ``last`` steps of a run are always computed.

    ``threshold`` is how much may change until blocks run again; at 0 nothing is skipped or touched. ``device``, one of
    ``DEVICES``, is where results are kept. A batch is skipped as a whole. Whatever was evaluated under other
    circumstances is not reused: another shape, prompt, part of the frames or set of active extensions. So nothing is
    ever skipped where each step evaluates other parts (context windows that move, seamless loops).
    """

    #: Inside of whatever changes what is evaluated, so that x is what the transformer embeds; outside of what brings
    #: weights to blocks, which skipped ones then do not cost.
    rank: ClassVar[int] = 900
    name: ClassVar[str]
    threshold: float = 0.0
    warm_up: int = 1
    last: int = 1
    device: str = "model"
    #: Hears at the end of a run which share (0–1) of the blocks' work was saved.
    saved: Callable[[float], None] = field(default=lambda share: None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise ValueError(f"threshold is {self.threshold}, but must be 0 (off) or a positive number.")
        if self.warm_up < 1:
            raise ValueError(
                f"warm_up is {self.warm_up}, but must be 1 or more: the first step has nothing to make do with."
            )
        if self.last < 0:
            raise ValueError(f"last is {self.last}, but must be 0 or more; 1 is usual.")
        if self.device not in DEVICES:
            raise ValueError(f"device is '{self.device}', but must be one of {', '.join(DEVICES)}.")

    def may_skip(self, step: int, steps: int) -> bool:
        """Whether step number ``step`` (from 0) of ``steps`` is one that may be skipped."""
        return self.warm_up <= step < steps - self.last and self.when.contains(step, steps)

    def keeps(self, evaluation: Evaluation) -> bool:
        """Whether there is a use for the result of an evaluation."""
        return self.may_skip(evaluation.step + 1, evaluation.steps)

    def kept_on(self, tensor: torch.Tensor) -> torch.device:
        """Where results are kept if ``tensor`` is on the model's device."""
        return tensor.device if self.device == "model" else torch.device(self.device)

    def cache_bytes(
        self, config: DiTConfig, latent_shape: tuple[int, ...], dtype_bytes: int, branches: int = 1, turns: int = 1
    ) -> int:
        """Most bytes that are kept on ``device`` while blocks run.

        For evaluations of a latent [B, C, T, H, W], ``turns`` of each of ``branches`` in a step: windows, times the
        evaluations of the solver. Both prompts as one batch are one branch of twice the batch.
        """
        raise NotImplementedError

    def wrap_predict(self, inner: Predict, state: Any) -> Predict:
        """Note what is evaluated, for the wraps further in."""
        if not self.threshold:
            return inner
        composition = state.composed()

        def predict(evaluation: Evaluation) -> torch.Tensor:
            state.enter(evaluation, composition)
            return inner(evaluation)

        return predict

    def keep(self, state: Any) -> Mapping[str, torch.Tensor]:
        """All that is kept of evaluations."""
        cache: CacheState[Slot] = state
        return cache.remembered()

    def restore(self, state: Any, kept: Mapping[str, torch.Tensor]) -> None:
        """Go on with it."""
        cache: CacheState[Slot] = state
        cache.recall(kept, self.kept_on(torch.empty(0, device=cache.dit.device)))

    def note(self, state: Any) -> CacheNote | None:
        """Steps skipped of those it was active in, of each branch, and the share (0–1) of the blocks' work."""
        tallies: dict[str, Tally] = state.tallies
        if not tallies:
            return None
        branches = [BranchNote(name, sum(each.steps.values()), len(each.steps)) for name, each in tallies.items()]
        return CacheNote(self.name, tuple(branches), _saved_share(tallies))

    def report(self, state: Any) -> str:
        """The same of the whole run, in one line; ``saved`` hears the share."""
        note = self.note(state)
        if note is None:
            return ""
        self.saved(note.saved_share)
        counts = [f"{each.skipped} of {each.steps} steps of {each.name}" for each in note.branches]
        return f"{self.name} skipped {', '.join(counts)}: {note.saved_share:.0%} of the blocks' work."


def _saved_share(tallies: Mapping[str, Tally]) -> float:
    """The share (0–1) of the blocks' work that was saved in all branches together."""
    return sum(each.saved for each in tallies.values()) / sum(each.work for each in tallies.values())


def embedded(dit: DiT, x: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """The video tokens [B, l, D] that blocks begin with for x, a latent frame at a time, and their places.

    Embedding again costs next to nothing beside the blocks, and x takes a 24th of the memory of its tokens, so these
    need not be kept.
    """
    start = 0
    for frame in x.split(dit.config.patch_size[0], dim=2):
        tokens = dit.img_in(frame)
        yield slice(start, start + tokens.shape[1]), tokens
        start += tokens.shape[1]


def add_kept(stream: Stream, kept: torch.Tensor) -> None:
    """Add what was kept [B, L, D], on any device, to the video tokens, in place."""
    for at in token_chunks(stream.video_tokens, stream.chunk_tokens):
        stream.video[:, at].add_(kept[:, at].to(stream.tokens.device))


def relative_change(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Mean of |now − before| over that of |before|, of all (now, before) together; infinite if there was nothing."""
    sums = [torch.stack([each.abs().sum(dtype=torch.float32) for each in (now - then, then)]) for now, then in pairs]
    changed, size = torch.stack(sums).sum(dim=0).tolist() if sums else (0.0, 0.0)
    return changed / size if size else math.inf


def residual_bytes(config: DiTConfig, latent_shape: tuple[int, ...], dtype_bytes: int) -> int:
    """Bytes of the video tokens of a latent [B, C, T, H, W]."""
    batch = latent_shape[0]
    patches = (size // patch for size, patch in zip(latent_shape[2:], config.patch_size, strict=True))
    return batch * math.prod(patches) * config.hidden_size * dtype_bytes


def unclean(stream: Stream) -> int:
    """The first video token that is not of a given image, which does not change and for which nothing is predicted."""
    return 0 if stream.clean_vec is None else stream.clean_tokens


def _packed(*numbers: float) -> torch.Tensor:
    """Numbers to the last bit; as integers, since not every device has float64."""
    return torch.tensor(numbers, dtype=torch.float64).view(torch.int64)


def _unpacked(packed: torch.Tensor) -> list[float]:
    numbers: list[float] = packed.cpu().view(torch.float64).tolist()
    return numbers


def _evaluation(place: str, kept: Mapping[str, torch.Tensor]) -> Evaluation:
    """An evaluation as ``CacheState.remembered`` words it."""
    branch, side, stage, part = json.loads(place)
    sigma, step, steps, token_replace = _unpacked(kept["numbers"])
    return Evaluation(
        x=kept["x"],
        sigma=sigma,
        step=int(step),
        steps=int(steps),
        conditioning=Conditioning(kept["text"], kept["pooled"], kept.get("mask")),
        branch=branch,
        token_replace=bool(token_replace),
        stage=stage,
        part=tuple(part),
        side=side,
    )


def _follows(evaluation: Evaluation, before: Evaluation) -> bool:
    """Whether an evaluation differs from another of its key by its latent and noise level only."""
    return (
        evaluation.x.shape == before.x.shape
        and evaluation.token_replace == before.token_replace
        and _is_same(evaluation.conditioning, before.conditioning)
    )


def _is_same(one: Conditioning, other: Conditioning) -> bool:
    if one is other:
        return True
    pairs = ((one.text, other.text), (one.pooled, other.pooled), (one.text_mask, other.text_mask))
    return all(
        a is b or (a is not None and b is not None and a.shape == b.shape and torch.equal(a, b)) for a, b in pairs
    )
