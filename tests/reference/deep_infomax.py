"""Equations 2 to 6 of DOI 10.1039/d4dd00202d, one constituent at a time; a high score says "true"."""

import math

import numpy as np

from reference.networks import linear, run, softplus


def score(critic, summary, constituent):
    """The dot product of both upscaled vectors, each through its whole network."""
    return float(run(critic.summary, summary) @ linear(critic.last, run(critic.constituent, constituent)))


def jensen_shannon(true_scores, false_scores):
    """Eq. 2, each part a mean over the set."""
    true = sum(softplus(-value) for value in true_scores) / len(true_scores)
    return true + sum(softplus(value) for value in false_scores) / len(false_scores)


def info_nce(true_scores, false_scores):
    """Each true constituent against all false ones (arXiv:1807.03748), a mean over the true ones."""
    rivals = [sum(math.exp(value - true) for value in false_scores) for true in true_scores]
    return sum(math.log1p(total) for total in rivals) / len(rivals)


def noised(regularizer, summary, noise):
    """Eq. 3: the summary with noise of learnt size."""
    log_variance = linear(regularizer.log_variance, summary)
    return np.array([z + math.exp(0.5 * v) * y for z, v, y in zip(summary, log_variance, noise, strict=True)])


def divergence(regularizer, summary):
    """Eq. 4 in the form that is zero for a standard normal, a mean over dimensions."""
    log_variance = linear(regularizer.log_variance, summary)
    terms = [0.5 * (z * z + math.exp(v) - v - 1.0) for z, v in zip(summary, log_variance, strict=True)]
    return sum(terms) / len(terms)


def set_loss(critic, summary, true, families):
    """Eq. 6: the mean over the families of false samples."""
    true_scores = [score(critic, summary, constituent) for constituent in true]
    losses = [jensen_shannon(true_scores, [score(critic, summary, c) for c in false]) for false in families]
    return sum(losses) / len(losses)


def mean_over_crystals(values, sets_of_crystal):
    """Over the sets of a crystal, then over crystals: every crystal counts the same."""
    means = [sum(values[i] for i in members) / len(members) for members in sets_of_crystal]
    return sum(means) / len(means)


def level_terms(critic, regularizer, summaries, noise, true, families, sets_of_crystal):
    """Loss and divergence of one level.

    Args:
        critic: A `ProjectedDot`.
        regularizer: A `GaussianNoise`.
        summaries: One vector a set.
        noise: One vector a set.
        true: For each set its constituents.
        families: For each family of false samples, for each set, its false constituents.
        sets_of_crystal: For each crystal its sets.
    """
    losses, divergences = [], []
    for i, summary in enumerate(summaries):
        seen = noised(regularizer, summary, noise[i])
        losses.append(set_loss(critic, seen, true[i], [family[i] for family in families]))
        divergences.append(divergence(regularizer, summary))
    return mean_over_crystals(losses, sets_of_crystal), mean_over_crystals(divergences, sets_of_crystal)
