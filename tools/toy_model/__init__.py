"""A HunyuanVideo at toy widths with seeded random weights and the full vocabularies: for tests that need no sense."""
