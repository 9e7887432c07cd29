"""Objectives: what training minimises over an encoder."""

from crystalmax.objectives.blend import Blend as Blend
from crystalmax.objectives.contrastive import Contrastive as Contrastive
from crystalmax.objectives.deep_infomax import DeepInfoMax as DeepInfoMax
from crystalmax.objectives.mixture import Mixture as Mixture
from crystalmax.objectives.reconstruction import Reconstruction as Reconstruction
from crystalmax.objectives.supervised import Ensemble as Ensemble
from crystalmax.objectives.supervised import Regression as Regression
