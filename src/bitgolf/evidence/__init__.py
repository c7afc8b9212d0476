"""Evidence bundles: everything that supports a result in one file, and the checks that anybody can repeat offline."""
