"""Models from few labels: rows of numbers in, distributions out."""
