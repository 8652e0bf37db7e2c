"""Slow float64 NumPy, written from the formulas with loops; never imports the package."""
