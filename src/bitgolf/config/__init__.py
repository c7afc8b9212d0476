"""Recipes: trees of typed constructors, rules over parameters, edits of trees, and the registry of parts."""
