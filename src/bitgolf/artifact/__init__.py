"""The artifact: one file with recipe, tokenizer and coded weights; the model in it; its ledger of bytes."""
