"""Experiments of the branch of pull request 1512, one of the four systems that Bitgolf started from.

Each function of a module here is a recipe of the same name, written as its difference from the system that it varies.
What the experiments have in common is in functions that begin with `_`. Their results, failures included, are in
`published.json`, in the table `experiments`; `bitgolf recipes` lists them below the published systems.
"""
