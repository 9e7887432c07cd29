"""Encoders: from a batch of crystals to levels of vectors."""

from crystalmax.encoders.layers import GaussianBasis as GaussianBasis
from crystalmax.encoders.layers import ScaledDistance as ScaledDistance
from crystalmax.encoders.sitenet import SiteNet as SiteNet
