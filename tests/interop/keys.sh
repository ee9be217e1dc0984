#!/bin/sh
# Holds scm-agent's key commands against OpenSSL and PyNaCl (libsodium), in both directions, on keys made a moment ago.
# Usage: tests/interop/keys.sh [SCM-AGENT]. Prints `ok NAME` or `not ok NAME` for each check; ends non-zero if one failed.
# Needs openssl and python3. PyNaCl comes from PyPI into a virtual environment under target/, or set PYTHON to one that has it.
set -u
cd "$(dirname "$0")/../.." || exit 1
agent=${1:-target/debug/scm-agent}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 077
failed=0

check() { # name, command...
    name=$1
    shift
    if "$@" >"$work/log" 2>&1; then
        echo "ok $name"
    else
        echo "not ok $name"
        sed 's/^/# /' "$work/log"
        failed=1
    fi
}
same() { # expected, found
    [ "$1" = "$2" ] || { echo "expected: $1"; echo "found: $2"; return 1; }
}

[ -x "$agent" ] || { echo "not ok binary: $agent is not there; run cargo build first"; exit 1; }
python=${PYTHON:-target/interop/keys-venv/bin/python}
if ! "$python" -c 'import nacl' 2>/dev/null; then
    if [ -n "${PYTHON:-}" ] || ! { python3 -m venv target/interop/keys-venv && "$python" -m pip -q install 'pynacl==1.5.0'; }; then
        echo "not ok pynacl: cannot be imported or installed"
        exit 1
    fi
fi

secret='8Q~ a+b/c=&% "quoted" \back'
fingerprint() { # OpenSSL's view of a private key file; more arguments go to openssl
    printf SHA256:
    openssl pkey "$@" -pubout -outform DER | openssl sha256 -binary | openssl base64 -A | tr -d =
}
shown() { # file, more arguments
    "$agent" key show "$@" | sed -n 's/^fingerprint  //p'
}
openssl_opens() { # key, hash
    found=$(openssl base64 -d -A -in "$work/sealed" | openssl pkeyutl -decrypt -inkey "$1" -pkeyopt rsa_padding_mode:oaep \
        -pkeyopt "rsa_oaep_md:$2" -pkeyopt "rsa_mgf1_md:$2") && same "$secret" "$found"
}
openssl_seals() { # key, hash
    openssl pkey -in "$1" -pubout -out "$work/public.pem" &&
        printf %s "$secret" | openssl pkeyutl -encrypt -pubin -inkey "$work/public.pem" -pkeyopt rsa_padding_mode:oaep \
            -pkeyopt "rsa_oaep_md:$2" -pkeyopt "rsa_mgf1_md:$2" | openssl base64 -A >"$work/sealed" &&
        same "$secret" "$("$agent" unseal --key "$1" --oaep-hash "$2" <"$work/sealed")"
}
agent_seals() { # key, hash
    printf '%s\n' "$secret" | "$agent" seal --key "$1" --oaep-hash "$2" >"$work/sealed"
}

### Keys that scm-agent makes
printf 'correct horse\n' >"$work/passphrase"
for algorithm in rsa-2048 rsa-3072 rsa-4096 x25519; do
    key=$work/$algorithm.pem
    check "keygen $algorithm" "$agent" keygen --algorithm "$algorithm" --out "$key"
    check "openssl checks $algorithm" openssl pkey -in "$key" -check -noout
    check "same fingerprint, $algorithm" same "$(fingerprint -in "$key")" "$(shown "$key")"
    check "same public PEM, $algorithm" same "$(openssl pkey -in "$key" -pubout)" "$("$agent" key show "$key" | sed -n '/-----BEGIN/,$p')"
    "$agent" keygen --algorithm "$algorithm" --out "$key.encrypted" --passphrase-file "$work/passphrase" >/dev/null 2>&1
    check "openssl opens encrypted $algorithm" openssl pkey -in "$key.encrypted" -passin "file:$work/passphrase" -check -noout
    check "same fingerprint, encrypted $algorithm" same \
        "$(fingerprint -in "$key.encrypted" -passin "file:$work/passphrase")" "$(shown "$key.encrypted" --passphrase-file "$work/passphrase")"
done
for algorithm in rsa-2048 rsa-3072 rsa-4096; do
    for hash in sha1 sha256 sha384 sha512; do
        check "openssl seals for $algorithm, $hash" openssl_seals "$work/$algorithm.pem" $hash
        agent_seals "$work/$algorithm.pem" $hash
        check "openssl opens what was sealed for $algorithm, $hash" openssl_opens "$work/$algorithm.pem" $hash
    done
done

### Keys that OpenSSL makes, in each form
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$work/o-rsa.pem" 2>/dev/null
openssl genpkey -algorithm X25519 -out "$work/o-x25519.pem"
for kind in rsa x25519; do
    key=$work/o-$kind
    expected=$(fingerprint -in "$key.pem")
    check "pem, $kind" same "$expected" "$(shown "$key.pem")"
    openssl pkey -in "$key.pem" -outform DER -out "$key.der"
    check "der, $kind" same "$expected" "$(shown "$key.der")"
    for form in PEM DER; do
        openssl pkcs8 -topk8 -in "$key.pem" -outform $form -scrypt -passout "file:$work/passphrase" -out "$key.encrypted"
        check "scrypt $form, $kind" same "$expected" "$(shown "$key.encrypted" --passphrase-file "$work/passphrase")"
        openssl pkcs8 -topk8 -in "$key.pem" -outform $form -passout "file:$work/passphrase" -out "$key.encrypted"
        check "openssl's default encryption $form, $kind" same "$expected" "$(shown "$key.encrypted" --passphrase-file "$work/passphrase")"
    done
done
for form in PEM DER; do
    openssl rsa -in "$work/o-rsa.pem" -traditional -outform $form -out "$work/o-pkcs1" 2>/dev/null
    check "pkcs1 $form" same "$(fingerprint -in "$work/o-rsa.pem")" "$(shown "$work/o-pkcs1")"
done
tail -c 32 "$work/o-x25519.der" >"$work/o-raw"
check "raw x25519" same "$(fingerprint -in "$work/o-x25519.pem")" "$(shown "$work/o-raw" --private)"
openssl base64 -in "$work/o-raw" -out "$work/o-base64"
check "base64 x25519" same "$(fingerprint -in "$work/o-x25519.pem")" "$(shown "$work/o-base64" --private)"

### Sealed boxes
openssl pkey -in "$work/x25519.pem" -outform DER | tail -c 32 >"$work/raw"
"$agent" key show "$work/x25519.pem" --json >"$work/shown.json"
nacl_seals() {
    "$python" - "$work/shown.json" "$secret" >"$work/sealed" <<'PYTHON' && same "$secret" "$("$agent" unseal --key "$work/x25519.pem" <"$work/sealed")"
import base64, json, sys
from nacl.public import PublicKey, SealedBox
key = base64.b64decode(json.load(open(sys.argv[1]))["public_key_base64"])
print(base64.b64encode(SealedBox(PublicKey(key)).encrypt(sys.argv[2].encode())).decode())
PYTHON
}
nacl_opens() {
    agent_seals "$work/x25519.pem" sha256 && same "$secret" "$("$python" - "$work/raw" "$work/sealed" <<'PYTHON'
import base64, sys
from nacl.public import PrivateKey, SealedBox
key = PrivateKey(open(sys.argv[1], "rb").read())
print(SealedBox(key).decrypt(base64.b64decode(open(sys.argv[2]).read())).decode())
PYTHON
)"
}
check "pynacl seals with the registered key" nacl_seals
check "pynacl opens what was sealed" nacl_opens

exit $failed
