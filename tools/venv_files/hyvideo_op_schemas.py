"""Declares torchvision's operators to torch where its compiled library does not load.

Copied into the virtual environment by ``tools/compiled_ops.py``, and only where the library fails. The package
then imports; whoever calls one of these operators still gets torch's error that it has no implementation.
torch itself is imported only when torchvision is, so starting Python stays cheap.
"""

from __future__ import annotations

import sys

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
)


class DeclareBeforeImport:
    """A finder that finds nothing: it declares the operators on the first import of torchvision."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            # A library object takes its schemas back when collected, so it must outlive this call.
            sys.modules[__name__].library = torch.library.Library("torchvision", "DEF")
            for schema in SCHEMAS:
                sys.modules[__name__].library.define(schema)


sys.meta_path.insert(0, DeclareBeforeImport())
