"""The whole report, and what it says of videos here."""

from __future__ import annotations

from tools.doctor.devices import report_devices, report_kernels
from tools.doctor.files import missing_kinds, report_demo, report_models
from tools.doctor.lines import BAD, GOOD, dev_command, say, section
from tools.doctor.memory import report_memory
from tools.doctor.software import missing_torch, report_comfyui, report_software


def run() -> int:
    """Print the report; 0 if a first video is possible here, 1 otherwise."""
    host = section("ComfyUI", report_comfyui)
    software = section("Software", lambda: report_software(host))
    without = missing_torch()
    section("Devices", report_devices, without)
    kernels = section("Kernels", report_kernels, without)
    found = section("Model files", lambda: report_models(host)) or []
    fits = section("Memory", lambda: report_memory(found), without)
    demo = section("Demo model", report_demo)
    print("\nVerdict")
    return verdict(bool(host and software and kernels), not missing_kinds(found), bool(fits), bool(demo))


def verdict(works: bool, models: bool, fits: bool, demo: bool) -> int:
    """Print what is possible and return the exit code."""
    if not works:
        say(BAD, f"No video is possible yet, see the lines marked {BAD} above")
        return 1
    problems = [text for text, good in (("files are missing", models), ("no GPU has enough memory", fits)) if not good]
    found = f"not possible here, since {' and '.join(problems)}, see above" if problems else "possible"
    say(BAD if problems else GOOD, f"Videos with the real model: {found}")
    state = "possible; " + dev_command("demo") if demo else "not possible: download the pack again"
    say(GOOD if demo else BAD, f"Videos with the small model of the pack: {state}")
    return 0 if demo or not problems else 1
