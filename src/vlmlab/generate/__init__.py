"""Writing text: the engine, the session it runs, and the ways of decoding."""
