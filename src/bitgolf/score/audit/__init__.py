"""Audits of any evaluation, ours or foreign, by what it does: it is run again on text that was altered."""
