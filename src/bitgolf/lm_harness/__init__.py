"""Models of Bitgolf in EleutherAI's lm-evaluation-harness. Needs the extra `lm-eval`.

Importing `bitgolf.lm_harness.model` registers them under the name `bitgolf`; `python -m bitgolf.lm_harness` is the
command of the harness with that name.
"""
