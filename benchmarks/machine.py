"""What every benchmark shares: its options, what a stored number carries, and where it goes."""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from crystalmax import __version__


def about() -> dict[str, Any]:
    """Where and with what a number was measured."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False)
    return {
        "commit": commit.stdout.strip(),
        "crystalmax": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def parser_of(description: str | None, *, crystals: int) -> argparse.ArgumentParser:
    """The options of every benchmark: a table, how many of its crystals, and a file for the result."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--crystals", type=int, default=crystals)
    parser.add_argument("--out", type=Path)
    return parser


def store(result: Mapping[str, Any], out: Path | None) -> str:
    """A result as JSON, in a file where one is given."""
    text = json.dumps(result, indent=1)
    if out:
        out.write_text(text + "\n")
    return text


def publish(result: Mapping[str, Any], out: Path | None) -> None:
    """Print a result, and keep it as JSON where a file is given."""
    print(store(result, out))


def go_on(out: Path | None, begun: dict[str, Any]) -> dict[str, Any]:
    """What an earlier call left in the file, or what a first one begins with."""
    return json.loads(out.read_text()) if out and out.exists() else begun
