"""Where samples come from: sources, the corpora that ship with them, and the page that shows what a model is given."""
