#!/bin/sh
# Checks the built helper: under 1.5 MB, and on linux-gnu without a dynamic loader.
# Usage: benches/helper_size.sh [PATH]
set -eu
helper=${1:-$(dirname "$0")/../target/release/git-credential-scm-agent}
limit=1500000
size=$(wc -c < "$helper")
echo "$helper: $size bytes of $limit"
[ "$size" -lt "$limit" ] || { echo "too large" >&2; exit 1; }
if command -v readelf > /dev/null; then
    if readelf --program-headers --wide "$helper" | grep -q INTERP; then
        echo "linked dynamically: it starts slower (see build.rs)" >&2
        exit 1
    fi
fi
