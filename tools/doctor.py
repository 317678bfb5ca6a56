"""What works on this machine, what is missing, and where to get it. Looks only; installs and changes nothing."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools import comfyui, environment, model_files
from tools.console import ToolError
from tools.demo_model import files as demo_files
from tools.model_files import Found
from tools.paths import HOST_BASE, ROOT

if TYPE_CHECKING:
    import torch

    from hyvideo_core.sampling_plan import SamplingPlan
    from hyvideo_core.weights import TransformerFile

GOOD, BAD, INFO = "✓", "✗", "·"
PACKAGES = ("torch", "transformers", "safetensors", "imageio-ffmpeg", "av", "comfyui-frontend-package")
REQUIRED = ("torch", "transformers", "safetensors", "imageio-ffmpeg")
#: By the names under which they are imported; each helps and none is needed.
OPTIONAL = {
    "gguf": " (for GGUF files only)",
    "triton": "",
    "sageattention": "",
    "flash_attn": "",
    "flash_attn_interface": "",
}
WIDTH = 74
GB = 10**9
#: Of the transformer.
HEAD_DIM = 128
#: Width, height and frames: the model's own sizes, a small video, an image.
SIZES = ((1280, 720, 129), (960, 544, 129), (512, 320, 61), (1280, 720, 1))
#: The first video that the README leads to.
FIRST_VIDEO = (960, 544, 129)
#: What ComfyUI leaves to other programs. Source: ComfyUI ``comfy/model_management.py`` ``EXTRA_RESERVED_VRAM``.
RESERVED_BYTES = (700 if os.name == "nt" else 400) * 2**20
#: Bytes of the dtypes in which the nodes compute on a GPU: bfloat16 in the transformer, float16 in the VAE.
DTYPE_BYTES = 2
LONGEST_REASON = 100


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


def dev_command(name: str) -> str:
    """The words that tell the user to run one of ``dev.py``'s commands."""
    script = Path("tools") / "dev.py"
    return f"run: {environment.this_python()} {script if Path.cwd() == ROOT else ROOT / script} {name}"


def missing_torch() -> str:
    """Why nothing that needs torch can be examined; empty if it can."""
    if installed_version("torch") is None:
        return "torch is missing"
    return "torch cannot be imported" if import_problem("torch") else ""


def say(sign: str, text: str, *more: str) -> None:
    """One line of the report, and what belongs to it on lines below."""
    print(f"  {sign} {text}", *(f"    {line}" for line in more), sep="\n")


def say_wrapped(sign: str, text: str) -> None:
    """Something long, on as many lines as it takes."""
    say(sign, *textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False))


def say_list(sign: str, items: Sequence[str]) -> None:
    """Several items on as many lines as they take, none of them broken."""
    if items:
        lines = textwrap.wrap(", ".join(item.replace(" ", "\0") for item in items), WIDTH, break_on_hyphens=False)
        say(sign, *(line.replace("\0", " ") for line in lines))


def section(name: str, report: Callable[[], Any], without: str = "") -> Any:
    """Run one part of the report and return its result; None from a part that cannot run or fails, after saying why."""
    print(f"\n{name}")
    if without:
        say(INFO, f"not examined: {without}")
        return None
    try:
        return report()
    except ToolError as error:
        say(BAD, str(error))
    except Exception as error:  # a doctor must survive every broken installation it looks at
        say(BAD, f"{type(error).__name__}: {error}")
    return None


def report_comfyui() -> Path | None:
    """Which ComfyUI is used."""
    host = comfyui.locate()
    if host is None:
        say(BAD, f"none found; {dev_command('demo')} (or set {comfyui.VARIABLE} to the folder of yours)")
        return None
    say(GOOD, f"ComfyUI {comfyui.version(host)} in {host}")
    return host


def report_software(host: Path | None) -> bool:
    """Versions of system and packages; False if a needed one is missing."""
    say(INFO, f"{platform.platform()}, {os.cpu_count()} CPUs")
    say(INFO, f"Python {platform.python_version()} ({sys.executable}), {whose_python()}")
    say(INFO, f"HyVideo Studio {pack_version()}")
    missing = [name for name in REQUIRED if installed_version(name) is None]
    say_list(INFO, [f"{name} {version}" for name in PACKAGES if (version := installed_version(name))])
    for name in [name for name in PACKAGES if installed_version(name) is None]:
        say(BAD if name in missing else INFO, f"{name} is not installed")
    say_list(INFO, [f"{name} {module_version(name) or 'absent'}{use}" for name, use in OPTIONAL.items()])
    broken = [name for name in ("torch", "torchvision", "torchaudio", "transformers") if installed_version(name)]
    broken = [f"{name} cannot be imported: {problem}" for name in broken if (problem := import_problem(name))]
    for text in broken:
        say(BAD, text)
    if missing:
        say(INFO, f"for what is missing, {software_remedy(missing, host)}")
    return not missing and not broken


def whose_python() -> str:
    """What the Python that is examined is for, in words."""
    if environment.inside_venv():
        other = "; to examine your ComfyUI's, start the doctor with that" if comfyui.is_users_own() else ""
        return f"that of this clone's demo, test and serve{other}"
    if comfyui.is_users_own():
        return "which must be the one that runs ComfyUI"
    return "examined since this clone has no environment of its own yet"


def software_remedy(missing: Sequence[str], host: Path | None) -> str:
    """How to get packages: into the user's ComfyUI by pip, into the clone by its own command."""
    if environment.inside_venv() or host is None or not comfyui.is_users_own():
        return dev_command("demo")
    if "torch" in missing:
        return "start the doctor with the Python that runs ComfyUI: it has torch, so this one is another"
    owners = {ROOT if name == "imageio-ffmpeg" else host for name in missing}
    files = " ".join(f"-r {owner / 'requirements.txt'}" for owner in sorted(owners))
    return f"run: {environment.this_python()} -m pip install {files}"


def pack_version() -> str:
    """This clone's version as pyproject.toml has it."""
    for line in (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines():
        if line.startswith("version"):
            return line.split("=", 1)[1].strip().strip('"')
    return "of unknown version"


def installed_version(name: str) -> str | None:
    """A package's version, None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def module_version(name: str) -> str | None:
    """The version of the package that a module comes with, whatever that is called; None without the module."""
    if importlib.util.find_spec(name) is None:
        return None
    package = next(iter(importlib.metadata.packages_distributions().get(name, ())), None)
    return (package and installed_version(package)) or "of unknown version"


def import_problem(name: str) -> str:
    """Why a package cannot be imported; empty if it can."""
    try:
        importlib.import_module(name)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def report_devices() -> None:
    """Every GPU with its total and free memory, and the RAM."""
    import torch

    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        say(GOOD, f"GPU {index}: {name}, {total / GB:.1f} GB, {free / GB:.1f} GB free")
    if torch.backends.mps.is_available():
        say(GOOD, "Apple GPU (MPS)")
    elif not torch.cuda.is_available():
        build_name = "without CUDA" if torch.version.cuda is None else f"for CUDA {torch.version.cuda}"
        say(INFO, f"no GPU that this PyTorch ({build_name}) can use: everything runs on the CPU, slowly")
    if (ram := ram_bytes()) is None:
        say(INFO, "RAM: unknown (psutil is not installed)")
    else:
        say(INFO, f"RAM: {ram[0] / GB:.1f} GB, {ram[1] / GB:.1f} GB free")


def ram_bytes() -> tuple[int, int] | None:
    """The machine's memory and what of it is free; None where nobody tells."""
    try:
        import psutil
    except ImportError:
        return None
    memory = psutil.virtual_memory()
    return memory.total, memory.available


def best_device() -> torch.device:
    """The device that ComfyUI takes by default."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.xpu.is_available():
        return torch.device("xpu")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def report_kernels() -> bool:
    """Which kernels give right results here, and which one auto means; False if none for attention does."""
    import torch

    from hyvideo_core import attention
    from hyvideo_core.model.compiling import why_not_compile
    from hyvideo_core.ops import fp8

    device = best_device()
    kernels = attention.available(device, torch.bfloat16, HEAD_DIM)
    good = [kernel.name for kernel in kernels if kernel.ok]
    if good:
        auto = attention.choose(device, torch.bfloat16, HEAD_DIM)
        say(GOOD, f"attention on {device}: {', '.join(good)}; auto is {auto}")
    faults: dict[tuple[bool, str], list[str]] = {}
    for kernel in kernels:
        if not kernel.ok:
            faults.setdefault((kernel.wrong, kernel.reason), []).append(kernel.name)
    for (wrong, reason), names in faults.items():
        say_wrapped(BAD if wrong else INFO, f"not {', '.join(names)}: {shortened(reason)}")
    say_whether("torch.compile", why_not_compile(device))
    say_whether("fp8_products fast", fp8.why_not_fast(device))
    return bool(good)


def say_whether(what: str, why_not: str) -> None:
    """One line on something optional: that it works, or why not."""
    say_wrapped(INFO if why_not else GOOD, f"{what}: {shortened(why_not) or 'works'}")


def shortened(reason: str) -> str:
    """The beginning of what may be a long message of someone else's."""
    return textwrap.shorten(reason, LONGEST_REASON, placeholder=" …")


def report_memory(found: Sequence[Found]) -> bool:
    """How each size would be made in the memory that is free now; True if the first video fits, decoding included."""
    free, ram = free_gpu_bytes(), ram_bytes()
    if free is None:
        say(BAD, "there is no GPU, and a CPU is far too slow for the real model")
        say(INFO, "what a GPU would need: from streaming all blocks to holding them")
    else:
        say(INFO, f"{free / GB:.1f} GB of GPU 0 are free now, besides what ComfyUI reserves; predicted peaks:")
    fits = False
    for name, file in transformers(found).items():
        fits |= report_sampling(name, file, free, ram and ram[0])
    return report_decoding(free) and fits


def transformers(found: Sequence[Found]) -> Mapping[str, TransformerFile]:
    """The largest and the smallest transformer by what they take; of none, what is published in bf16 and fp8."""
    from hyvideo_core.weights import inspect_dit

    files = {file.path.name: inspect_dit(file.path) for file in found if file.kind == "transformer" and file.usable}
    if not files:
        return {"published bf16 file": published("bfloat16", 2), "published fp8 file": published("float8_e4m3fn", 1)}
    by_size = sorted(files, key=lambda name: sum(files[name].block_bytes))
    return {name: files[name] for name in dict.fromkeys((by_size[-1], by_size[0]))}


def published(stored: str, bytes_each: int) -> TransformerFile:
    """The official model as a file that holds its blocks so."""
    import torch

    from hyvideo_core.configs import HUNYUAN_VIDEO
    from hyvideo_core.model import DiT
    from hyvideo_core.weights import TransformerFile

    with torch.device("meta"):
        dit = DiT(HUNYUAN_VIDEO)
    blocks = tuple(sum(p.numel() for p in block.parameters()) for block in (*dit.double_blocks, *dit.single_blocks))
    others = sum(p.numel() for p in dit.parameters()) - sum(blocks)
    return TransformerFile(HUNYUAN_VIDEO, stored, tuple(bytes_each * count for count in blocks), blocks, others)


def report_sampling(name: str, file: TransformerFile, free: int | None, ram: int | None) -> bool:
    """The plan for each size; True if the first video fits."""
    from hyvideo_core.errors import DoesNotFitError
    from hyvideo_core.sampling_plan import plan_sampling, weights_of

    weights = weights_of(file, "auto", DTYPE_BYTES)
    say(INFO, f"sampling with {name}, {weights.total_bytes / GB:.1f} GB of weights:")
    fitting, streams = [], False
    for size in SIZES:
        shape = (1, file.config.out_channels, *latent_size(size))
        # Without a limit everything is on the GPU; from there down to the least.
        most = least = plan_sampling(file.config, weights, shape, DTYPE_BYTES, 2**62)
        while (lower := least.lowered()) is not None:
            least = lower
        if free is None:
            say_size(INFO, size, f"{least.peak_bytes / GB:.1f} to {most.peak_bytes / GB:.1f} GB")
            continue
        try:
            plan = plan_sampling(file.config, weights, shape, DTYPE_BYTES, free)
        except DoesNotFitError:
            say_size(BAD, size, f"does not fit: needs {least.peak_bytes / GB:.1f} GB")
            continue
        say_size(GOOD, size, f"{plan.peak_bytes / GB:.1f} GB, {placement(plan)}")
        fitting.append(size)
        streams |= plan.streamed_bytes > 0
    if streams and ram is not None and ram < weights.total_bytes:
        say(BAD, f"RAM has {ram / GB:.1f} GB, less than the weights: they would come from disk in each step")
    return FIRST_VIDEO in fitting


def placement(plan: SamplingPlan) -> str:
    """Where a plan has the blocks, and whether that costs time."""
    if plan.resident_blocks == plan.blocks:
        return f"all {plan.blocks} blocks on the GPU"
    effect = "slowing it down" if plan.transfer_s > plan.compute_s else "unnoticed"
    return f"{plan.resident_blocks} of {plan.blocks} blocks on the GPU, rest streams {effect}"


def report_decoding(free: int | None) -> bool:
    """The tiles for each size, or all that might be chosen without a GPU; True if the first video fits."""
    import torch

    from hyvideo_core.configs import HUNYUAN_VIDEO_VAE
    from hyvideo_core.decoding_plan import choose_tiling, tilings, vae_activation_bytes
    from hyvideo_core.errors import GeometryError
    from hyvideo_core.vae import VAE

    with torch.device("meta"):
        weights = sum(p.numel() for p in VAE(HUNYUAN_VIDEO_VAE).parameters()) * DTYPE_BYTES
    say(INFO, f"decoding, {weights / GB:.1f} GB of weights:")
    fitting = []
    for size in SIZES:
        latent = latent_size(size)
        needs = {
            tiling: weights + vae_activation_bytes(latent, tiling.tile_size_px, tiling.tile_frames, DTYPE_BYTES)
            for tiling in tilings(HUNYUAN_VIDEO_VAE)
        }
        if free is None:
            say_size(INFO, size, f"{min(needs.values()) / GB:.1f} to {max(needs.values()) / GB:.1f} GB")
            continue
        try:
            tiling = choose_tiling(HUNYUAN_VIDEO_VAE, latent, DTYPE_BYTES, free - weights)
        except GeometryError:
            say_size(BAD, size, f"does not fit: needs {min(needs.values()) / GB:.1f} GB")
            continue
        tiles = f"tiles of {tiling.tile_size_px} px and {tiling.tile_frames} frames"
        say_size(GOOD, size, f"{needs[tiling] / GB:.1f} GB, {tiles}")
        fitting.append(size)
    return FIRST_VIDEO in fitting


def say_size(sign: str, size: tuple[int, int, int], text: str) -> None:
    """One row of a table by sizes."""
    say(" ", f"{sign} {'×'.join(map(str, size)):<13}{text}")


def latent_size(size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Frames, height and width of the latent."""
    from hyvideo_core.types import Geometry

    return Geometry(*size).latent_shape


def free_gpu_bytes() -> int | None:
    """What models may take of the GPU that ComfyUI takes by default; None without one."""
    import torch

    device = best_device()
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(0)[0]
    elif device.type == "xpu":
        free = torch.xpu.mem_get_info(0)[0]
    elif device.type == "mps":
        free = torch.mps.recommended_max_memory()
    else:
        return None
    return int(free) - RESERVED_BYTES


def report_models(host: Path | None) -> list[Found]:
    """The files found and the parts still missing."""
    ours = HOST_BASE / "models"
    known = model_files.comfyui_folders(host) if host else {}
    folders = [folder for name in model_files.FOLDERS for folder in (*known.get(name, ()), ours / name)]
    pipelines = [models / model_files.PIPELINES for models in (ours, *([host / "models"] if host else []))]
    try:
        describe = model_files.loaders()
    except Exception as error:  # a broken package may raise anything at import
        say(INFO, f"told by the names inside alone, since the loaders cannot run here ({error})")
        describe = None
    found = model_files.scan(model_files.existing(folders), describe, model_files.existing(pipelines))
    for file in found:
        sign = GOOD if file.usable else BAD if file.note.startswith("damaged") else INFO
        say(sign, f"{file.kind or 'file'}: {file.path}", *textwrap.wrap(file.note, WIDTH))
    loras = [*known.get(model_files.LORAS, ()), ours / model_files.LORAS]
    say(INFO, f"LoRAs: {model_files.count_loras(model_files.existing(loras))} files")
    target = (HOST_BASE if host == comfyui.HOST_COMFYUI else host or HOST_BASE) / "models"
    for kind in missing_kinds(found):
        repository, name, folder = model_files.SOURCES[kind]
        where = [f"from https://huggingface.co/{repository}", f"into {target / folder}"]
        say(BAD, f"{kind} is missing: {name}", *where, *model_files.ALTERNATIVES.get(kind, ()))
    return found


def missing_kinds(found: Sequence[Found]) -> list[str]:
    """The parts of which no file was found."""
    present = {file.kind for file in found if file.usable}
    return [kind for kind in model_files.KINDS if kind not in present]


def report_demo() -> bool:
    """Whether every file of the small model that comes with the pack is there and whole."""
    problems = {file: model_files.damage(file) for file in demo_files.ALL}
    for file, problem in problems.items():
        say(BAD if problem else GOOD, f"{file}{problem and f': {problem}'}")
    return not any(problems.values())
