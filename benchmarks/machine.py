"""What every stored number carries: commit, machine, threads, versions."""

import os
import platform
import subprocess
from typing import Any

import torch

from crystalmax import __version__


def about() -> dict[str, Any]:
    """Where and with what a number was measured."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {
        "commit": commit.stdout.strip(),
        "crystalmax": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
