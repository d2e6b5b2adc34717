"""The core: an eye, a bridge, a reader, and a rule for how they meet. Start at `vlm.py`."""
