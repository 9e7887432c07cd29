"""The first layer of networks over pairs, evaluated on distinct (species, species, distance)."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import mish

from crystalmax import native
from crystalmax.crystal import Pairs
from crystalmax.encoders.layers import DistanceBasis, perceptron
from crystalmax.segments import distinct, gather

_QUANTUM = 1e-5  # angstrom; distances are read on this grid, so that equal ones are recognised whatever the batch


class Triples(NamedTuple):
    """The distinct (species, species, distance) of a batch, distances in angstrom, and which of them each pair is.

    `end` is what a site sees of each, one of the distinct (species, distance) with the neighbor's species.
    """

    of_pair: Int[Tensor, " pairs"]
    center: Int[Tensor, " triples"]
    neighbor: Int[Tensor, " triples"]
    distance: Float[Tensor, " triples"]
    end: Int[Tensor, " triples"]
    end_species: Int[Tensor, " ends"]
    end_distance: Float[Tensor, " ends"]


def distinct_triples(species: Int[Tensor, " sites"], n_kinds: int, pairs: Pairs) -> Triples:
    """Find what a pair network has to be evaluated on. Distances are rounded to 1e-5 angstrom."""
    steps = (pairs.distance / _QUANTUM).round().long()
    key = (steps * n_kinds + gather(species, pairs.neighbor)) * n_kinds + gather(species, pairs.center)
    triples, of_pair = distinct(key)
    end_keys, end = distinct(triples // n_kinds)
    distance = (end_keys // n_kinds).to(pairs.displacement.dtype) * _QUANTUM
    species = end_keys % n_kinds
    return Triples(of_pair, triples % n_kinds, gather(species, end), gather(distance, end), end, species, distance)


class PairLayer(nn.Module):
    """First layers of an attention and a value network over the concatenation [x_i, x_j, e(d_ij)].

    Each is Linear, Mish and LayerNorm. The linear map of a concatenation is the sum of one term for each part, so two
    terms are functions of a species and one is a smooth function of distance. That one is evaluated on knots and
    interpolated by cubics (Lagrange) between them, which is exact to float32 at the spacing that the basis names; all
    three are tables of few rows. The attention network ends in one number.

    Args:
        distance: How a distance becomes a vector.
        width: Width of the embeddings of a species and of a distance, and of both networks.
    """

    def __init__(self, distance: DistanceBasis, width: int) -> None:
        super().__init__()
        self.distance, self.width = distance, width
        self.embed_distance = perceptron([distance.width, width])
        self.parts = nn.ModuleDict({part: nn.Linear(width, 2 * width) for part in ("center", "neighbor", "distance")})
        self.norms = nn.ModuleDict({part: nn.LayerNorm(width) for part in ("attention", "value")})
        self.logit = nn.Linear(width, 1)

    def forward(
        self, species: Float[Tensor, "kinds width"], triples: Triples
    ) -> tuple[Float[Tensor, " triples"], Float[Tensor, "triples width"]]:
        """The logit of each triple and the hidden layer of its value, given the embedding of each species."""
        place = triples.distance / self.distance.step
        n_knots = int(place.max()) + 4 if len(place) else 0  # one before, two behind the interval of the farthest
        at = (torch.arange(n_knots, device=place.device, dtype=place.dtype) - 1) * self.distance.step
        knots = self.parts["distance"](self.embed_distance(self.distance(at)))
        center, neighbor = self.parts["center"](species), self.parts["neighbor"](species)
        if not native.usable(center, neighbor, knots, place):
            x = gather(center, triples.center) + gather(neighbor, triples.neighbor) + interpolated(knots, place)
            attention, value = torch.split(mish(x), self.width, dim=-1)
            return self.logit(self.norms["attention"](attention))[:, 0], self.norms["value"](value)
        # The logit is a sum over columns, with its weights inside gain and shift.
        ends = torch.cat([self.logit.weight[0], torch.ones_like(self.logit.weight[0])])
        gain, shift = (
            ends * torch.cat([getattr(norm, name) for norm in self.norms.values()]) for name in ("weight", "bias")
        )
        logit, hidden = _PairLayer.apply(  # type: ignore[no-untyped-call]
            center, triples.center, neighbor, triples.neighbor, knots, place, gain, shift
        )
        return logit + self.logit.bias, hidden


def interpolated(knots: Float[Tensor, "knots width"], place: Float[Tensor, " rows"]) -> Float[Tensor, "rows width"]:
    """Values between knots, by the cubic through two knots on each side; place 0 is the second knot."""
    first = place.long()
    t = (place - first)[:, None]
    weights = (
        -t * (t - 1) * (t - 2) / 6,
        (t + 1) * (t - 1) * (t - 2) / 2,
        -(t + 1) * t * (t - 2) / 2,
        (t + 1) * t * (t - 1) / 6,
    )
    return sum((weight * gather(knots, first + row) for row, weight in enumerate(weights)), torch.zeros_like(t))


class _PairLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        *terms, gain, shift = (argument.contiguous() for argument in arguments)
        ctx.save_for_backward(*terms, gain)
        rows, width = len(terms[-1]), len(gain)
        logit, hidden = gain.new_empty(rows), gain.new_empty(rows, width // 2)
        native.run("triples_forward", *terms, gain, shift, logit, hidden, rows, width, width // 2)
        return logit, hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        *terms, gain = ctx.saved_tensors
        center, _, neighbor, _, knots, place = terms
        of_center, of_neighbor, of_knots, of_gain, of_shift = found = [
            torch.zeros_like(table) for table in (center, neighbor, knots, gain, gain)
        ]
        upstream = (gradient.contiguous() for gradient in gradients)
        native.run("triples_backward", *terms, gain, *upstream, *found, len(place), len(gain), len(gain) // 2)
        return of_center, None, of_neighbor, None, of_knots, None, of_gain, of_shift
