"""Embedded corpora: data only, read by the sources of the same names."""
