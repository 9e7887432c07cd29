"""Makes the picture of the README from the report of the demo: its answer, and the first two of its figures.

    make demo && python benchmarks/demo_picture.py demo/report.html docs/images/demo.svg

The report itself has them with captions.
"""

import re
import sys
from pathlib import Path

TITLES = ("Refractive index of gems", "What pre-training changed")
TOP, LEFT = 64, 14  # points that the titles take


def main() -> None:
    """Read, compose, write."""
    report, picture = map(Path, sys.argv[1:])
    text = report.read_text(encoding="utf-8")
    found = re.search(r"Did pre-training help\?[^<]*", text)
    assert found  # every demo answers
    parts, width, height = [said(LEFT, 28, found[0], 15)], 0.0, 0.0
    for figure, title in zip(re.findall(r"<svg[^>]*>.*?</svg>", text, re.DOTALL), TITLES, strict=False):
        size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', figure)
        assert size  # as matplotlib writes it
        w, h = map(float, size.groups())
        parts.append(said(width + LEFT, TOP - 12, title, 11))
        place = f'<svg x="{width}" y="{TOP}" width="{w}" height="{h}" viewBox="0 0 {w} {h}">'
        parts.append(re.sub(r"<svg[^>]*>", place, figure, count=1))
        width, height = width + w, max(height, TOP + h)
    size_of_all = f'width="{width:.0f}pt" height="{height:.0f}pt" viewBox="0 0 {width:.1f} {height:.1f}"'
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    paper = '<rect width="100%" height="100%" fill="white"/>'
    lines = "\n".join([f"<svg {names} {size_of_all}>", paper, *parts, "</svg>"])
    picture.write_text("\n".join(line.rstrip() for line in lines.splitlines()) + "\n", encoding="utf-8")


def said(x: float, y: float, text: str, size: int) -> str:
    """Words in bold."""
    font = 'font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-weight="bold"'
    return f'<text x="{x}" y="{y}" font-size="{size}" {font}>{text}</text>'


if __name__ == "__main__":
    main()
