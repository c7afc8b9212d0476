"""Record folders of the challenge, of anybody: read without being run, and checked against rules."""
