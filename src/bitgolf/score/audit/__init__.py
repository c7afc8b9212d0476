"""Audits of evaluations, ours or third-party: run an evaluation on altered texts and compare its bits."""
