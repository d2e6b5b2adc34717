"""Hugging Face formats, at the edge only: checkpoints in and out, and backbones to start from."""
