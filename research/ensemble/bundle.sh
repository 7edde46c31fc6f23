#!/usr/bin/env bash
# Packs the packages that `research.ensemble.experiments run` imports, for a machine with a GPU and torch, tokenizers, numpy, scipy and
# matplotlib, but without an index, Ray and vLLM. There: unpack into a folder and put the folder on PYTHONPATH.
#   bash research/ensemble/bundle.sh OUT.tar.xz [PYTHON_VERSION]
set -euo pipefail
out=$(realpath "${1:?usage: bundle.sh OUT.tar.xz [PYTHON_VERSION]}")
version=${2:-3.12}
lock=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../../requirements/cpu.lock")
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
names='pyarrow|pydantic|pydantic_core|annotated-types|typing-inspection|typing_extensions|boto3|botocore|s3transfer|jmespath|rich|cloudpickle|dill|imagehash|datasketch'
grep -iE "^($names)==" "$lock" >"$room/wanted"
platforms=()
for glibc in 2_28 2_27 2_17; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
python3 -m pip download -q --no-deps --only-binary=:all: --python-version "$version" --implementation cp \
    "${platforms[@]}" --platform manylinux2014_x86_64 --platform any -r "$room/wanted" -d "$room/wheels"
mkdir "$room/site" && cd "$room/site"
for wheel in "$room"/wheels/*.whl; do unzip -qo "$wheel"; done
# what is large and never imported here
rm -rf pyarrow/tests pyarrow/include pyarrow/libarrow_flight* pyarrow/_flight*
find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 -exec rm -rf {} +
XZ_OPT="-T0" tar -cJf "$out" .
du -h "$out"
