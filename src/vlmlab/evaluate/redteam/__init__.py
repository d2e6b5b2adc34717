"""Red-teaming: the behaviours that the model card names, tried once, repeatedly, in other words, and step by step."""
