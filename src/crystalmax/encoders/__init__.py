"""Encoders: from a batch of crystals to levels of vectors."""

from crystalmax.encoders.alignn import ALIGNN as ALIGNN
from crystalmax.encoders.cgcnn import CGCNN as CGCNN
from crystalmax.encoders.distances import GaussianBasis as GaussianBasis
from crystalmax.encoders.distances import ScaledDistance as ScaledDistance
from crystalmax.encoders.megnet import MEGNet as MEGNet
from crystalmax.encoders.sitenet import SiteNet as SiteNet
