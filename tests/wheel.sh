#!/usr/bin/env bash
# Build the wheel, install it in an empty environment, and use it there: train, score, compress and restore at toy size.
# Usage: tests/wheel.sh PYTHON
set -euo pipefail
python=$(realpath --no-symlinks "$1")
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$folder" .
"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "$folder"/bitgolf-*.whl
cd "$folder"  # not the checkout: only the wheel can be imported
export PATH="$folder/venv/bin:$PATH" PYTHONPATH=
bitgolf --version
bitgolf recipes > recipes.txt
grep -q pr1855 recipes.txt  # published.json is in the wheel
toy=()
for setting in tokens.vocab=600 model.dim=32 model.layers=2 train.seconds=0 train.steps=5 proof=none 'score=(ContiguousScoring(window=256),)'; do
  toy+=(--set "$setting")
done
bitgolf run quickstart --out run "${toy[@]}"
echo 'a file to compress' > file
bitgolf compress run file file.bgz
bitgolf decompress run file.bgz restored
cmp file restored
bitgolf to-web run page
grep -q 'const model' page/index.html  # its scripts are in the wheel
python - <<'END'
from importlib.resources import files
import bitgolf
assert files("bitgolf").joinpath("py.typed").is_file() and files("bitgolf").joinpath("parts.pyi").is_file()
model = bitgolf.load("run")
assert model.decompress(open("file.bgz", "rb").read()) == open("file", "rb").read()
END
echo "the wheel works: $(ls "$folder"/bitgolf-*.whl | xargs basename)"
