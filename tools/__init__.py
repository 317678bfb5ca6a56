"""Developer commands: set-up, demo, tests, server and doctor. Start with ``python tools/dev.py --help``."""
