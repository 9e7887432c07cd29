"""The equations once more, as naive loops: one crystal, one site, one pair at a time, in float64."""
