"""From noise to a latent: schedule, solver, guidance, and the generators that run, edit and invert."""

from hyvideo_core.sample.checkpoint import Checkpoint
from hyvideo_core.sample.flow_edit import Extent, Side, flow_edit
from hyvideo_core.sample.guidance import Guidance
from hyvideo_core.sample.inversion import invert
from hyvideo_core.sample.run import Step, sample
from hyvideo_core.sample.schedule import flow_sigmas
from hyvideo_core.sample.solvers import SOLVERS, Solver

__all__ = [
    "SOLVERS",
    "Checkpoint",
    "Extent",
    "Guidance",
    "Side",
    "Solver",
    "Step",
    "flow_edit",
    "flow_sigmas",
    "invert",
    "sample",
]
