//! Tells which of the forms of a key a file holds, and takes the key out of it. What is no key is named as well as can be.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use pkcs8::der::asn1::{AnyRef, BitStringRef, OctetStringRef};
use pkcs8::der::pem;
use pkcs8::der::{Decode, Encode as _, Reader, SliceReader, Tag};
use pkcs8::{AlgorithmIdentifierRef, ObjectIdentifier, PrivateKeyInfo, SubjectPublicKeyInfoRef};
use zeroize::Zeroizing;

use super::sealed_box::KEY_BYTES;
use super::{Problem, encryption};

/// `rsaEncryption` (RFC 8017 appendix A.1).
const RSA_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// `id-RSAES-OAEP` and `id-RSASSA-PSS`.
const RESTRICTED_RSA_OIDS: [ObjectIdentifier; 2] =
    [ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.7"), ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10")];
/// `id-X25519`, `id-X448` and the signing keys beside them (RFC 8410 section 3).
const X25519_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.110");
const X448_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.111");
const EDWARDS_OIDS: [ObjectIdentifier; 2] = [ObjectIdentifier::new_unwrap("1.3.101.112"), ObjectIdentifier::new_unwrap("1.3.101.113")];
/// `id-ecPublicKey` (RFC 5480).
const EC_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// The algorithm identifier of a plain RSA key: its parameters are NULL.
pub(super) const RSA: AlgorithmIdentifierRef<'static> = AlgorithmIdentifierRef { oid: RSA_OID, parameters: Some(AnyRef::NULL) };
/// The algorithm identifier of an X25519 key: no parameters.
pub(super) const X25519: AlgorithmIdentifierRef<'static> = AlgorithmIdentifierRef { oid: X25519_OID, parameters: None };

/// A key as it was found.
pub(super) enum Form {
    /// RSAPrivateKey (RFC 8017 appendix A.1.2).
    RsaPrivate(Zeroizing<Vec<u8>>),
    /// RSAPublicKey (RFC 8017 appendix A.1.1).
    RsaPublic(Vec<u8>),
    /// A Curve25519 scalar, with the public half if it was stored beside it.
    X25519Private { scalar: Zeroizing<Vec<u8>>, public: Option<Vec<u8>> },
    /// A Curve25519 u-coordinate.
    X25519Public(Vec<u8>),
    /// 32 bytes, raw or in base64, that do not say which half they are.
    Bare(Zeroizing<Vec<u8>>),
}

/// Reads a key in any of its forms.
pub(super) fn read(bytes: &[u8], passphrase: Option<&[u8]>) -> Result<Form, Problem> {
    if bytes.len() == KEY_BYTES {
        return if is_text(bytes) { Err(Problem::TextNotRaw) } else { bare(bytes) };
    }
    match pem_blocks(bytes) {
        0 => {}
        1 => return read_pem(bytes, passphrase),
        count => return Err(Problem::Several { count }),
    }
    if is_text(bytes) { read_text(bytes) } else { read_der(bytes, passphrase) }
}

/// The SubjectPublicKeyInfo of a key.
pub(super) fn spki(algorithm: AlgorithmIdentifierRef<'_>, key: &[u8]) -> Option<Vec<u8>> {
    let subject_public_key = BitStringRef::from_bytes(key).ok()?;
    SubjectPublicKeyInfoRef { algorithm, subject_public_key }.to_der().ok()
}

fn bare(raw: &[u8]) -> Result<Form, Problem> {
    if raw.iter().all(|byte| *byte == raw[0]) {
        return Err(Problem::NotRandom);
    }
    if starts_like_der(raw) {
        return Err(Problem::DamagedDer);
    }
    Ok(Form::Bare(Zeroizing::new(raw.to_vec())))
}

/// Whether the bytes begin as a key's DER does, so that the first 32 bytes of a longer file are not taken for a raw key. Of all
/// raw keys, one in a billion begins so.
fn starts_like_der(bytes: &[u8]) -> bool {
    let content = match bytes {
        [0x30, 0x82, _, _, content @ ..] | [0x30, 0x81, _, content @ ..] | [0x30, ..=0x7f, content @ ..] => content,
        _ => return false,
    };
    // A version, or an algorithm identifier: ISO members' bodies (1.2), identified organisations (1.3).
    matches!(content, [0x02, 0x01, 0 | 1, 0x02 | 0x30, ..] | [0x30, _, 0x06, _, 0x2a | 0x2b, ..] | [0x30, _, 0x30, _, 0x06, ..])
}

fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace())
}

const PEM_BEGIN: &[u8] = b"-----BEGIN ";

fn pem_blocks(bytes: &[u8]) -> usize {
    bytes.windows(PEM_BEGIN.len()).filter(|window| *window == PEM_BEGIN).count()
}

fn read_pem(bytes: &[u8], passphrase: Option<&[u8]>) -> Result<Form, Problem> {
    let begin = bytes.windows(PEM_BEGIN.len()).position(|window| window == PEM_BEGIN).ok_or(Problem::DamagedPem)?;
    let mut lines = bytes[begin..].split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    let label = lines.next().and_then(|line| line.strip_prefix(PEM_BEGIN)?.strip_suffix(b"-----")).ok_or(Problem::DamagedPem)?;
    let first_line = lines.next().unwrap_or_default();
    if first_line.starts_with(b"Proc-Type:") {
        return Err(Problem::EncryptionTraditional);
    }
    match label {
        b"CERTIFICATE" | b"TRUSTED CERTIFICATE" | b"X509 CERTIFICATE" => return Err(Problem::Certificate),
        b"CERTIFICATE REQUEST" | b"NEW CERTIFICATE REQUEST" => return Err(Problem::CertificateRequest),
        b"OPENSSH PRIVATE KEY" => return Err(Problem::OpenSsh),
        b"EC PRIVATE KEY" | b"EC PARAMETERS" => return Err(Problem::EllipticCurve),
        b"DSA PRIVATE KEY" => return Err(Problem::UnsupportedAlgorithm),
        b"PRIVATE KEY" | b"ENCRYPTED PRIVATE KEY" | b"RSA PRIVATE KEY" | b"PUBLIC KEY" | b"RSA PUBLIC KEY" => {}
        _ => return Err(Problem::Unrecognised),
    }
    let der = decode_pem(bytes[begin..].trim_ascii_end(), first_line.len())?;
    match label {
        b"PRIVATE KEY" => private_key_info(&der),
        b"ENCRYPTED PRIVATE KEY" => encrypted_private_key_info(&der, passphrase),
        b"RSA PRIVATE KEY" => Ok(Form::RsaPrivate(der)),
        b"PUBLIC KEY" => subject_public_key_info(&der),
        _ => Ok(Form::RsaPublic(der.to_vec())),
    }
}

/// Decodes in constant time, into a buffer of full size. Lines may have any width, so long as it is the same one.
fn decode_pem(text: &[u8], line_width: usize) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let mut decoder = pem::Decoder::new_wrapped(text, line_width).map_err(|_| Problem::DamagedPem)?;
    let mut der = Zeroizing::new(vec![0; decoder.remaining_len()]);
    decoder.decode(&mut der).map_err(|_| Problem::DamagedPem)?;
    Ok(der)
}

fn read_text(bytes: &[u8]) -> Result<Form, Problem> {
    let text = bytes.trim_ascii();
    if text.starts_with(b"{") || text.starts_with(b"[") {
        return Err(Problem::Json);
    }
    if text.starts_with(b"PuTTY-User-Key-File") {
        return Err(Problem::Putty);
    }
    if text.starts_with(b"ssh-") || text.starts_with(b"ecdsa-sha2-") {
        return Err(Problem::OpenSshPublic);
    }
    // 43 or 44 characters; the buffer has the room that the decoder asks for.
    if !(43..=44).contains(&text.len()) {
        return Err(Problem::Unrecognised);
    }
    let mut decoded = Zeroizing::new([0; KEY_BYTES + 1]);
    for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
        if engine.decode_slice(text, decoded.as_mut_slice()) == Ok(KEY_BYTES) {
            return bare(&decoded[..KEY_BYTES]);
        }
    }
    Err(Problem::Unrecognised)
}

fn read_der(der: &[u8], passphrase: Option<&[u8]>) -> Result<Form, Problem> {
    let fields = sequence_tags(der).ok_or(if starts_like_der(der) { Problem::DamagedDer } else { Problem::Unrecognised })?;
    match fields.as_slice() {
        // PrivateKeyInfo, version first
        [Tag::Integer, Tag::Sequence, Tag::OctetString, ..] => private_key_info(der),
        // PFX: version, content
        [Tag::Integer, Tag::Sequence, ..] => Err(Problem::Pkcs12),
        // ECPrivateKey (RFC 5915)
        [Tag::Integer, Tag::OctetString, ..] => Err(Problem::EllipticCurve),
        [Tag::Integer, Tag::Integer] => Ok(Form::RsaPublic(der.to_vec())),
        [Tag::Integer, Tag::Integer, Tag::Integer, ..] => Ok(Form::RsaPrivate(Zeroizing::new(der.to_vec()))),
        [Tag::Sequence, Tag::OctetString] => encrypted_private_key_info(der, passphrase),
        [Tag::Sequence, Tag::BitString] => subject_public_key_info(der),
        // Certificate and CertificationRequest: content, algorithm, signature. A request's content starts with its version,
        // a name and a key; a certificate's version, if it has one, is wrapped.
        [Tag::Sequence, Tag::Sequence, Tag::BitString] => match first_of(der).and_then(sequence_tags).as_deref() {
            Some([Tag::Integer, Tag::Sequence, Tag::Sequence, Tag::ContextSpecific { .. }]) => Err(Problem::CertificateRequest),
            _ => Err(Problem::Certificate),
        },
        _ => Err(Problem::Unrecognised),
    }
}

/// The tags of a SEQUENCE's fields, if that is what the whole of the bytes is.
fn sequence_tags(der: &[u8]) -> Option<Vec<Tag>> {
    fields(der)?.into_iter().map(|field| SliceReader::new(field).ok()?.peek_tag().ok()).collect()
}

fn first_of(der: &[u8]) -> Option<&[u8]> {
    fields(der)?.first().copied()
}

/// The fields of a SEQUENCE, each with its tag and length; at most as many as any key has.
fn fields(der: &[u8]) -> Option<Vec<&[u8]>> {
    let mut outer = SliceReader::new(der).ok()?;
    let header = outer.peek_header().ok()?;
    if header.tag != Tag::Sequence {
        return None;
    }
    let whole = outer.tlv_bytes().ok()?;
    if !outer.is_finished() {
        return None;
    }
    let content = &whole[whole.len() - usize::try_from(header.length).ok()?..];
    let mut inner = SliceReader::new(content).ok()?;
    let mut found = Vec::new();
    while !inner.is_finished() && found.len() < 16 {
        found.push(inner.tlv_bytes().ok()?);
    }
    Some(found)
}

fn private_key_info(der: &[u8]) -> Result<Form, Problem> {
    let info = PrivateKeyInfo::from_der(der).map_err(|_| Problem::DamagedDer)?;
    match info.algorithm.oid {
        RSA_OID => Ok(Form::RsaPrivate(Zeroizing::new(info.private_key.to_vec()))),
        X25519_OID => {
            // The scalar is an OCTET STRING inside the OCTET STRING (RFC 8410 section 7).
            let scalar = OctetStringRef::from_der(info.private_key).map_err(|_| Problem::DamagedDer)?.as_bytes();
            Ok(Form::X25519Private { scalar: Zeroizing::new(scalar.to_vec()), public: info.public_key.map(<[u8]>::to_vec) })
        }
        oid => Err(unsupported(oid)),
    }
}

fn encrypted_private_key_info(der: &[u8], passphrase: Option<&[u8]>) -> Result<Form, Problem> {
    if sequence_tags(der).as_deref() != Some(&[Tag::Sequence, Tag::OctetString]) {
        return Err(Problem::DamagedDer);
    }
    let decrypted = encryption::decrypt(der, passphrase)?;
    // Good padding by chance, but no key inside: still the passphrase.
    private_key_info(&decrypted).map_err(|problem| if problem == Problem::DamagedDer { Problem::PassphraseWrong } else { problem })
}

fn subject_public_key_info(der: &[u8]) -> Result<Form, Problem> {
    let info = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| Problem::DamagedDer)?;
    let key = info.subject_public_key.as_bytes().ok_or(Problem::DamagedDer)?.to_vec();
    match info.algorithm.oid {
        RSA_OID => Ok(Form::RsaPublic(key)),
        X25519_OID => Ok(Form::X25519Public(key)),
        oid => Err(unsupported(oid)),
    }
}

fn unsupported(oid: ObjectIdentifier) -> Problem {
    match oid {
        EC_OID => Problem::EllipticCurve,
        X448_OID => Problem::X448,
        oid if EDWARDS_OIDS.contains(&oid) => Problem::Edwards,
        oid if RESTRICTED_RSA_OIDS.contains(&oid) => Problem::RestrictedRsa,
        _ => Problem::UnsupportedAlgorithm,
    }
}
