#!/usr/bin/env bash
# Makes .venv with everything that `make demo` and `make test` need. Does nothing when the last setup still holds.
#
#   tools/setup.sh
#
# LEAML_EXTRA=cpu|gpu   which build; default: gpu where an NVIDIA driver answers, else cpu
# PYTHON=/path/to/python   interpreter to build from; default: the first of python3.11, 3.12, 3.13, python3 and python that
#                          is one pyproject.toml allows. Another version than that of .venv: .venv is made anew.
#
# Exact versions: of requirements/cpu.lock, or of gpu.lock (CUDA 13: NVIDIA's driver 580 or newer) and, for what only tests and
# linters need (requirements/dev.txt), of cpu.lock.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly TORCH=2.13.0+cpu
readonly TORCH_INDEX=https://download.pytorch.org/whl/cpu
readonly VENV_PYTHON=.venv/bin/python
readonly STAMP=.venv/setup.stamp
readonly LOG=.venv/setup.log

die() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

# phase "what" command...: one line with the seconds it took; the end of the log and the way on when it fails.
phase() {
    local what=$1 start=$SECONDS
    shift
    printf 'setup: %s ... ' "$what"
    printf '\n== %s\n' "$what" >>"$LOG"
    if "$@" >>"$LOG" 2>&1; then
        printf '%d s\n' "$((SECONDS - start))"
    else
        printf 'FAILED after %d s\n' "$((SECONDS - start))"
        tail -n 25 "$LOG" >&2
        die "$what failed; the whole output is in $LOG. Fix the cause and run it again: finished phases are quick."
    fi
}

# Minor versions: the oldest that pyproject.toml allows, and the first that it does not.
read -r oldest beyond < <(sed -nE 's/^requires-python = ">=3\.([0-9]+),<3\.([0-9]+)"$/\1 \2/p' pyproject.toml)
readonly oldest beyond ALLOWED="3.$oldest to 3.$((beyond - 1))"

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

is_allowed() {
    local version
    version=$(version_of "$1") && [[ $version == 3.* ]] && ((${version#3.} >= oldest && ${version#3.} < beyond))
}

find_python() {
    local candidate minor candidates=()
    for ((minor = oldest; minor < beyond; minor++)); do candidates+=("python3.$minor"); done
    candidates+=(python3 python)
    if [[ -n ${PYTHON:-} ]]; then candidates=("$PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        if is_allowed "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    die "Python $ALLOWED not found (tried: ${candidates[*]})." \
        "Install one (Debian: apt-get install python3 python3-venv; or pyenv install 3.$oldest)," \
        "or name it: PYTHON=/path/to/python3.$oldest make setup"
}

# What the environment was made for; a difference to the stamp means: set up again. Printed as "<hash> <extra> <folder>".
fingerprint() {
    "$VENV_PYTHON" -I -S - "$extra" <<'EOF'
import hashlib, pathlib, sys
files = ("requirements/cpu.lock", "requirements/gpu.lock", "requirements/dev.txt", "pyproject.toml", "tools/setup.sh", "tools/torchvision_cpu.py")
content = b"".join(pathlib.Path(f).read_bytes() for f in files)
packages = sorted(str(p) for p in pathlib.Path().glob("*/__init__.py"))  # a new one needs the editable install renewed
print(hashlib.sha256(content + repr(packages).encode()).hexdigest(), sys.argv[1], pathlib.Path.cwd())
EOF
}

make_venv() {
    "$1" -c 'import venv, ensurepip' || {
        echo "$1 cannot make a virtual environment: its venv or ensurepip module is missing."
        echo "Debian and Ubuntu ship them apart: apt-get install python$(version_of "$1")-venv"
        return 1
    }
    "$1" -m venv .venv
}

pip() {
    "$VENV_PYTHON" -m pip --disable-pip-version-check --no-input "$@"
}

install_torch_cpu() {
    pip install --no-deps --no-compile "torch==$TORCH" ||
        pip install --no-deps --no-compile --index-url "$TORCH_INDEX" "torch==$TORCH"
}

# Installs a lock file with one pip a core: pip downloads and unpacks one package at a time. Each has its own packages.
install_lock() {
    local parts number status=0 running=()
    parts=$(mktemp -d)
    grep -E '^[A-Za-z0-9]' "$1" | awk -v folder="$parts" -v cores="$(nproc)" '{ print > (folder "/" NR % cores) }'
    for number in "$parts"/*; do
        pip install --no-deps --no-compile -r "$number" &
        running+=($!)
    done
    for number in "${running[@]}"; do wait "$number" || status=1; done
    rm -rf "$parts"
    return "$status"
}

# What pip would do with one core. Some packages hold files for other versions of Python, which pip passes over too.
compile_all() {
    "$VENV_PYTHON" -m compileall -q -j 0 .venv/lib/python3.*/site-packages || true
}

# Names of CUDA builds beside the CPU torch, which break `import vllm`: left by some other tool, or put there by `pip install`.
cuda_wheels() {
    local name folder
    for name in torchvision torchaudio torchcodec triton; do
        for folder in .venv/lib/python3.*/site-packages/"$name"-*.dist-info; do
            if [[ -f $folder/METADATA && $folder != *+cpu.dist-info ]]; then printf '%s\n' "$name"; fi
        done
    done
}

install_cpu() {
    phase "torch $TORCH" install_torch_cpu
    phase "packages of requirements/cpu.lock" install_lock requirements/cpu.lock
    phase "torchvision for a CPU torch" "$VENV_PYTHON" tools/torchvision_cpu.py
    phase "bytecode" compile_all
    phase "project" pip install --no-deps --no-build-isolation -e .
    local left
    left=$(cuda_wheels)
    # shellcheck disable=SC2086  # several names
    if [[ -n $left ]]; then phase "CUDA wheels removed" pip uninstall --yes $left; fi
}

install_gpu() {
    phase "packages of requirements/gpu.lock" install_lock requirements/gpu.lock
    phase "packages of tests and linters" install_lock <(awk -F== 'NR == FNR { dev[$1]; next } $1 in dev' requirements/dev.txt requirements/cpu.lock)
    phase "bytecode" compile_all
    phase "project" pip install --no-deps --no-build-isolation -e .
}

extra=${LEAML_EXTRA:-}
if [[ -z $extra ]]; then
    extra=cpu
    if nvidia-smi -L >/dev/null 2>&1; then extra=gpu; fi
fi
[[ $extra == cpu || $extra == gpu ]] || die "LEAML_EXTRA=$extra is unknown; use cpu or gpu."

if [[ -n ${PYTHON:-} ]]; then
    python=$(find_python)
    if [[ $(version_of "$VENV_PYTHON") != "$(version_of "$python")" ]]; then rm -rf .venv; fi
fi
if is_allowed "$VENV_PYTHON" && [[ -f $STAMP ]]; then
    wanted=$(fingerprint)
    found=$(<"$STAMP")
    if [[ $found == "$wanted" && ($extra == gpu || -z $(cuda_wheels)) ]]; then exit 0; fi
    # Scripts inside name the folder they were made in, and CUDA and CPU packages do not mix: begin again.
    [[ ${found#* } == "${wanted#* }" ]] || rm -rf .venv
fi

if ! is_allowed "$VENV_PYTHON" || ! "$VENV_PYTHON" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    echo "setup: first time: about 4 GB go into .venv"
    rm -rf .venv
    mkdir .venv
    phase "virtual environment of Python $(version_of "$python")" make_venv "$python"
fi
first=yes
if [[ -f $STAMP ]]; then first=; fi
rm -f "$STAMP"

"install_$extra"
if [[ -n $first ]]; then phase "import torch, vllm" "$VENV_PYTHON" -c "import torch, vllm"; fi
fingerprint >"$STAMP"
