"""From arrays to the one file that ships: streams, lossless coders, the container, the ledger. Needs no torch."""
