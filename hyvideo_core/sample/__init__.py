"""From noise to a latent: schedule, solver, guidance, and the generator that runs them."""

from hyvideo_core.sample.guidance import Guidance
from hyvideo_core.sample.run import Step, sample
from hyvideo_core.sample.schedule import flow_sigmas

__all__ = ["Guidance", "Step", "flow_sigmas", "sample"]
