"""Crystals and numbers of them on disk."""
