"""Sweeps over whole runs: variants of a recipe, seeds, gates that end a run early, and a search for the best variant."""
