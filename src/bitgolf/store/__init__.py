"""The runs below a folder, own and imported ones: an index that can always be rebuilt, lists and comparisons."""
