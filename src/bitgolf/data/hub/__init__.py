"""Published shards from the Hugging Face hub, through the package `huggingface_hub` (extra `hub`).

`published`: the known sets by name. `client`: requests, retries and errors. `selection`: which files of a repository
make a folder of shards. `download`: one file, resumed and verified. `record`: `fetched.json`. `fetch`: all of it.
"""
