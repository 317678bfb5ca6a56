"""The pictures of the help pages, of the template browser and of README, all made by the pack's own small model.

``python tools/dev.py pictures`` makes them anew: seeds are fixed, so only what has changed looks different.
"""
