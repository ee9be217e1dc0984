//! The table of spellings: as literals in URLs, and as what names resolve to.

use super::*;

/// Hosts of URLs, in every spelling, with what they are.
const LITERALS: &[(Reach, &[&str])] = &[
    (Reach::Loopback, &["127.0.0.1", "127.1", "127.0.1", "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1", "017700000001"]),
    (Reach::Loopback, &["１２７.0.0.1", "127。0。0。1", "127.0.0.1.", "[::1]", "[0:0:0:0:0:0:0:1]", "[0::0001]", "[::0.0.0.1]"]),
    // The rest of this machine.
    (Reach::Forbidden, &["127.0.0.53", "127.255.255.254", "0x7f.0x2", "0.0.0.0", "0", "0x0", "0.1.2.3", "[::]"]),
    // The link, and with it the metadata service of AWS, Azure, Google Cloud, OpenStack and others.
    (Reach::Forbidden, &["169.254.169.254", "0xa9fea9fe", "2852039166", "0251.0376.0251.0376", "169.254.43518", "169.254.0.1"]),
    (Reach::Forbidden, &["169.254.170.2", "169.254.170.23", "[fe80::1]", "[fe80::a9fe:a9fe]", "[febf::1]"]),
    // Metadata services that are not on the link.
    (Reach::Forbidden, &["100.100.100.200", "168.63.129.16", "2822734096", "192.0.0.192", "0xc00000c0"]),
    (Reach::Forbidden, &["[fd00:ec2::254]", "[fd00:ec2::23]", "[fd20:ce::254]", "[fd00:c1::a9fe:a9fe]", "[fd00:42::42]"]),
    // Groups and everybody.
    (Reach::Forbidden, &["224.0.0.1", "239.255.255.250", "255.255.255.255", "0xffffffff", "[ff02::1]", "[ff0e::1]"]),
    // IPv4 in IPv6, whatever is inside.
    (Reach::Forbidden, &["[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]"]),
    (Reach::Forbidden, &["[::ffff:10.0.0.1]", "[::ffff:198.51.100.1]", "[::127.0.0.1]", "[::a9fe:a9fe]", "[::ffff:0:127.0.0.1]"]),
    (Reach::Forbidden, &["[64:ff9b::127.0.0.1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b::10.0.0.1]", "[64:ff9b:1::7f00:1]"]),
    (Reach::Forbidden, &["[2002:7f00:1::]", "[2002:a9fe:a9fe::]", "[2002:c633:6401::1]", "[2001:0:7f00:1::]", "[2001::1]"]),
    // Nowhere.
    (Reach::Forbidden, &["[100::1]", "[200::1]", "[4000::1]", "[5f00::1]", "[fe00::1]"]),
    // Private networks.
    (Reach::Private, &["10.0.0.1", "0xa000001", "167772161", "012.0.0.1", "10.1", "10.255.255.255", "172.16.0.1", "172.31.255.255"]),
    (Reach::Private, &["192.168.0.1", "0xc0.0xa8.1", "192.168.255.255", "100.64.0.1", "100.127.255.255", "198.18.0.1", "198.19.255.255"]),
    (Reach::Private, &["192.0.0.1", "192.0.0.255", "192.88.99.1", "240.0.0.1", "255.255.255.254", "[fc00::1]", "[fd12:3456::1]"]),
    (Reach::Private, &["[fdff:ffff::1]", "[fec0::1]", "[2001:2::1]", "[2001:10::1]", "[2001:1ff::1]"]),
    // Everything next to those, and what is for documentation.
    (Reach::Public, &["192.0.2.1", "198.51.100.1", "203.0.113.1", "9.255.255.255", "11.0.0.1", "172.15.255.255", "172.32.0.1"]),
    (Reach::Public, &["192.167.255.255", "192.169.0.1", "100.63.255.255", "100.128.0.1", "198.17.255.255", "198.20.0.1", "1.1.1.1"]),
    (
        Reach::Public,
        &["169.253.255.255", "169.255.0.1", "126.255.255.255", "128.0.0.1", "168.63.129.15", "168.63.129.17", "223.255.255.255"],
    ),
    (Reach::Public, &["[2001:db8::1]", "[2001:200::1]", "[2606:4700::1111]", "[3fff::1]", "[64:ff9b::198.51.100.1]", "[2003::1]"]),
];

fn url(host: &str) -> Url {
    Url::parse(&format!("https://{host}/token")).unwrap_or_else(|error| panic!("{host}: {error}"))
}

#[test]
fn every_spelling_of_an_address_is_judged_by_what_it_is() {
    let mut judged = 0;
    for (expected, hosts) in LITERALS {
        for host in *hosts {
            let url = url(host);
            let address = literal(&url).unwrap_or_else(|| panic!("{host} is a name: {url}"));
            assert_eq!(reach(address), *expected, "{host}, which is {address}");
            judged += 1;
        }
    }
    assert!(judged > 100, "{judged}");
}

#[test]
fn who_may_reach_what_depends_on_the_host_and_the_operator_alone() {
    let guard = |loopback, trusted| Guard { loopback, named: ["git.corp".to_owned(), "10.0.0.1".into(), "fc00::1".into()].into(), trusted };
    for (reach, hosts) in LITERALS {
        for host in *hosts {
            let address = literal(&url(host)).unwrap();
            // As what a name resolves to.
            let (strict, loose) = (guard(false, false), guard(true, false));
            let expected = |allowed: bool| if allowed { Ok(()) } else { Err(*reach) };
            assert_eq!(strict.check("issuer.example", address), expected(*reach == Reach::Public), "{host}");
            assert_eq!(loose.check("issuer.example", address), expected(*reach == Reach::Public), "{host}");
            let named = matches!(reach, Reach::Public | Reach::Private);
            assert_eq!(loose.check("git.corp", address), expected(named), "{host}");
            assert_eq!(loose.check("git.corp.", address), expected(named), "{host}");
            assert_eq!(loose.check("x.git.corp", address), expected(*reach == Reach::Public), "{host}");
            assert_eq!(loose.check("localhost", address), expected(matches!(reach, Reach::Public | Reach::Loopback)), "{host}");
            assert_eq!(strict.check("localhost", address), expected(*reach == Reach::Public), "{host}");
            assert_eq!(guard(false, true).check("issuer.example", address), Ok(()), "{host}");
            // As the host of the URL itself.
            let written = url(host);
            let written = written.host_str().unwrap();
            let named = ["10.0.0.1", "[fc00::1]"].contains(&written);
            assert_eq!(strict.check(written, address), expected(*reach == Reach::Public || named), "{host}");
            let this_machine = *reach == Reach::Loopback;
            assert_eq!(loose.check(written, address), expected(*reach == Reach::Public || named || this_machine), "{host}");
        }
    }
}
