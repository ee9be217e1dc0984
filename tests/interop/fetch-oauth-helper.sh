#!/usr/bin/env bash
# Brings git-credential-oauth into a folder: `fetch-oauth-helper.sh SUITE VERSION SHA256 DIR`, after which DIR/git-credential-oauth is it.
#
# From a suite of Debian, through the mirror that this machine has for its own; nothing of the system's is touched. The version of
# Debian 12 makes code verifiers that RFC 7636 does not allow, and a certified issuer refuses them. apt checks what Debian signed.
# When the suite has another version by now, that one is taken and DIR/moved says so.
set -euo pipefail

suite=$1 version=$2 sha256=$3 dir=$4
keys=/usr/share/keyrings/debian-archive-keyring.gpg

codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
# apt need not have been updated for that.
mirror=$(apt-get indextargets --no-release-info --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk -v release="$codename" '$2 == release && $3 == "main" && !found++ { print $1 }')
[ -n "$mirror" ] && [ -e "$keys" ] || { echo "this is not Debian, or apt knows no mirror of it"; exit 1; }

rm -rf "$dir"
mkdir -p "$dir/apt/state/lists/partial" "$dir/apt/cache/archives/partial"
dir=$(cd "$dir" && pwd)
apt=$dir/apt
: >"$apt/state/status"
echo "deb [signed-by=$keys] $mirror $suite main" >"$apt/sources.list"

# apt-get in a world where there is one suite, and nothing is installed.
private_apt() {
    apt-get -q -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null -o Dir::State="$apt/state" \
        -o Dir::State::status="$apt/state/status" -o Dir::Cache="$apt/cache" -o APT::Sandbox::User= -o Acquire::Languages=none "$@"
}

private_apt update
cd "$apt"
private_apt download git-credential-oauth
package=$(echo git-credential-oauth_*.deb)
found=$(dpkg-deb -f "$package" Version)
if [ "$found" = "$version" ]; then
    echo "$sha256  $package" | sha256sum --check
else
    echo "Debian's $suite has git-credential-oauth $found now, and no longer $version" >"$dir/moved"
fi
dpkg-deb -x "$package" tree
mv tree/usr/bin/git-credential-oauth "$dir"
cd "$dir"
rm -rf "$apt"
# It starts: in Go, it needs no more than a C library.
"$dir/git-credential-oauth" capability >/dev/null
