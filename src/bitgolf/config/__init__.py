"""The language of recipes: trees of typed constructors, rules over parameters, edits, the registry of parts."""
