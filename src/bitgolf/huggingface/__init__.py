"""Artifacts as folders of Hugging Face: weights, tokenizer, model card, and code that `transformers` loads.

`modeling` and `tokenization` are imported by no module of the package: `source` makes the files of a folder from them.
"""
