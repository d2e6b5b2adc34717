"""Studies: a base recipe, what is varied, seeds; and a card that says what came of it."""
