"""The nodes of ComfyUI-HunyuanVideoWrapper under their old ids, so that workflows made with them open and run.

None of them is replaced by one of ours through the host's node replacements: these copy values as they are, and no old
node has the values, or the types of sockets, of one of ours. So each is here, built from our own parts. What became of
which value is in ``settings``; files name what they are about.
"""

from __future__ import annotations

import logging

from comfy_api.latest import io

import nodes as host_nodes

from . import load, options, sample, text, vae

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
    text.HyVideoTextEmbedsSave,
    text.HyVideoTextEmbedsLoad,
    sample.HyVideoSampler,
    sample.HyVideoInverseSampler,
    sample.HyVideoReSampler,
    sample.HyVideoPromptMixSampler,
    vae.HyVideoDecode,
    vae.HyVideoEncode,
    vae.HyVideoEncodeKeyframes,
    vae.HyVideoLatentPreview,
    vae.HyVideoGetClosestBucketSize,
    options.HyVideoBlockSwap,
    options.HyVideoTorchCompileSettings,
    options.HyVideoLoraSelect,
    options.HyVideoLoraBlockEdit,
    options.HyVideoCFG,
    options.HyVideoCustomPromptTemplate,
    options.HyVideoSTG,
    options.HunyuanVideoSLG,
    options.HunyuanVideoFresca,
    options.HyVideoContextOptions,
    options.HyVideoEnhanceAVideo,
    options.HyVideoTeaCache,
    options.HyVideoLoopArgs,
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
