"""Trains the demo set and writes its files: ``python -m tools.demo_model [text vae i2v t2v lora card]``.

Each part trains, or goes on from its checkpoint, and then writes what is shipped. The order matters: i2v learns on the
latents of the vae and reads the text encoders, t2v is distilled from i2v, lora changes t2v. Without arguments all.
"""

from __future__ import annotations

import sys

from tools.demo_model import card, distill, export, train_dit, train_lora, train_text, train_vae

PARTS = {
    "text": (train_text.main, export.text),
    "vae": (train_vae.main, export.vae),
    "i2v": (train_dit.main, export.i2v),
    "t2v": (distill.main, export.t2v),
    "lora": (train_lora.main, export.lora),
    "card": (card.main,),
}


def main(names: list[str]) -> int:
    """Make the named parts, or all; the exit code."""
    unknown = set(names) - set(PARTS)
    if unknown:
        print(f"There is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}.", file=sys.stderr)
        return 2
    for name in names or PARTS:
        for step in PARTS[name]:
            step()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
