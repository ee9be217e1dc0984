#!/bin/sh
# Installs what was built, without a package: `packaging/install.sh [BIN_DIR]`, by default target/release. `--uninstall` takes it away
# again, and leaves configuration, keys and state where they are.
#
#   PREFIX=/usr/local   programs, units, manual pages, completions; /etc/scm-agent/config.toml is written too where there is none
#   DESTDIR=            a folder to write all of this into instead of /, as packagers do; no user is made then, and systemd not told
set -eu
umask 022

usage() {
    sed -n '2,6s/^#\( \|$\)//p' "$0" >&2
    exit 2
}

uninstall=
bin_dir=
for argument in "$@"; do
    case $argument in
        --uninstall) uninstall=yes ;;
        -* | '') usage ;;
        *) [ -z "$bin_dir" ] || usage; bin_dir=$argument ;;
    esac
done

here=$(cd "$(dirname "$0")" && pwd)
top=$(dirname "$here")
: "${PREFIX:=/usr/local}" "${DESTDIR:=}"
: "${bin_dir:=$top/target/release}"
for folder in "$PREFIX" "${DESTDIR:-/}"; do
    case $folder in
        *[!A-Za-z0-9/._+~-]* | [!/]*) echo "install.sh: not an absolute path of plain characters: $folder" >&2; exit 2 ;;
    esac
done
root=$DESTDIR$PREFIX
doc=$root/share/doc/scm-agent

# Only on the machine that it is for.
live() { [ -z "$DESTDIR" ]; }
systemd() { live && [ -d /run/systemd/system ]; }

if [ -n "$uninstall" ]; then
    if systemd; then
        systemctl disable --now --quiet scm-agent.socket scm-agent.service 2>/dev/null || true
    fi
    if live && [ -x "$root/bin/scm-agent" ] && command -v git >/dev/null; then
        # Or git would name a helper that is gone, for every user.
        "$root/bin/scm-agent" git unset --system || echo "install.sh: git's system configuration still has lines of scm-agent's" >&2
    fi
    rm -f "$root/bin/scm-agent" "$root/bin/git-credential-scm-agent"
    rm -f "$root/lib/systemd/system/scm-agent.service" "$root/lib/systemd/system/scm-agent.socket" "$root/lib/sysusers.d/scm-agent.conf"
    rm -f "$root/share/bash-completion/completions/scm-agent" "$root/share/zsh/site-functions/_scm-agent"
    rm -f "$root/share/fish/vendor_completions.d/scm-agent.fish"
    rm -f "$root"/share/man/man1/scm-agent.1 "$root"/share/man/man1/scm-agent-*.1 "$root/share/man/man1/git-credential-scm-agent.1"
    rm -f "$root/share/man/man5/scm-agent.toml.5"
    rm -f "$DESTDIR/etc/logrotate.d/scm-agent"
    rm -rf "$doc"
    if systemd; then
        systemctl daemon-reload
        systemctl reset-failed scm-agent.service scm-agent.socket 2>/dev/null || true
    fi
    live && echo "left: /etc/scm-agent, /var/lib/scm-agent, the user and group scm-agent; the guide says how to remove them"
    exit 0
fi

for program in scm-agent git-credential-scm-agent; do
    [ -x "$bin_dir/$program" ] || { echo "install.sh: there is no $bin_dir/$program; first: cargo build --release" >&2; exit 1; }
done

mkdir -p "$root/bin" "$root/lib/systemd/system" "$root/lib/sysusers.d" "$root/share" "$doc" "$DESTDIR/etc/scm-agent"
# Unless they are there already: cargo install --root PREFIX.
[ "$bin_dir" -ef "$root/bin" ] || install -m 755 "$bin_dir/scm-agent" "$bin_dir/git-credential-scm-agent" "$root/bin/"
for unit in scm-agent.service scm-agent.socket; do
    sed -e "s|/usr/bin/scm-agent|$PREFIX/bin/scm-agent|" -e "s|/usr/share/doc|$PREFIX/share/doc|" "$here/$unit" \
        >"$root/lib/systemd/system/$unit"
done
install -m 644 "$here/scm-agent.sysusers" "$root/lib/sysusers.d/scm-agent.conf"
"$here/share.sh" "$bin_dir" "$root/share"
install -m 644 "$top/README.md" "$top/SECURITY.md" "$top/CHANGELOG.md" "$top/LICENSE" "$top/config.example.toml" "$doc/"
(cd "$top" && find docs keys/README.md -type f -exec install -D -m 644 '{}' "$doc/{}" ';')
# Where there is no logrotate, nobody reads it.
[ -e "$DESTDIR/etc/logrotate.d/scm-agent" ] || install -D -m 644 "$here/scm-agent.logrotate" "$DESTDIR/etc/logrotate.d/scm-agent"
config=$DESTDIR/etc/scm-agent/config.toml
[ -e "$config" ] || install -m 644 "$top/config.example.toml" "$config"

if live; then
    if command -v systemd-sysusers >/dev/null; then
        systemd-sysusers "$root/lib/sysusers.d/scm-agent.conf"
    elif ! getent passwd scm-agent >/dev/null; then
        useradd --system --user-group --no-create-home --home-dir /var/lib/scm-agent --shell /usr/sbin/nologin scm-agent
    fi
fi
if systemd; then
    systemctl daemon-reload
    # After an upgrade; git waits in the socket meanwhile.
    systemctl try-restart scm-agent.service || echo "install.sh: scm-agent did not start again; see: systemctl status scm-agent" >&2
fi
echo "installed into $root; next: $doc/docs/operators-guide.md"
