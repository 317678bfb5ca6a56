"""A tiny HunyuanVideo: the real architecture and file formats at toy widths, with seeded random weights."""
