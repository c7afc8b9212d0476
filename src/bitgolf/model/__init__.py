"""The model: one skeleton, parts in its sockets. Knows no optimizer and no quantizer."""
