"""From noise to a latent: schedule, solver, guidance, and the generator that runs them."""

from hyvideo_core.sample.guidance import Guidance
from hyvideo_core.sample.run import Step, sample
from hyvideo_core.sample.schedule import flow_sigmas
from hyvideo_core.sample.solvers import SOLVERS, Solver

__all__ = ["SOLVERS", "Guidance", "Solver", "Step", "flow_sigmas", "sample"]
