"""Make the gallery's pictures anew: every example's, in full, kept small.

Runs the examples one after the other and writes their pictures to docs/figures, each
below 60 kB. It takes some minutes.

    python -m examples.figures [--out FOLDER] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
EXAMPLES = (
    "symmetry",
    "vanishing_exploding",
    "xavier_vs_he",
    "biases",
    "deep_plain_network",
    "custom_architecture",
    "debug_unstable_training",
    "save_and_load",
    "tensorboard_live",
    "keras_tuner_search",
    "distributed",
)
# JAX and TensorFlow can spread a model over devices.
BACKENDS = {"distributed": "jax"}
WIDTH, COLORS, LARGEST = 1000, 256, 60_000


def shrink(picture: Path, target: Path) -> int:
    """Write a picture with fewer pixels and colours; return its size in bytes."""
    image = Image.open(picture).convert("RGB")
    image.thumbnail((WIDTH, WIDTH))
    image.quantize(COLORS, dither=Image.Dither.NONE).save(target, optimize=True)
    return target.stat().st_size


def main() -> None:
    """Run the examples and keep their pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=HERE.parent / "docs" / "figures", help="folder"
    )
    parser.add_argument("--only", nargs="+", choices=EXAMPLES, default=EXAMPLES)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            environment = dict(os.environ)
            if name in BACKENDS:
                environment["KERAS_BACKEND"] = BACKENDS[name]
            script = HERE / f"{name}.py"
            print(f"== {name}", flush=True)
            subprocess.run(
                [sys.executable, script, "--out", folder], env=environment, check=True
            )
            size = shrink(Path(folder) / f"{name}.png", options.out / f"{name}.png")
        if size > LARGEST:
            raise SystemExit(f"{name}.png has {size:,} bytes, over {LARGEST:,}.")


if __name__ == "__main__":
    main()
