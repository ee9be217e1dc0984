//! Hostile requests as text, from the parser to the registry: whatever is sent, no host is answered that is not exactly one of ours.

use scm_agent::git::CredentialRequest;
use scm_agent::integration::location::Location;
use scm_agent::integration::registry::{IntegrationRegistry, Lookup};

use super::lookalikes::{HOSTILE, victims};

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// The parser refused it.
    Refused,
    /// It is for nobody here.
    NotOurs,
    /// Some integration answers, or several would.
    Ours,
}

/// Sends a request through everything that says who answers.
fn fate(text: &[u8], registry: &IntegrationRegistry) -> Fate {
    let Ok(request) = CredentialRequest::parse(text) else { return Fate::Refused };
    let location = Location::from_git(
        request.protocol.as_bytes(),
        request.host.as_bytes(),
        request.path.as_deref().map(str::as_bytes),
        request.username.as_deref().map(str::as_bytes),
        false,
    );
    match location.map(|location| registry.for_host(&location)) {
        Err(_) | Ok(Lookup::None) => Fate::NotOurs,
        Ok(Lookup::Ambiguous(_) | Lookup::Match(_)) => Fate::Ours,
    }
}

#[test]
fn no_lookalike_is_answered_that_comes_as_text() {
    let registry = victims();
    let (mut parsed, mut refused) = (0, 0);
    // As text, a CR at the end of a host is a part of its line's end.
    for (protocol, host, path) in HOSTILE.iter().filter(|(_, host, _)| !host.ends_with(b"\r")) {
        let text =
            [b"capability[]=authtype\ncapability[]=state\nprotocol=", *protocol, b"\nhost=", *host, b"\npath=", *path, b"\n\n"].concat();
        match fate(&text, &registry) {
            Fate::Refused => refused += 1,
            Fate::NotOurs => parsed += 1,
            Fate::Ours => panic!("answered: {}", text.escape_ascii()),
        }
        // And as a URL, which names what it can.
        let url = [b"url=", *protocol, b"://", *host, b"/", *path, b"\n\n"].concat();
        if fate(&url, &registry) == Fate::Ours {
            assert!(names_our_host(&url), "answered: {}", url.escape_ascii());
        }
    }
    assert!(parsed >= 60, "{parsed} were well-formed");
    assert!(parsed + refused >= 100);
}

/// The four holes that git and its helpers had here, with a host of ours for the victim.
#[test]
fn the_known_attacks_on_this_protocol_get_nothing() {
    let registry = victims();
    for (name, attacks) in CVES {
        for attack in *attacks {
            assert_ne!(fate(attack, &registry), Fate::Ours, "{name}: {}", attack.escape_ascii());
        }
    }
}

/// Attacks by the number of the hole that they used.
const CVES: &[(&str, &[&[u8]])] = &[
    (
        "CVE-2020-5260",
        &[
            b"url=https://evil.tld?%0ahost=github.com/\n",
            b"url=https://evil.tld%0ahost=github.com/owner/repo\n",
            b"url=https://evil.tld/%0ahost=github.com\n",
            b"url=https://x%0ahost=github.com@evil.tld/\n",
        ],
    ),
    (
        "CVE-2020-11008",
        &[b"protocol=https\n", b"host=github.com\n", b"url=https://?host=github.com\n", b"url=://github.com/a\n", b"url=github.com\n"],
    ),
    (
        "CVE-2024-50338",
        &[
            b"protocol=https\nhost=evil.tld\npath=a\rhost=github.com\n",
            b"protocol=https\nhost=evil.tld\nx=\rhost=github.com\n",
            b"protocol=https\rhost=github.com\r\r",
        ],
    ),
    (
        "CVE-2024-50349",
        &[b"url=https://github.com%1b%5b2K@evil.tld%1b%5b0m/\n", b"protocol=https\nhost=evil.tld\x08\x08\x08\x08github.com\n"],
    ),
    (
        "CVE-2024-52006",
        &[
            b"protocol=https\nhost=evil.tld\rhost=github.com\n",
            b"url=https://evil.tld%0dhost=github.com/\n",
            b"url=https://evil.tld/a%0Dhost=github.com\n",
        ],
    ),
];

/// Requests that are answered, to be broken.
const GOOD: &[&[u8]] = &[
    b"capability[]=authtype\ncapability[]=state\nprotocol=https\nhost=github.com\npath=owner/repo.git\nwwwauth[]=Basic realm=\"x\"\n\n",
    b"protocol=https\r\nhost=GitLab.com:443\r\nusername=oauth2\r\npassword=p=q\r\nstate[]=scm-agent:00\r\n\r\n",
    b"url=https://user@bitbucket.org/owner/repo\n\n",
    b"url=https://dev.azure.com/acme/p/_git/r\nusername=u\n",
    b"protocol=https\nhost=acme.visualstudio.com\npath=p/_git/r\n",
    b"protocol=https\nhost=[2001:db8::1]\n\n",
    b"protocol=https\nhost=xn--bcher-kva.example\npath=a\nauthtype=Bearer\ncredential=t\nephemeral=1\n\n",
    b"protocol=https\nhost=example.com\npath=gitlab/group/project\n\n",
    b"url=https://gist.github.com/0123.git\n",
];

/// What requests are put together from, and what is thrown into them.
const PIECES: &[&[u8]] = &[
    b"protocol=",
    b"host=",
    b"path=",
    b"username=",
    b"password=",
    b"url=",
    b"capability[]=",
    b"state[]=",
    b"wwwauth[]=",
    b"authtype=",
    b"credential=",
    b"password_expiry_utc=",
    b"continue=1",
    b"quit=1",
    b"ephemeral=1",
    b"oauth_refresh_token=",
    b"https",
    b"http",
    b"ssh",
    b"HTTPS",
    b"cert",
    b"://",
    b"//",
    b"/",
    b"github.com",
    b"gitlab.com",
    b"bitbucket.org",
    b"dev.azure.com",
    b"acme",
    b"evil",
    b"acme.visualstudio.com",
    b"evil.tld",
    b"gist.",
    b".",
    b"..",
    b"@",
    b":",
    b":443",
    b":80",
    b"=",
    b"%0a",
    b"%0d",
    b"%00",
    b"%2e",
    b"%2f",
    b"%",
    b"\n",
    b"\n\n",
    b"\r\n",
    b"\r",
    b"\0",
    b"\x1b[2K",
    b"\x7f",
    b"\t",
    b" ",
    b"\\",
    b"#",
    b"?",
    b"[",
    b"]",
    b"[2001:db8::1]",
    b"*",
    b"\xff",
    b"\xe2\x80\xae",
    b"\xc4\xb1",
    b"xn--",
    b"scm-agent:",
    b".git",
    b"_git",
    b"gitlab",
    b"info/lfs",
];

/// Numbers that look random and are the same every time (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % end.max(1)
    }

    fn one<'t, T: ?Sized>(&mut self, of: &[&'t T]) -> &'t T {
        of[self.below(of.len())]
    }

    /// A request: lines of the grammar with values of pieces, or a good or a bad one that was changed.
    fn request(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        if self.below(4) == 0 {
            for _ in 0..self.below(7) {
                let key = PIECES[self.below(12)];
                text.extend_from_slice(key);
                for _ in 0..1 + self.below(4) {
                    let piece = self.one(PIECES);
                    text.extend_from_slice(piece);
                }
                text.push(b'\n');
            }
        } else {
            let seed = if self.below(3) == 0 {
                let cve = self.below(CVES.len());
                self.one(CVES[cve].1)
            } else {
                self.one(GOOD)
            };
            text.extend_from_slice(seed);
        }
        for _ in 0..self.below(4) {
            self.change(&mut text);
        }
        text
    }

    fn change(&mut self, text: &mut Vec<u8>) {
        let at = self.below(text.len() + 1);
        let end = text.len().min(at + self.below(12));
        match self.below(8) {
            0 if at < text.len() => text[at] ^= 1 << self.below(8),
            1 => drop(text.drain(at..end)),
            2 => drop(text.splice(at..at, self.one(PIECES).iter().copied())),
            3 => drop(text.splice(at..end, self.one(PIECES).iter().copied())),
            4 => {
                let copied = text[at..end].to_vec();
                let to = self.below(text.len() + 1);
                drop(text.splice(to..to, copied));
            }
            5 => text.truncate(at),
            6 => {
                // The first part of one, the second of another.
                let other = self.one(GOOD);
                text.truncate(at);
                text.extend_from_slice(&other[self.below(other.len())..]);
            }
            _ => {
                let mut lines: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').collect();
                let (one, other) = (self.below(lines.len()), self.below(lines.len()));
                if !lines.is_empty() {
                    lines.swap(one, other);
                }
                *text = lines.concat();
            }
        }
    }
}

/// The hosts that are ours, as a URL or git may write them.
const OURS: &[&str] = &[
    "github.com",
    "gist.github.com",
    "gitlab.com",
    "bitbucket.org",
    "dev.azure.com",
    "acme.visualstudio.com",
    "beta.visualstudio.com",
    "example.com",
    "xn--bcher-kva.example",
    "[2001:db8::1]",
];

/// A second opinion, by other means than the parser's: whether what git would take for the host is one of ours.
///
/// The last of `host=` and `url=` counts, of those lines that come before the blank one.
fn names_our_host(text: &[u8]) -> bool {
    let mut named = None;
    for line in text.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).take_while(|line| !line.is_empty()) {
        if line.contains(&b'\r') || line.contains(&0) {
            return false;
        }
        if let Some(host) = line.strip_prefix(b"host=") {
            named = Some(host.to_vec());
        } else if let Some(url) = line.strip_prefix(b"url=") {
            let Some(start) = url.windows(3).position(|three| three == b"://") else { return false };
            let rest = &url[start + 3..];
            let authority = rest.split(|byte| b"/?#".contains(byte)).next().unwrap_or_default();
            let host = authority.rsplit(|&byte| byte == b'@').next().unwrap_or_default();
            named = Some(percent_decoded(host));
        }
    }
    let Some(host) = named.and_then(|host| String::from_utf8(host).ok()) else { return false };
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix(":443").unwrap_or(&host);
    // The address may be written in other ways.
    OURS.contains(&host)
        || host.starts_with('[') && host.trim_matches(['[', ']']).parse() == Ok(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let digit = |at: usize| text.get(at).and_then(|&byte| char::from(byte).to_digit(16));
    let (mut decoded, mut at) = (Vec::new(), 0);
    while at < text.len() {
        match (text[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

/// 20,000, or as many as `SCM_AGENT_TEST_REQUESTS` says.
fn requests() -> usize {
    std::env::var("SCM_AGENT_TEST_REQUESTS").map_or(20_000, |number| number.parse().unwrap())
}

#[test]
fn of_very_many_requests_none_is_answered_for_a_host_that_is_not_exactly_ours() {
    let registry = victims();
    for good in GOOD {
        assert_eq!(fate(good, &registry), Fate::Ours, "{}", good.escape_ascii());
        assert!(names_our_host(good));
    }
    let count = requests();
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    let (mut refused, mut ours) = (0, 0);
    for number in 0..count {
        let text = numbers.request();
        match fate(&text, &registry) {
            Fate::Refused => refused += 1,
            Fate::NotOurs => {}
            Fate::Ours => {
                ours += 1;
                assert!(names_our_host(&text), "request {number} is answered: {}", text.escape_ascii());
                let request = CredentialRequest::parse(&text).unwrap();
                assert_eq!(request.protocol, "https", "{}", text.escape_ascii());
            }
        }
    }
    // It would prove nothing if all of them came to the same.
    assert!(refused > count / 10 && ours > count / 20 && count - refused - ours > count / 20, "{refused} refused, {ours} ours of {count}");
}
