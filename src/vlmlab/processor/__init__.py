"""From samples to batches: pictures, the chat template, tokens, and which of them are learned."""
