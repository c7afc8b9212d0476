"""The Python interface: what `import bitgolf` offers. It calls the same functions as the command line.

`models`: a packed model. `runs`: training, and the results of a run. `recipes`: recipes by name. `tables`: rows with
named columns. `calls`: what every call does for the program that makes it.
"""
