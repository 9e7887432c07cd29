"""Bounds of mutual information from their equations, one constituent at a time."""

import math


def nwj(true_scores, false_scores):
    """Minus the bound of arXiv:0809.0853, as E[T] - E[e^(T - 1)] with the score T - 1."""
    bound = sum(value + 1 for value in true_scores) / len(true_scores)
    return -(bound - sum(math.exp(value + 1 - 1) for value in false_scores) / len(false_scores))


def donsker_varadhan(true_scores, false_scores):
    """Minus E[T] - ln E[e^T] (arXiv:1801.04062)."""
    mean = sum(math.exp(value) for value in false_scores) / len(false_scores)
    return -(sum(true_scores) / len(true_scores) - math.log(mean))


def smile(true_scores, false_scores, tau):
    """Minus E[T] - ln E[clip(e^T, e^-tau, e^tau)] (arXiv:1910.06222)."""
    clipped = [min(max(math.exp(value), math.exp(-tau)), math.exp(tau)) for value in false_scores]
    return -(sum(true_scores) / len(true_scores) - math.log(sum(clipped) / len(clipped)))
