"""Tables of the options of commands and of the keys of a recipe, read off the code; `table.py` puts them on a page."""

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import get_args

from docstring_parser import parse

from crystalmax.cli import Options, app
from crystalmax.learning.training import Training

COMMANDS = ("ingest", "pretrain", "represent", "evaluate", "fit", "finetune", "predict", "demo", "study", "verify")
LEFT_TO_US = {
    "--out": "The folder to write.",
    "--model": "A run folder, as `pretrain` writes it.",
    "--jobs": "Processes; -1 for one a core.",
}
"""What commands say of options that explain themselves."""


def commands() -> dict[str, list[tuple[str, str, str]]]:
    """Name, default and meaning of each option, by command."""
    return {name: _options(name) for name in COMMANDS}


def training() -> list[tuple[str, str, str]]:
    """Name, default and meaning of each key of `[training]`."""
    said = _said(Training)
    return [(f"`{each.name}`", _plain(each.default), said[each.name]) for each in fields(Training)]


def _options(command: str) -> list[tuple[str, str, str]]:
    said = {**_said(Options), **_said(app[command].default_command)}
    rows = []
    for each in app[command].assemble_argument_collection():
        if each.name == "*":  # a group of options, which follow one by one
            continue
        meaning = each.parameter.help or said.get(each.name.lstrip("-").replace("-", "_").lower(), "")
        default = each.field_info.default
        if each.name == "--model" and default is not inspect.Parameter.empty:
            shown = "the weights that ship"
        else:
            shown = _plain(default)
        choices = ", ".join(f"`{choice}`" for choice in _choices(each.hint))
        one_of = f" One of {choices}." if choices else ""
        names = f"`{'`, `'.join(_names(each.names))}`"
        rows.append((names, shown, f"{meaning or LEFT_TO_US[each.name]}{one_of}"))
    return rows


def _choices(hint: object) -> list[str]:
    inner = get_args(hint)
    return [word for each in inner for word in ([each] if isinstance(each, str) else _choices(each))]


def _names(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if not name.startswith("--empty-")]


def _said(owner: object) -> Mapping[str, str]:
    found = parse(inspect.getdoc(owner) or "").params
    return {each.arg_name: " ".join((each.description or "").split()) for each in found}


def _plain(default: object) -> str:
    if default is inspect.Parameter.empty:
        return "must be given"
    if default in (None, (), ""):
        return "none"
    return f"`{default}`" if not isinstance(default, bool) else ("yes" if default else "no")
