"""Standard streams of a command that was started without them, as some schedulers and `>&-` do, or with poor ones."""

import os
import sys
from io import TextIOWrapper


def open_all() -> None:
    """Let what is closed lead nowhere, also for processes that are started: workers of joblib need all three."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # takes the lowest number, which is free
            os.set_inheritable(nowhere.fileno(), True)
            setattr(sys, name, nowhere)
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # what is done has not failed as its name cannot be printed
