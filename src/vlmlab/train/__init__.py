"""Training: a recipe, a loop that can be stopped and resumed, and what it leaves behind."""
