"""Serving: what stands between strangers and a model."""
