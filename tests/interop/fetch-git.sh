#!/usr/bin/env bash
# Brings one git of another version into a folder: `fetch-git.sh SUITE VERSION SHA256 DIR`, after which DIR/bin/git is that git.
#
# It comes from a suite of Debian, through the mirror that this machine has for its own, with every library that it needs, its C
# library included. So it runs on whatever release this is, and nothing of the system's is touched. apt checks what Debian signed;
# the checksum is of the git package. When the suite has another version by now, that one is taken and DIR/moved says so.
set -euo pipefail

suite=$1 version=$2 sha256=$3 dir=$4
keys=/usr/share/keyrings/debian-archive-keyring.gpg
apt=$dir/apt

# The mirror of this machine's own release; apt need not have been updated for that.
mirror() {
    local codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    apt-get indextargets --no-release-info --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk -v release="$codename" '$2 == release && $3 == "main" && !found++ { print $1 }'
}

# apt-get in a world where there is one suite, and nothing is installed.
private_apt() {
    apt-get -q -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null -o Dir::State="$apt/state" \
        -o Dir::State::status="$apt/state/status" -o Dir::Cache="$apt/cache" -o APT::Sandbox::User= \
        -o APT::Install-Recommends=false -o Acquire::Languages=none "$@"
}

download() {
    mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
    : >"$apt/state/status"
    echo "deb [signed-by=$keys] $1 $suite main" >"$apt/sources.list"
    private_apt update
    private_apt install -y --download-only git
}

check() {
    local package found
    package=$(find "$apt/cache/archives" -name 'git_*.deb')
    found=$(dpkg-deb -f "$package" Version)
    if [ "$found" = "$version" ]; then
        echo "$sha256  $package" | sha256sum --check
    else
        echo "Debian's $suite has git $found now, and no longer $version" >"$dir/moved"
    fi
}

# Leaves bin, git-core, templates and lib.
unpack() {
    local tree=$apt/tree package
    mkdir -p "$tree" "$dir/bin" "$dir/lib"
    for package in "$apt/cache/archives"/*.deb; do
        # All that git needs from perl is add -i and send-email.
        case ${package##*/} in perl* | libperl* | liberror-perl* | git-man*) continue ;; esac
        dpkg-deb -x "$package" "$tree"
    done
    find "$tree" -path '*-linux-gnu*' \( -name '*.so' -o -name '*.so.*' \) ! -path '*/gconv/*' ! -type d -exec cp -P -t "$dir/lib" {} +
    mv "$tree/usr/lib/git-core" "$tree/usr/share/git-core/templates" "$dir"
}

# Every program of git's becomes a script that starts it with the loader and the libraries that came with it.
wrap() {
    local loader program programs
    loader=$(find "$dir/lib" -name 'ld-linux*.so.*' -type f -printf '%f\n')
    mapfile -t programs < <(find "$dir/git-core" -type f -perm -u+x)
    for program in "${programs[@]}"; do
        [ "$(head -c 4 "$program")" = $'\x7fELF' ] || continue
        mv "$program" "$program.elf"
        printf '#!/bin/sh\nexec "%s" --library-path "%s" --argv0 "$0" "%s" "$@"\n' "$dir/lib/$loader" "$dir/lib" "$program.elf" >"$program"
        chmod 755 "$program"
    done
    printf '#!/bin/sh\nGIT_EXEC_PATH="%s" GIT_TEMPLATE_DIR="%s" exec "%s" "$@"\n' "$dir/git-core" "$dir/templates" "$dir/git-core/git" >"$dir/bin/git"
    chmod 755 "$dir/bin/git"
}

rm -rf "$dir"
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
apt=$dir/apt
archive=$(mirror)
[ -n "$archive" ] && [ -e "$keys" ] || { echo "this is not Debian, or apt knows no mirror of it"; exit 1; }
download "$archive"
check
unpack
wrap
rm -rf "$apt"
"$dir/bin/git" --version
# It starts, which is to say that it has its libraries.
grep -q usage <<<"$("$dir/bin/git" remote-https 2>&1)"
