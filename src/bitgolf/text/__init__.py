"""Text: reading documents, splitting them into training and validation, and case operators."""
