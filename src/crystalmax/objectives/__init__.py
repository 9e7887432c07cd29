"""Objectives: what training minimises over an encoder."""

from crystalmax.objectives.deep_infomax import DeepInfoMax as DeepInfoMax
from crystalmax.objectives.supervised import Regression as Regression
