"""What the command `crystalmax` runs, as `python -m crystalmax` does: the commands of `cli`, and how they end."""

import logging
import os
import signal
import sys
from io import TextIOWrapper

from crystalmax.cli import app


def open_streams() -> None:
    """Let what is closed, as some schedulers and `>&-` leave it, lead nowhere: workers of joblib need all three."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # takes the lowest number, which is free
            os.set_inheritable(nowhere.fileno(), True)
            setattr(sys, name, nowhere)
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # what is done has not failed as its name cannot be printed


def main() -> None:
    """Entry point: exit code 0, 1 with one clear line, 2 for wrong usage, 130 for Control-C or 143 for SIGTERM.

    In training either signal lets the step that runs end, saves, and gives 1.
    """
    open_streams()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # else its workers would keep pipes open
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # Threads that wait by spinning take the core that another process needs.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Several processes look for weights that a step left out, and torch would warn of each step that left out none.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        app(sys.argv[1:], result_action="return_value")
    except KeyboardInterrupt:
        print("crystalmax: interrupted", file=sys.stderr)
        sys.exit(130)
    except BaseException as error:
        if type(error).__name__ == "Interrupted":  # by name, since importing it would load torch
            # A process that another one started does not fail: the first, which may still be saving, would be killed.
            helps = os.environ.get("LOCAL_RANK", "0") != "0"
            kept = "; go on with --resume" if sys.argv[1] == "pretrain" else ""
            sys.exit(0 if helps else f"crystalmax: interrupted{kept}")
        if not isinstance(error, ValueError | OSError | ImportError | ArithmeticError):
            raise
        sys.exit(f"crystalmax: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
