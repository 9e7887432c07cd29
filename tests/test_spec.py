"""Specs: the round trip, the answers to typos, and the doors that stay shut to a stranger's recipe."""

import functools
import inspect
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from string import Template
from threading import Barrier, BrokenBarrierError
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from crystalmax import spec
from crystalmax.encoding import Widths
from crystalmax.objectives.critics import ProjectedDot
from crystalmax.spec import build, describe, parts_in, read_recipe, read_toml, rebuilt, seeded_weights

HERE = (__name__,)


@dataclass(frozen=True)
class Part:
    size: int = 3
    names: tuple[str, ...] = ("a", "b")
    scale: float = 0.5
    on: bool = True
    inner: object = None
    options: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Loose:
    """Of types that are not there when it is run."""

    names: "Sequence[str]"  # noqa: F821
    scale: "Number"  # noqa: F821


class Net(nn.Module):
    def __init__(self, width: int, *, part: object = None, late: object = None):
        super().__init__()
        self.width, self.part, self.late = width, part, late
        self.layer = nn.Linear(width, width)


class Bare(nn.Module):
    """A part without arguments, and without an `__init__` of its own."""


class Waiting(nn.Module):
    """A part that waits for a batch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.LazyLinear(3)


class Pair(NamedTuple):
    left: int
    right: int = 0


class Meeting:
    """A part that waits while it is made whether another thread makes one too, then draws a number."""

    both = Barrier(2, timeout=0.3)

    def __init__(self):
        with suppress(BrokenBarrierError):
            self.both.wait()
        self.drawn = torch.rand(())


class Greedy:
    def __init__(self, width, *depths):
        self.width, self.depths = width, depths


class Forgetful:
    def __init__(self, width):
        self.size = width


def tool():
    """Not a part: a function of a trusted module."""


def parts():
    leaf = st.builds(
        Part,
        size=st.integers(),
        names=st.lists(st.text(max_size=3), max_size=3).map(tuple),
        scale=st.floats(allow_nan=False),
        on=st.booleans(),
        options=st.dictionaries(st.sampled_from(["x", "y"]), st.one_of(st.none(), st.integers()), max_size=2),
    )
    return st.recursive(
        leaf,
        lambda inner: st.builds(Part, inner=st.one_of(inner, st.lists(inner, max_size=3).map(tuple))),
        max_leaves=5,
    )


@given(part=parts())
@settings(max_examples=60, deadline=None)
def test_any_nesting_survives_json(part):
    plain = json.loads(json.dumps(describe(part)))
    assert build(plain, trusted=HERE) == part


def test_numbers_out_of_arrays_are_those_of_python():
    part = Part(size=np.int64(3), scale=np.float32(0.5), on=np.bool_(True), options={"x": np.float64(2)})
    assert build(json.loads(json.dumps(describe(part))), trusted=HERE) == part
    assert type(describe(part)["size"]) is int


def test_modules_tuples_and_parts_built_later():
    net = Net(4, part=Pair(1), late=functools.partial(ProjectedDot, hidden=8))
    plain = describe(net)
    assert plain == {
        "use": f"{__name__}.Net",
        "width": 4,
        "part": {"use": f"{__name__}.Pair", "left": 1, "right": 0},
        "late": {"use": "ProjectedDot", "later": True, "hidden": 8},
    }
    copy = build(plain, trusted=HERE)
    assert isinstance(copy, Net)
    assert (copy.width, copy.part) == (4, Pair(1))
    critic = copy.late(Widths(3, 5))
    assert isinstance(critic, ProjectedDot)
    assert critic.hidden == 8
    assert describe(copy) == plain


def test_a_module_without_arguments_is_a_part():
    assert describe(Bare()) == {"use": f"{__name__}.Bare"}
    assert isinstance(build(describe(Bare()), trusted=HERE), Bare)


def test_a_class_alone_is_a_part_built_later():
    assert describe(ProjectedDot) == {"use": "ProjectedDot", "later": True}
    assert build({"use": "ProjectedDot", "later": True}) is ProjectedDot
    assert build({"use": "torch.optim.AdamW", "later": True, "lr": 0.1}).func is torch.optim.AdamW


def test_a_mapping_without_use_stays_a_mapping():
    built = build({"noise": {"use": "NoRegularizer", "later": True}, "epochs": 3, "list": [1, 2]})
    assert (built["epochs"], built["list"]) == (3, (1, 2))


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"use": f"{__name__}.Part", "sise": 3}, r"^Part has no argument 'sise'; did you mean 'size'\?$"),
        ({"use": "ProjectedDott"}, r"crystalmax has no part 'ProjectedDott'; did you mean 'ProjectedDot'\?$"),
        ({"use": "zzzzzz"}, r"crystalmax has no part 'zzzzzz'; there are .*JensenShannon"),
        ({"use": "Critic"}, "has no part 'Critic'"),
        ({"use": "ProjectedDot"}, "ProjectedDot needs 'widths'; give it, or write later = true"),
        ({"use": f"{__name__}.Part", "inner": [{"use": f"{__name__}.Net"}]}, r"^at inner\[0\]: Net needs 'width'"),
        ({"use": f"{__name__}.Waiting"}, ": LazyLinear would take its size .*; give it the size$"),
        ({"use": f"{__name__}.Gone"}, "refusing to use .*Gone.* not a class"),
        ({"use": f"{__name__}.Waitin"}, r"Waitin': not a class of \w+; did you mean 'Waiting'\?$"),
        ({"use": "crystalmax.no_such_module.Part"}, "cannot import 'crystalmax.no_such_module.Part'"),
        ({"use": 3}, "'use' is 3 and 'later' False; give the name"),
        ({"use": "JensenShannon", "later": "yes"}, "'later' 'yes'; give"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(plain, message):
    with pytest.raises(ValueError, match=message):
        build(plain, trusted=HERE)


ESTIMATOR = r"of DeepInfoMax is {}; give Estimator \| None$"
SITENET = {"use": "SiteNet", "site_width": 4, "crystal_width": 4, "hidden": 16}


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"use": "AllPairs", "max_sites": 50.0}, r"^max_sites of AllPairs is 50\.0; give int$"),
        ({"use": "AllPairs", "max_sites": True}, "^max_sites of AllPairs is True; give int$"),
        ({"use": "AllPairs", "merge": 1}, "^merge of AllPairs is 1; give bool$"),
        ({"use": "Neighbors", "max_neighbors": 1.5}, r"^max_neighbors of Neighbors is 1\.5; give int \| None$"),
        ({"use": "Strain", "largest": "0.1"}, "^largest of Strain is '0.1'; give float$"),
        ({"use": "ALIGNN", "convolutions": [1, 2.5]}, r"^convolutions of ALIGNN is \(1, 2\.5\); give list\[int\]$"),
        (
            {"use": "Corrupted", "later": True, "levels": "crystal"},
            r"^levels of Corrupted is 'crystal'; give list\[str\]$",
        ),
        ({"use": "Corrupted", "transform": {"use": "Strain"}}, r"^transform of Corrupted is Strain\(.*give Transform$"),
        ({"use": "Statistics", "weights": {"charges": "x"}}, r"^weights of .* give Mapping\[str, float\]$"),
        ({"use": "DeepInfoMax", "later": True, "critic": "ProjectedDot"}, r"give Callable\[\[Widths\], Module\]$"),
        ({"use": "DeepInfoMax", "later": True, "estimator": "InfoNCE"}, ESTIMATOR.format("'InfoNCE'")),
        ({"use": "DeepInfoMax", "later": True, "estimator": {"use": "AllPairs"}}, ESTIMATOR.format("AllPairs.*")),
        (
            {"use": "DeepInfoMax", "later": True, "estimator": {"use": "Smile", "later": True}},
            ESTIMATOR.format("<class.*"),
        ),
        (
            {"use": "DeepInfoMax", "encoder": SITENET, "negatives": [{"use": "FalseComposition"}]},
            r"^negatives of DeepInfoMax is \(FalseComposition\(\),\); give list\[NegativeSampler\]$",
        ),
        ([{"use": "DeepInfoMax", "encoder": {"use": "OtherCrystals"}}], r"^at \[0\]: encoder of .* give Encoder$"),
    ],
)
def test_arguments_of_another_type_are_refused_with_their_names(plain, message):
    with pytest.raises(ValueError, match=message):
        build(plain)


@dataclass(frozen=True)
class Range:
    """From one number to another."""

    ends: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] = ()


def test_as_many_numbers_as_an_argument_asks_for_are_taken():
    range_ = {"use": f"{__name__}.Range"}
    assert build({**range_, "ends": [1, 2], "names": ["a", "b", "c"]}, trusted=HERE) == Range((1, 2), ("a", "b", "c"))
    for ends in ([1.0], [1.0, 2.0, 3.0]):
        with pytest.raises(ValueError, match=r"^ends of Range is \(1\.0,.* give list\[float, float\]$"):
            build({**range_, "ends": ends}, trusted=HERE)


def test_a_whole_number_is_a_number_and_a_type_that_is_not_known_takes_anything():
    assert build({"use": "Neighbors", "cutoff": 6, "max_neighbors": None}).cutoff == 6
    assert build({"use": f"{__name__}.Loose", "names": 3, "scale": "x"}, trusted=HERE) == Loose(3, "x")


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "torch.load",
        "torch.optimizer.Evil",
        "torch.hub.load",
        "crystalmaxevil.Part",
        "crystalmax.spec.functools.partial",
        "crystalmax.spec.import_module",
        "crystalmax.spec.Path",
        "crystalmax.crystal.Tensor",
        "crystalmax.objectives.critics.nn",
        "crystalmax.__main__.main",
        "crystalmax.spec._find",
        "torch.optim.adamw.Tensor",
        "torch.optim.os.system",
        f"{__name__}.sys",
        f"{__name__}.nn",
        f"{__name__}.tool",
        f"{__name__}.Net.__init__",
        ".os.system",
        "..system",
    ],
)
def test_a_strangers_recipe_cannot_reach_outside(name):
    before = set(sys.modules)
    with pytest.raises(ValueError, match=r"refusing to|cannot import"):
        build({"use": name}, trusted=HERE)
    # `subprocess` and the like are loaded by the tests themselves; nothing new may have come in but our own modules.
    assert {module for module in set(sys.modules) - before if not module.startswith("crystalmax")} == set()


def test_trust_is_given_by_name():
    with pytest.raises(ValueError, match=r"refusing to import.* by name .`--trust NAME`, or `trusted=` in Python.,"):
        build({"use": f"{__name__}.Part"})


def test_what_runs_here_is_built_again_without_being_trusted_by_name():
    part = Part(names=("a",), inner=(Template("b"), functools.partial(Net, width=2)), options={"x": 3})
    assert parts_in(describe(part)) == {f"{__name__}.Part", f"{__name__}.Net", "string.Template"}
    assert describe(rebuilt(part)) == describe(part)


def test_one_trusted_name_is_not_read_as_its_letters():
    with pytest.raises(TypeError, match=r"trusted is 'lab'; give a tuple of names, \('lab',\)"):
        inspect.unwrap(build)({"use": "lab.Part"}, trusted="lab")  # beartype would refuse it first


@pytest.mark.parametrize(
    ("component", "message"),
    [
        (Forgetful(3), "Forgetful does not store its argument 'width' under that name"),
        (Greedy(3, 4), r"Greedy takes any arguments, by \* or \*\*, which would be lost; let its __init__ name each"),
        (Part(inner=tool), "Part.inner is .*not a component"),
        (Part(inner=({1, 2},)), r"Part.inner\[0\] is \{1, 2\}, which is not a component"),
        (Part(options={8: 1.0}), r"Part.options has the key 8, which files give back as text; give keys"),
        (Part(inner=torch.zeros(2)), "not"),
        (functools.partial(Net, 4), "takes keyword arguments"),
        (functools.partial(tool, x=1), "not a class"),
        (type("Local", (), {"__qualname__": "f.<locals>.Local"}), "not a class that another session could import"),
        (type("Noted", (), {"__module__": "__main__"}), r"__main__.Noted'> is not .* define one in a module"),
    ],
)
def test_what_cannot_be_rebuilt_is_not_described(component, message):
    with pytest.raises(TypeError, match=message):
        describe(component)


def test_threads_make_parts_one_after_another_as_they_share_hooks_and_random_numbers():
    def seeded(_):
        with seeded_weights(0):
            return Meeting().drawn

    for make in (seeded, lambda _: build({"use": f"{__name__}.Meeting"}, trusted=HERE).drawn):
        Meeting.both.reset()
        with ThreadPoolExecutor(2) as threads:
            one, other = threads.map(make, range(2))
        assert Meeting.both.broken
        assert (one == other) == (make is seeded)


def test_the_default_recipe_is_one_of_those_that_ship():
    assert read_recipe("default") == read_recipe("intrinsic") != read_recipe("infomax")


def test_the_path_of_a_recipe_may_be_text(tmp_path):
    (tmp_path / "mine.toml").write_text("epochs = 3\n")
    assert read_toml(str(tmp_path / "mine.toml")) == {"epochs": 3}


def test_recipes_are_read_with_their_names_in_the_errors(tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('use = "DeepInfoMax"\n[[negatives]]\nuse = "OtherCrystals"\n', encoding="utf-8")
    assert read_recipe(recipe) == {"use": "DeepInfoMax", "negatives": [{"use": "OtherCrystals"}]}
    recipe.write_text('use = "DeepInfoMax"', encoding="utf-8-sig")
    assert read_recipe(recipe) == {"use": "DeepInfoMax"}
    recipe.write_text("use = = 3", encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.toml is not valid TOML: .*line 1"):
        read_recipe(str(recipe))
    with pytest.raises(FileNotFoundError, match=r"no file and no shipped recipe is called nowhere\.toml"):
        read_recipe("nowhere.toml")


def test_every_public_part_is_found_by_its_short_name():
    found = spec._public_classes()
    assert {"SiteNet", "DeepInfoMax", "JensenShannon", "OtherCrystals", "GaussianNoise"} <= set(found)
    assert all(spec._name(part) == name for name, part in found.items())
