"""Networks over pairs [x_i, x_j, e(d_ij)], evaluated once for all pairs that are alike."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import mish

from crystalmax import native
from crystalmax.crystal import Pairs
from crystalmax.encoders.distances import DistanceBasis
from crystalmax.encoders.interpolation import Between, between, interpolated
from crystalmax.layers import perceptron
from crystalmax.segments import attention, distinct, gather, hash_slots, offsets, ranges

_CROWD = 100  # distances between two species from which on knots are considered
_QUANTUM = 1e-5  # angstrom; distances are read on this grid, so that equal ones are recognised whatever the batch


class Triples(NamedTuple):
    """The distinct triples (species of center, species of neighbor, distance) of a batch, and the triple of each pair.

    `end` is what is left of a triple without its center: one of the distinct (species, distance), which `end_species`
    and `end_distance` list. Distances are in angstrom.
    """

    of_pair: Int[Tensor, " pairs"]
    center: Int[Tensor, " triples"]
    neighbor: Int[Tensor, " triples"]
    distance: Float[Tensor, " triples"]
    end: Int[Tensor, " triples"]
    end_species: Int[Tensor, " ends"]
    end_distance: Float[Tensor, " ends"]


def distinct_triples(species: Int[Tensor, " sites"], n_kinds: int, pairs: Pairs) -> Triples:
    """Find the distinct triples of a batch. Distances are rounded to 1e-5 angstrom."""
    triples, of_pair = _distinct_keys(species, n_kinds, pairs)
    end_keys, end = distinct(triples // n_kinds)
    distance = (end_keys // n_kinds).double() * _QUANTUM
    species = end_keys % n_kinds
    return Triples(of_pair, triples % n_kinds, gather(species, end), gather(distance, end), end, species, distance)


def _distinct_keys(
    species: Int[Tensor, " sites"], n_kinds: int, pairs: Pairs
) -> tuple[Int[Tensor, " triples"], Int[Tensor, " pairs"]]:
    """The distinct triples, each packed into one integer, and the triple of each pair."""
    if not native.usable(pairs.displacement):
        steps = (pairs.distance / _QUANTUM).round().long()
        return distinct((steps * n_kinds + gather(species, pairs.neighbor)) * n_kinds + gather(species, pairs.center))
    columns = [column.contiguous() for column in (species, pairs.center, pairs.neighbor, pairs.displacement)]
    n_pairs = len(pairs.center)
    of_pair, found = torch.empty_like(pairs.center), torch.empty_like(pairs.center)
    n_found = native.run(
        "distinct_triples", *columns, 1 / _QUANTUM, n_kinds, of_pair, found, n_pairs, *hash_slots(n_pairs)
    )
    return found[:n_found], of_pair


class Evaluated(NamedTuple):
    """The rows at which a pair network is evaluated to know its values at all triples.

    For two species with far more distances than knots would be needed over their range, the rows are knots, and values
    are interpolated; otherwise they are the triples themselves. `order` lists the triples that are rows, then those
    between knots; `at` says where the latter lie. Both are None where all triples are rows.
    """

    center: Int[Tensor, " rows"]
    neighbor: Int[Tensor, " rows"]
    place: Float[Tensor, " rows"]
    order: Int[Tensor, " triples"] | None = None
    at: Between | None = None


def evaluated(triples: Triples, n_kinds: int, step: float, dtype: torch.dtype) -> Evaluated:
    """Choose, for every two species, between all of their distances and knots; `step` is their spacing in angstrom."""
    couple = triples.center * n_kinds + triples.neighbor
    place = triples.distance / step
    n_distances = torch.bincount(couple, minlength=n_kinds**2)
    crowded = n_distances > _CROWD
    if 2 * int(n_distances[crowded].sum()) < len(couple):
        return Evaluated(triples.center, triples.neighbor, place)
    lowest = place.new_full((n_kinds**2,), torch.inf).scatter_reduce(0, couple, place, "amin").floor()
    highest = place.new_full((n_kinds**2,), -torch.inf).scatter_reduce(0, couple, place, "amax").floor()
    n_knots = (highest - lowest).nan_to_num(neginf=0).long() + 4
    crowded &= 2 * n_knots < n_distances
    between_knots = gather(crowded, couple)
    single, many = (~between_knots).nonzero()[:, 0], between_knots.nonzero()[:, 0]
    couples = crowded.nonzero()[:, 0]
    sizes, starts = n_knots[couples], lowest[couples].long() - 1
    first_row = torch.zeros_like(n_knots).index_copy(0, couples, len(single) + offsets(sizes)[:-1])
    of_knot = torch.repeat_interleave(couples, sizes)
    at = between(place[many] - lowest[couple[many]], dtype)
    return Evaluated(
        torch.cat([triples.center[single], of_knot // n_kinds]),
        torch.cat([triples.neighbor[single], of_knot % n_kinds]),
        torch.cat([place[single], ranges(starts, sizes).to(place)]),
        torch.cat([single, many]),
        Between(at.first + first_row[couple[many]], at.part),
    )


class PairNetwork(nn.Module):
    """An attention and a value network over the concatenation [x_i, x_j, e(d_ij)].

    The first layer of both is Linear, Mish and LayerNorm. Its linear map is a sum of three terms: two are functions of
    a species, and the third is a smooth function of the distance, which is interpolated between knots, so that all
    three are small tables. The attention network ends in one number, and the value network has a second layer.

    Args:
        distance: How a distance becomes a vector.
        width: Width of the embeddings of a species and of a distance, and of all layers.
    """

    def __init__(self, distance: DistanceBasis, width: int) -> None:
        super().__init__()
        if not distance.step > 0:  # loops in C would read rows that there are not
            raise ValueError(f"{type(distance).__name__} has the step {distance.step}; give a length above 0 angstrom")
        self.distance, self.width = distance, width
        self.embed_distance = perceptron([distance.width, width])
        self.parts = nn.ModuleDict({part: nn.Linear(width, 2 * width) for part in ("center", "neighbor", "distance")})
        self.norms = nn.ModuleDict({part: nn.LayerNorm(width) for part in ("attention", "value")})
        self.logit = nn.Linear(width, 1)
        self.value = perceptron([width, width])

    def forward(
        self, species: Float[Tensor, "kinds width"], triples: Triples, pairs: Pairs, n_sites: int
    ) -> Float[Tensor, "sites width"]:
        """What each site pools from its pairs by attention, given the embedding of each species."""
        logits, values, row = self.read(species, triples)
        return attention(logits, values, row, pairs.center, pairs.count, n_sites)

    def read(
        self, species: Float[Tensor, "kinds width"], triples: Triples
    ) -> tuple[Float[Tensor, " triples"], Float[Tensor, "triples width"], Int[Tensor, " pairs"]]:
        """Logit and value of each distinct triple, and the row of these two that belongs to each pair."""
        rows = evaluated(triples, len(species), self.distance.step, species.dtype)
        logits, hidden = self._first_layers(species, rows)
        values = self.value(hidden)
        if rows.order is None or rows.at is None:
            return logits, values, triples.of_pair
        n_single = len(rows.order) - len(rows.at.first)
        logits = _behind(logits[:n_single], interpolated(logits[:, None], rows.at)[:, 0])
        values = _behind(values[:n_single], interpolated(values, rows.at))
        place = torch.empty_like(rows.order).index_copy(0, rows.order, torch.arange(len(rows.order)).to(rows.order))
        return logits, values, gather(place, triples.of_pair)

    def _first_layers(
        self, species: Float[Tensor, "kinds width"], rows: Evaluated
    ) -> tuple[Float[Tensor, " rows"], Float[Tensor, "rows width"]]:
        # No knots below the shortest distance: a basis with 1 / d, for example, has no gradients there.
        low, high = map(int, torch.aminmax(rows.place)) if len(rows.place) else (0, 0)
        distances = torch.arange(low - 1, high + 3).to(species) * self.distance.step
        knots = self.parts["distance"](self.embed_distance(self.distance(distances)))
        center, neighbor = self.parts["center"](species), self.parts["neighbor"](species)
        at = between(rows.place - low, species.dtype)
        if not native.usable(center, neighbor, knots):
            x = gather(center, rows.center) + gather(neighbor, rows.neighbor) + interpolated(knots, at)
            for_logit, for_value = torch.split(mish(x), self.width, dim=-1)
            return self.logit(self.norms["attention"](for_logit))[:, 0], self.norms["value"](for_value)
        # The loop in C sums columns to a logit, so the weights of that sum go into gain and shift.
        ends = torch.cat([self.logit.weight[0], torch.ones_like(self.logit.weight[0])])
        gain, shift = (
            ends * torch.cat([getattr(norm, name) for norm in self.norms.values()]) for name in ("weight", "bias")
        )
        logits, hidden = _FirstLayers.apply(  # type: ignore[no-untyped-call]
            center, rows.center, neighbor, rows.neighbor, knots, *at, gain, shift
        )
        return logits + self.logit.bias, hidden


def _behind(some: Float[Tensor, "some *width"], more: Float[Tensor, "more *width"]) -> Float[Tensor, "rows *width"]:
    return torch.cat([some, more]) if len(some) else more


class _FirstLayers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: native.Context, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        *terms, gain, shift = (argument.contiguous() for argument in arguments)
        ctx.save_for_backward(*terms, gain)
        rows, width = len(terms[-1]), len(gain)
        logits, hidden = gain.new_empty(rows), gain.new_empty(rows, width // 2)
        native.run("triples_forward", *terms, gain, shift, logits, hidden, rows, width, width // 2)
        return logits, hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: native.Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *terms, gain = ctx.saved_tensors
        center, _, neighbor, _, knots, _, part = terms
        of_center, of_neighbor, of_knots, of_gain, of_shift = found = [
            torch.zeros_like(table) for table in (center, neighbor, knots, gain, gain)
        ]
        upstream = (gradient.contiguous() for gradient in gradients)
        native.run("triples_backward", *terms, gain, *upstream, *found, len(part), len(gain), len(gain) // 2)
        return of_center, None, of_neighbor, None, of_knots, None, None, of_gain, of_shift
