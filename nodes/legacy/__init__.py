"""The nodes of ComfyUI-HunyuanVideoWrapper under their old ids, so that workflows made with them open and run.

None of them is replaced by one of ours through the host's node replacements: these copy values as they are, and no old
node has the values, or the types of sockets, of one of ours. So each is here, built from our own parts. What a
value there is here is in ``settings``, what an option of the sampler is in ``features``; the files of nodes are named
by what they are about.
"""

from __future__ import annotations

import logging

from comfy_api.latest import io

import nodes as host_nodes

from . import (
    inversion,
    load,
    model_options,
    prompt_files,
    prompt_mix,
    prompt_options,
    sampler,
    sampler_options,
    text,
    vae,
)

logger = logging.getLogger(__name__)

NODES: list[type[io.ComfyNode]] = [
    load.HyVideoModelLoader,
    load.HyVideoVAELoader,
    load.DownloadAndLoadHyVideoTextEncoder,
    text.HyVideoTextEncode,
    text.HyVideoTextImageEncode,
    text.HyVideoI2VEncode,
    text.HyVideoTextEmbedBridge,
    text.HyVideoEmptyTextEmbeds,
    prompt_files.HyVideoTextEmbedsSave,
    prompt_files.HyVideoTextEmbedsLoad,
    sampler.HyVideoSampler,
    inversion.HyVideoInverseSampler,
    inversion.HyVideoReSampler,
    prompt_mix.HyVideoPromptMixSampler,
    vae.HyVideoDecode,
    vae.HyVideoEncode,
    vae.HyVideoEncodeKeyframes,
    vae.HyVideoLatentPreview,
    vae.HyVideoGetClosestBucketSize,
    model_options.HyVideoBlockSwap,
    model_options.HyVideoTorchCompileSettings,
    model_options.HyVideoLoraSelect,
    model_options.HyVideoLoraBlockEdit,
    prompt_options.HyVideoCFG,
    prompt_options.HyVideoCustomPromptTemplate,
    sampler_options.HyVideoSTG,
    sampler_options.HunyuanVideoSLG,
    sampler_options.HunyuanVideoFresca,
    sampler_options.HyVideoContextOptions,
    sampler_options.HyVideoEnhanceAVideo,
    sampler_options.HyVideoTeaCache,
    sampler_options.HyVideoLoopArgs,
]


def legacy_nodes() -> list[type[io.ComfyNode]]:
    """The old nodes, or none where another pack has one of their ids already: then its own nodes do their work.

    All or none, since what travels over the sockets is another. A pack that is loaded after this one takes its ids
    over, as the host lets it; nothing is to be done here.
    """
    ids = [node.GET_SCHEMA().node_id for node in NODES]
    others = [name for name in ids if not _is_free(name)]
    if others:
        logger.info("old HunyuanVideo nodes are left to the pack that has them: %s …", others[0])
    return [] if others else NODES


def _is_free(node_id: str) -> bool:
    """Whether nobody has this id yet, or this very pack has, loaded once more."""
    found = host_nodes.NODE_CLASS_MAPPINGS.get(node_id)
    return found is None or found.__module__.startswith(f"{__name__}.")


__all__ = ["NODES", "legacy_nodes"]
