"""What works on this machine, what is missing, and where to get it. Looks only; installs and changes nothing."""

from tools.doctor.command import run

__all__ = ["run"]
