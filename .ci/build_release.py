"""Build a tag's source archive and wheel, with a README for the package index.

    python .ci/build_release.py TAG ADDRESS

ADDRESS is where the tag's files can be had. The index shows the README by itself:
there, a picture or a link with a path of the repository leads nowhere.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# src="docs/a.png", ](docs/a.json): neither an address nor a place on the same page.
_PATH = re.compile(r'(src="|\]\()(?!https?:|#|mailto:)([^")]+)')


def for_index(readme: str, address: str) -> str:
    """Return a README whose pictures and links have addresses in place of paths.

    >>> for_index('<img src="docs/a.png"> [b](docs/b.json) [c](#c)', "https://x.org/v1/")
    '<img src="https://x.org/v1/docs/a.png"> [b](https://x.org/v1/docs/b.json) [c](#c)'
    """
    base = address.rstrip("/")
    return _PATH.sub(lambda match: f"{match[1]}{base}/{match[2]}", readme)


def paths(readme: str) -> list[str]:
    """Return the paths of the repository that a README shows or links to."""
    return [match[2].partition("#")[0] for match in _PATH.finditer(readme)]


def main(tag: str, address: str) -> None:
    """Build into dist/."""
    if not address.startswith("https://"):
        raise SystemExit(f"ADDRESS must begin with https://. Received: {address}")
    with tempfile.TemporaryDirectory() as folder:
        # What is tagged, whatever lies in the working tree.
        files = subprocess.run(
            ["git", "archive", tag], cwd=ROOT, check=True, capture_output=True
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(files)) as archive:
            archive.extractall(folder, filter="data")
        readme = Path(folder, "README.md")
        text = for_index(readme.read_text(encoding="utf-8"), address)
        readme.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "build", "--outdir", ROOT / "dist", folder]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
