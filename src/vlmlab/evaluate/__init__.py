"""Measuring a model: what it scores, with an interval."""
