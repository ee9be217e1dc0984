#!/bin/sh
# Has the program write its manual pages and completions, laid out as below PREFIX/share: `share.sh BIN_DIR SHARE_DIR`.
#
# build-deb.py and install.sh run it. Before cargo-deb: `packaging/share.sh target/release target/release/share`.
set -eu
umask 022

agent=$1/scm-agent
share=$2

# The day on the pages: that of the package's last entry, so that the same source makes the same pages.
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(date -d "$(sed -n 's/^ -- .*>  //p' "$(dirname "$0")/debian/changelog" | head -n 1)" +%s)
    export SOURCE_DATE_EPOCH
fi

"$agent" man "$share/man" >/dev/null
mkdir -p "$share/bash-completion/completions" "$share/zsh/site-functions" "$share/fish/vendor_completions.d"
"$agent" completions bash >"$share/bash-completion/completions/scm-agent"
"$agent" completions zsh >"$share/zsh/site-functions/_scm-agent"
"$agent" completions fish >"$share/fish/vendor_completions.d/scm-agent.fish"
