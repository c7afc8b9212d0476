"""The model (`LM`) and its parts. This package depends on no optimizer and no codec."""
