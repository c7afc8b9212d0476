"""Record folders of the challenge from runs: one script with the code that a recipe needs, claims, logs and README."""
