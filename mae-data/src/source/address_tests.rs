//! Lists, ranges, patterns and addresses.

use proptest::prelude::*;

use super::*;

fn shown(source: &str) -> String {
    match expand(source) {
        Ok((addresses, twice)) => {
            let mut lines: Vec<String> = addresses
                .iter()
                .map(|address| match address {
                    Address::Local(path) => path.display().to_string(),
                    Address::Remote(url) => format!("remote {url}"),
                })
                .collect();
            if twice > 0 {
                lines.push(format!("({twice} named twice)"));
            }
            lines.join(" ")
        }
        Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}

#[test]
fn lists_and_braces_are_expanded() {
    assert_eq!(shown("train-{0008..0010}.tar"), "train-0008.tar train-0009.tar train-0010.tar");
    assert_eq!(shown("t{8..10}.tar"), "t8.tar t9.tar t10.tar");
    assert_eq!(shown("t{2..0}"), "t2 t1 t0");
    assert_eq!(shown("{a,b}/{1..2}.tar"), "a/1.tar a/2.tar b/1.tar b/2.tar");
    assert_eq!(shown("{a,b{1..2}}.tar"), "a.tar b1.tar b2.tar");
    assert_eq!(shown("a.tar, b.tar\nc{1,2}.tar,"), "a.tar b.tar c1.tar c2.tar");
    assert_eq!(shown("a.tar,b.tar,a.tar"), "a.tar b.tar (1 named twice)");
    assert_eq!(shown("odd{x}-{1..2}"), "odd{x}-1 odd{x}-2");
    assert_eq!(shown("{1..x} {} }{"), "{1..x} {} }{");
    assert_eq!(
        shown("s3://bucket/t-{00..01}.tar"),
        "remote s3://bucket/t-00.tar remote s3://bucket/t-01.tar"
    );
    for many in ["{1..999999999999}", "{1..1000}{1..1000}", "{00000000000000000000..100000}"] {
        assert!(!shown(many).contains(' ') || shown(many).contains("more than 100000 sources"), "{many}");
    }
}

#[test]
fn patterns_find_files_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["t-2.tar", "t-1.tar", "other.tar", "odd,{1..2}.tar", "sub/t-3.tar"] {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"").unwrap();
    }
    let at = |name: &str| format!("{}/{name}", dir.path().display());
    assert_eq!(shown(&at("t-*.tar")), [at("t-1.tar"), at("t-2.tar")].join(" "));
    assert_eq!(shown(&at("{t-?,other}.tar")), [at("t-1.tar"), at("t-2.tar"), at("other.tar")].join(" "));
    assert_eq!(shown(&at("**/t-[0-9].tar")), [at("sub/t-3.tar"), at("t-1.tar"), at("t-2.tar")].join(" "));
    assert_eq!(shown(&at("odd,{1..2}.tar")), at("odd,{1..2}.tar"), "a name that exists is taken as it is");
    assert_eq!(shown(&at("x*.tar")), format!("data source {}: no file matches", at("x*.tar")));
    assert!(shown(&at("a***b")).contains("data source"), "{}", shown(&at("a***b")));
}

#[test]
fn file_addresses_are_decoded() {
    assert_eq!(shown("file:///data/my%20images/%C3%A4.tar"), "/data/my images/ä.tar");
    assert_eq!(shown("file://localhost/data/100%"), "/data/100%");
    assert_eq!(shown("/data/a://b"), "/data/a://b");
    assert_eq!(shown("HTTPS://host/a.tar"), "remote HTTPS://host/a.tar");
    assert_eq!(shown("ftp://host/a.tar"), "data source ftp://host/a.tar: ftp:// addresses are not known");
    assert_eq!(
        shown(" , \n"),
        "the data source is empty: give a folder of images, a .tar, .tar.gz, .tar.zst or .zip, or several of them"
    );
}

proptest! {
    #[test]
    fn any_text_ends(text in "[a{},.0-9*?/\\[\\]-]{0,40}") {
        let _ = expand(&text);
    }
}
