"""Any published layout of the transformer on the real server, and what may be done to a model: LoRA, memory, plan."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import jobs
import pytest
import torch
from safetensors.torch import load_file

from hyvideo_core.ops import fp8
from tools.paths import TOY_MODELS
from tools.toy_model import build

WEIGHTS = TOY_MODELS / "diffusion_models" / jobs.MODEL
LORA_LAYER = "double_blocks.1.img_attn_qkv"


@pytest.fixture(scope="module")
def weights():
    return load_file(WEIGHTS)


def rel(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def is_block_weight(name: str, tensor: torch.Tensor) -> bool:
    return name.startswith(("double_blocks.", "single_blocks.")) and tensor.ndim == 2


def model_of(studio, **inputs):
    return studio.latent({f"model.{name}": value for name, value in inputs.items()})


def with_node(kind: str, **inputs):
    """The usual job with one more node between loader and sampler."""
    job = jobs.text_to_latent()
    job["extra"] = jobs.node(kind, model=["model", 0], **inputs)
    job["sampler"]["inputs"]["model"] = ["extra", 0]
    return job


# --- layouts --------------------------------------------------------------------------------------------------


def test_scaled_fp8_is_close_to_bf16(studio, place, weights):
    tensors = dict(weights)
    for name, tensor in weights.items():
        if is_block_weight(name, tensor):
            packed = fp8.quantized(tensor, per_channel=False)
            tensors |= {name: packed.data, name.replace("weight", "scale_weight"): packed.scale}
    place("diffusion_models/scaled.safetensors", tensors | {"scaled_fp8": torch.zeros(2)})
    expected = studio.latent()
    assert 0 < rel(model_of(studio, model="scaled.safetensors"), expected) < 0.05


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "BF16"])
def test_gguf_is_listed_and_runs(studio, place, weights, kind):
    import gguf

    quant = gguf.GGMLQuantizationType[kind]
    path = place(f"diffusion_models/demo-{kind}.gguf", b"")
    writer = gguf.GGUFWriter(path, "hyvid")
    for name, tensor in weights.items():
        if is_block_weight(name, tensor):
            data = gguf.quants.quantize(tensor.float().numpy(), quant)
            writer.add_tensor(name, data, raw_dtype=quant)
        else:
            writer.add_tensor(name, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert path.name in studio.client.object_info()["HyvLoadModel"]["input"]["required"]["model"][1]["options"]
    distance = rel(model_of(studio, model=path.name), studio.latent())
    assert distance == 0 if kind == "BF16" else 0 < distance < {"Q8_0": 0.03, "Q4_0": 0.4}[kind]


@pytest.mark.parametrize("storage", ["fp8", "fp8_tensor"])
@pytest.mark.parametrize("products", ["exact", "fast"])
def test_weights_are_quantised_on_load_by_choice(studio, storage, products):
    distance = rel(model_of(studio, storage=storage, fp8_products=products), studio.latent())
    assert 0 < distance < 0.1


def test_fast_products_without_fp8_weights_are_an_error(studio):
    message = studio.failure(jobs.text_to_latent({"model.fp8_products": "fast"}))
    assert "fp8" in message
    assert "storage" in message


def test_a_diffusers_folder_is_listed(studio, server):
    folder = server.base / "models" / "diffusion_models" / "HunyuanVideo" / "transformer"
    folder.mkdir(parents=True)
    try:
        (folder / "config.json").write_text(json.dumps({"_class_name": "HunyuanVideoTransformer3DModel"}))
        options = studio.client.object_info()["HyvLoadModel"]["input"]["required"]["model"][1]["options"]
        assert "HunyuanVideo/transformer" in options
        message = studio.failure(jobs.text_to_latent({"model.model": "HunyuanVideo/transformer"}))
        assert "lacks its .safetensors" in message
    finally:
        (folder / "config.json").unlink()
        folder.rmdir()
        folder.parent.rmdir()


@pytest.mark.parametrize(
    ("channels", "kind", "words"),
    [
        (33, "auto", "image-to-video (latent_concat)"),
        (32, "auto", "SkyReels image-to-video"),
        (16, "image-to-video (token_replace)", "image-to-video (token_replace)"),
        (16, "SkyReels image-to-video", "takes 16 input channels"),
        (20, "auto", "takes 20 input channels"),
    ],
)
def test_other_kinds_are_recognised_before_anything_is_read(studio, place, weights, channels, kind, words):
    wide = torch.zeros(256, channels, 1, 2, 2, dtype=torch.bfloat16)
    place("diffusion_models/kind.safetensors", weights | {"img_in.proj.weight": wide})
    reads = studio.server.log.read_text("utf-8", "replace").count("reading the weights of HyVideo transformer")
    message = studio.failure(jobs.text_to_latent({"model.model": "kind.safetensors", "model.kind": kind}))
    assert words in message
    # One reading belongs to the job that follows every failure.
    after = studio.server.log.read_text("utf-8", "replace").count("reading the weights of HyVideo transformer")
    assert after - reads <= 1


# --- LoRA -----------------------------------------------------------------------------------------------------


@pytest.fixture
def lora(place, weights):
    generator = torch.Generator().manual_seed(5)
    rows, columns = weights[f"{LORA_LAYER}.weight"].shape
    tensors = {
        f"transformer.{LORA_LAYER}.lora_A.weight": torch.randn(4, columns, generator=generator) * 0.2,
        f"transformer.{LORA_LAYER}.lora_B.weight": torch.randn(rows, 4, generator=generator) * 0.2,
    }
    return place("loras/visible.safetensors", tensors)


def lora_job(strength: float, **inputs):
    return with_node("HyvLora", lora="visible.safetensors", strength=strength, **inputs)


def test_a_lora_changes_the_video_and_at_zero_does_not(studio, lora):
    plain = studio.latent()
    assert torch.equal(studio.saved_latent(lora_job(0.0)), plain)
    assert torch.equal(studio.saved_latent(lora_job(1.0, blocks="double: 0")), plain)
    assert rel(studio.saved_latent(lora_job(1.0)), plain) > 0.01


def test_a_merged_lora_is_one_that_runs_beside(studio, lora):
    beside = studio.saved_latent(lora_job(1.0))
    merged = studio.saved_latent(lora_job(1.0, apply="merged"))
    assert rel(merged, beside) < 0.03
    assert torch.equal(studio.latent(), studio.latent({"model.dtype": "auto"}))


def test_a_strength_is_changed_without_reading_the_model_again(studio, lora):
    studio.saved_latent(lora_job(1.0))
    words = "reading the weights of HyVideo transformer"
    before = studio.server.log.read_text("utf-8", "replace").count(words)
    strengths = [studio.saved_latent(lora_job(strength)) for strength in (0.5, 0.25)]
    assert not torch.equal(*strengths)
    assert studio.server.log.read_text("utf-8", "replace").count(words) == before


def test_a_merged_lora_whose_file_changed_is_merged_anew(studio, lora, place):
    first = studio.saved_latent(lora_job(1.0, apply="merged"))
    tensors = {name: tensor * 2 for name, tensor in load_file(lora).items()}
    place("loras/visible.safetensors", tensors)
    assert rel(studio.saved_latent(lora_job(1.0, apply="merged")), first) > 0.01


def test_a_lora_of_another_model_and_bad_blocks_are_errors(studio, place, lora):
    place("loras/other.safetensors", {"lora_unet_blocks_0_attn.lora_down.weight": torch.zeros(4, 8)})
    job = with_node("HyvLora", lora="other.safetensors", strength=1.0)
    assert "other.safetensors" in studio.failure(job)
    assert "blocks: " in studio.failure(lora_job(1.0, blocks="double 3"))


# --- memory and plan --------------------------------------------------------------------------------------------


def test_residents_and_compiling_change_no_video(studio):
    plain = studio.latent()
    assert torch.equal(studio.saved_latent(with_node("HyvMemory", resident_blocks=3)), plain)
    compiled = studio.saved_latent(with_node("HyvMemory", resident_blocks=-1, compile_blocks=True))
    assert rel(compiled, plain) < 0.02


def test_more_residents_than_blocks_are_an_error(studio):
    assert "6 blocks" in studio.failure(with_node("HyvMemory", resident_blocks=7))


def plan_job(**inputs):
    job = {name: content for name, content in jobs.text_to_latent().items() if name in ("model", "size")}
    return job | {"plan": jobs.node("HyvPlan", model=["model", 0], latent=["size", 0], **inputs)}


def peak_gb(line: str) -> float:
    return float(line.split("predicted peak ")[1].split(" GB")[0])


def test_the_plan_is_told_without_reading_weights(studio):
    words = "reading the weights of HyVideo transformer"
    studio.release()
    before = studio.server.log.read_text("utf-8", "replace").count(words)
    (text,) = studio.run(plan_job(memory_gb=24.0))["plan"]["text"]
    assert "all 6 blocks on the device" in text
    assert "of 24.00 GB free" in text
    assert studio.server.log.read_text("utf-8", "replace").count(words) == before


def test_the_plan_counts_the_loras_the_kernel_and_the_vaes_weights(studio, place, lora):
    job = plan_job(memory_gb=24.0)
    (plain,) = studio.run(job)["plan"]["text"]
    job["lora"] = jobs.node("HyvLora", model=["model", 0], lora="visible.safetensors", strength=1.0)
    job["plan"]["inputs"]["model"] = ["lora", 0]
    (changed,) = studio.run(job)["plan"]["text"]
    assert "LoRAs 0.00" in changed
    assert "LoRAs" not in plain
    del job["lora"]
    job["plan"]["inputs"]["model"] = ["model", 0]
    job["model"]["inputs"]["attention"] = "chunked"
    (changed,) = studio.run(job)["plan"]["text"]
    assert peak_gb(changed.splitlines()[1]) > peak_gb(plain.splitlines()[1]) + 0.19
    # The full model's VAE in float16: 246 M numbers.
    assert "weights 0.49, activations" in plain
    assert peak_gb(plain.splitlines()[2]) >= 0.49


def test_the_vaes_tiles_are_planned_beside_its_weights(studio):
    message = studio.failure(plan_job(memory_gb=0.5))
    assert "The VAE needs" in message
    assert "0.0 GB are free for them" in message


def sparse_llama(path: Path) -> None:
    """A language model of Llama-3's widths with four layers: a header, and nothing on the disk behind it."""
    layer = {
        **{f"self_attn.{part}_proj": [4096, 4096] for part in "qo"},
        **{f"self_attn.{part}_proj": [1024, 4096] for part in "kv"},
        **{f"mlp.{part}_proj": [14336, 4096] for part in ("gate", "up")},
        "mlp.down_proj": [4096, 14336],
        **{f"{part}_layernorm": [4096] for part in ("input", "post_attention")},
    }
    shapes = {f"model.layers.{n}.{name}.weight": shape for n in range(4) for name, shape in layer.items()}
    header, end = {}, 0
    for name, shape in (shapes | {"model.embed_tokens.weight": [128320, 4096]}).items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + end)


def test_the_plan_tells_where_the_text_encoders_would_be(studio, place):
    sparse_llama(place("text_encoders/sparse.safetensors", b""))
    told = {}
    for memory_gb in (24.0, 2.0):
        encoders = jobs.text_to_latent({"encoders.llm": "sparse.safetensors"})["encoders"]
        job = plan_job(memory_gb=memory_gb, text_encoders=["encoders", 0]) | {"encoders": encoders}
        (told[memory_gb],) = studio.run(job)["plan"]["text"]
    assert "text encoders: 2.81 GB of weights, whole on the cpu device" in told[24.0]
    assert "text encoders: 2.81 GB of weights, layers stream to the cpu device" in told[2.0]
    assert all("VAE: tiles of 256 px" in text for text in told.values())


def test_a_plan_for_too_little_memory_says_what_is_needed(studio):
    message = studio.failure(plan_job(memory_gb=0.1))
    assert "takes at least" in message
    assert "0.10 GB are free" in message


def test_the_plan_is_in_the_log_before_sampling(studio):
    studio.latent({"sampler.seed": 77})
    log = studio.server.log.read_text("utf-8", "replace")
    assert "plan: all 6 blocks on the device" in log
    assert "predicted peak" in log


def test_the_models_folder_offers_nothing_outside_itself(studio):
    rejected = studio.rejection(jobs.text_to_latent({"model.model": "../../../etc"}))
    assert rejected["model"]["errors"][0]["type"] == "value_not_in_list"
    assert (
        Path(build.TRANSFORMER).name
        in studio.client.object_info()["HyvLoadModel"]["input"]["required"]["model"][1]["options"]
    )
