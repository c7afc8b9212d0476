#!/usr/bin/env bash
# Make FOLDER: Debian's Python and this project's packages for Linux on 64-bit ARM, to run under qemu-aarch64.
# Nothing else is changed. Needs Debian's apt-get, pip of PYTHON, and 1.1 GB. Usage: tests/arm_environment.sh PYTHON FOLDER
set -euo pipefail
python=$(realpath --no-symlinks "$1")
constraints=$(realpath "$(dirname "$0")/../constraints.txt")
mkdir -p "$2" && cd "$2"
trap 'rm -rf apt constraints.txt' EXIT

# An apt of its own, with nothing installed: `install` then downloads all that Python needs.
mkdir -p apt/lists/partial apt/cache/archives/partial
touch apt/status
cat > apt/configuration <<END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Sandbox::User "";
Dir::State "$PWD/apt";
Dir::State::lists "$PWD/apt/lists";
Dir::State::status "$PWD/apt/status";
Dir::Cache "$PWD/apt/cache";
Debug::NoLocking "true";
END
export APT_CONFIG=$PWD/apt/configuration
apt-get update --quiet --quiet
apt-get install --quiet --quiet --yes --download-only --no-install-recommends python3 libstdc++6 libgomp1
for package in apt/cache/archives/*.deb; do dpkg --extract "$package" root; done
test -e root/lib || ln -s usr/lib root/lib  # Debian 13 has the loader there only

# 2.10 is the last torch whose wheel for ARM does not need the libraries of CUDA. constriction has no wheel.
version=$(readlink root/usr/bin/python3)
grep -Ev '^(torch|triton|constriction)==' "$constraints" > constraints.txt
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --upgrade --target packages \
  --constraint constraints.txt --only-binary :all: --implementation cp --python-version "${version#python}" \
  --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
  --platform manylinux2014_aarch64 --platform any \
  torch==2.10.0 filelock fsspec jinja2 markupsafe mpmath networkx setuptools sympy typing-extensions \
  numpy scipy numba llvmlite msgspec safetensors sentencepiece brotli zstandard
touch ready
