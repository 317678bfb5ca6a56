"""HunyuanVideo as a small PyTorch library: no ComfyUI, no globals, no I/O outside ``weights`` and ``video``.

Imports point one way: errors, types ← configs ← ops, attention ← model, vae, text ← weights ← sample.
``tests/core/test_architecture.py`` holds that order.
"""

__version__ = "0.1.0"
