"""The learning experiment: an agent that knows nothing finds out which backends are fast."""
