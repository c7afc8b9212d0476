"""Methods whose player changes while it is scored: by documents, by chunks of the stream, or by counting what it saw."""
