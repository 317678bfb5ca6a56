"""The pictures of the help pages and of the template browser, all made by the pack's own small model.

``python tools/dev.py pictures`` makes them anew: seeds are fixed, so only what has changed looks different.
"""
