"""Real compression: the walk that encoder and decoder share, the coder, and the proof of a score by it."""
