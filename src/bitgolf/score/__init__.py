"""Scoring a model on text: the referee reveals tokens and counts bits; a player predicts logits and may adapt."""
