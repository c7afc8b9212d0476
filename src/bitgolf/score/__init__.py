"""The referee owns the text and the normalisation; a player only predicts, observes and adapts."""
