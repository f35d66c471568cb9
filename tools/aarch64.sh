#!/usr/bin/env bash
# Runs a Python script as on a 64-bit ARM phone, under emulation, on Debian or Ubuntu for x86-64:
#
#   tools/aarch64.sh FOLDER SCRIPT [ARGUMENTS...]
#
# The first call sets FOLDER up (about 5 minutes, network needed, nothing is installed in the system): an emulator,
# Python 3.11 for arm64, numpy and ai-edge-litert. The emulator comes from Debian trixie, since the one of bookworm
# crashes inside the interpreter. What the script computes is right; how long it takes means nothing.
set -euo pipefail

folder=$(realpath -m "$1")
script=$(realpath "$2")
shift 2
mkdir -p "$folder"

mirror() {
    apt-cache policy | grep -oE 'https?://[^ ]+/debian/? [a-z]+/main' | grep -vE 'security|snapshot' | head -1 | cut -d' ' -f1
}

# apt_for ARCHITECTURE SUITE: options that give apt-get a package list of its own for that architecture and release.
apt_for() {
    local state="$folder/apt-$1-$2"
    mkdir -p "$state/lists/partial" "$state/archives/partial"
    : >"$state/status"
    echo "deb $MIRROR $2 main" >"$state/sources.list"
    echo "-o APT::Architecture=$1 -o APT::Architectures=$1 -o Dir::Etc::sourcelist=$state/sources.list" \
        "-o Dir::Etc::sourceparts=/dev/null -o Dir::State=$state -o Dir::State::status=$state/status -o Dir::Cache=$state"
}

set_up() {
    MIRROR=$(mirror)
    [ -n "$MIRROR" ] || MIRROR=http://deb.debian.org/debian
    local options packages wheels
    mkdir -p "$folder"/{emulator,packages,root}

    options=$(apt_for amd64 trixie)
    apt-get $options -qq update
    (cd "$folder/emulator" && apt-get $options -qq download qemu-user && dpkg -x qemu-user_*.deb .)

    options=$(apt_for arm64 bookworm)
    apt-get $options -qq update
    packages=$(apt-get $options -y --no-install-recommends --print-uris install python3.11 python3.11-venv libstdc++6 |
        sed -nE "s#^'[^']*/([^/_]+)_[^']*'.*#\1#p" | sed 's/%2b/+/g' | sort -u)
    (cd "$folder/packages" && apt-get $options -qq download $packages &&
        for package in *.deb; do dpkg -x "$package" ../root; done)

    wheels=()
    for glibc in 2014 _2_17 _2_27 _2_28 _2_31 _2_34 _2_35; do wheels+=(--platform "manylinux${glibc}_aarch64"); done
    python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --target "$folder/site" --python-version 3.11 --implementation cp --abi cp311 \
        --only-binary=:all: "${wheels[@]}" ai-edge-litert numpy
    touch "$folder/ready"
}

[ -e "$folder/ready" ] || set_up >&2
exec "$folder/emulator/usr/bin/qemu-aarch64" -cpu cortex-a76 -L "$folder/root" -E PYTHONHOME="$folder/root/usr" \
    -E PYTHONPATH="$folder/site" -E PYTHONDONTWRITEBYTECODE=1 "$folder/root/usr/bin/python3.11" "$script" "$@"
