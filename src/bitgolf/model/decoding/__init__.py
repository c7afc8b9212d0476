"""Reading a text piece by piece: key/value cache, incremental decoding, generation."""
