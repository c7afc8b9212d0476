"""The artifact: its container format, the model stored in it, and the ledger of its bytes."""
