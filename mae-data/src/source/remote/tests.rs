//! Sources behind a network that fails in every way.

use super::server::{Fault, Server};
use super::*;
use crate::source::{Dataset, Layout, conformance};
use crate::testing::{gzip, tar_of};

struct Place {
    server: Server,
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { server: Server::new(), dir: tempfile::tempdir().unwrap() }
    }

    fn options(&self) -> OpenOptions {
        OpenOptions { cache_dir: self.dir.path().to_owned(), ..OpenOptions::default() }
    }

    /// Opens an address; those of S3 are looked for at the server of the test.
    fn open(&self, url: &str, layout: Layout) -> Result<Dataset, Error> {
        let variables = [
            ("AWS_ACCESS_KEY_ID", "key".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ENDPOINT_URL", self.server.url("")),
        ];
        let client = Client::with_variables(url, variables.map(|(name, value)| (name.to_owned(), value)))?;
        let opened = open_client(client, &self.options())?;
        Dataset::from_parts(url, vec![opened], Vec::new(), layout)
    }

    fn refusal(&self, url: &str) -> String {
        let message = self.open(url, Layout::Flat).unwrap_err().to_string();
        let message = message.replace(&self.server.url(""), "SERVER");
        message.replace(self.dir.path().to_str().unwrap(), "DIR")
    }

    /// The archive of the conformance suite at `/a.tar.gz`, in pieces that a fault can fall between.
    fn archive(&self) -> String {
        self.server.put("/a.tar.gz", &gzip(&tar_of(&conformance::files())));
        self.server.url("/a.tar.gz")
    }
}

fn zip() -> Vec<u8> {
    let mut writer = ::zip::write::ZipWriter::new(io::Cursor::new(Vec::new()));
    let options = ::zip::write::SimpleFileOptions::default();
    for (name, bytes) in conformance::files() {
        writer.start_file(name, options.compression_method(::zip::CompressionMethod::Stored)).unwrap();
        io::Write::write_all(&mut writer, &bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn every_address_conforms() {
    let place = Place::new();
    let tar = tar_of(&conformance::files());
    let (head, tail) = tar.split_at(tar.len() / 2);
    let archives: [(&str, Vec<u8>); 5] = [
        ("plain.tar", tar.clone()),
        ("one.tar.gz", gzip(&tar)),
        ("two.tgz", [gzip(head), gzip(tail), vec![0; 100]].concat()),
        ("frames.tar.zst", zstd::encode_all(&tar[..], 1).unwrap()),
        ("stored.zip", zip()),
    ];
    for (name, bytes) in &archives {
        for (path, url) in [
            (format!("/{name}"), place.server.url(&format!("/{name}?token=secret"))),
            (format!("/bucket/deep/{name}"), format!("s3://bucket/deep/{name}")),
        ] {
            place.server.put(&path, bytes);
            conformance::check(&|layout| place.open(&url, layout)).unwrap_or_else(|e| panic!("{url}: {e}"));
            let requests = place.server.requests();
            assert_eq!(requests.len(), 4, "opened three times, fetched once: {requests:?}");
        }
    }
    for (name, bytes) in conformance::files() {
        let name = name.replace(' ', "%20").replace('ä', "%C3%A4").replace('ö', "%C3%B6");
        place.server.put(&format!("/bucket/folder/{name}"), &bytes);
    }
    for url in ["s3://bucket/folder", "s3://bucket/folder/"] {
        conformance::check(&|layout| place.open(url, layout)).unwrap_or_else(|e| panic!("{url}: {e}"));
    }
    let shown = place.open("s3://bucket/folder/", Layout::Flat).unwrap().display_path(0);
    assert_eq!(shown, "s3://bucket/folder/cat/a.png");
}

#[test]
fn interrupted_transfers_go_on_where_they_ended() {
    for faults in [
        &[Fault::Slow, Fault::Cut(300_000), Fault::Cut(0), Fault::Cut(200_000)][..],
        &[Fault::Slow, Fault::Reset(250_000), Fault::Reset(100_000)],
        &[Fault::Status(503), Fault::Slow, Fault::Status(503), Fault::Status(500), Fault::Cut(5)],
        &[Fault::Slow, Fault::Silent(100_000)],
    ] {
        for ranges in [true, false] {
            let place = Place::new();
            if !ranges {
                place.server.without_ranges();
            }
            let url = place.archive();
            place.server.faults(faults);
            conformance::check(&|layout| place.open(&url, layout))
                .unwrap_or_else(|e| panic!("{faults:?}, ranges {ranges}: {e}"));
            let requests = place.server.requests();
            assert!(requests.len() > faults.len(), "{requests:?}");
        }
    }
}

#[test]
fn what_cannot_be_read_is_an_error_and_leaves_nothing() {
    let mut text = Vec::new();
    let mut case = |what: &str, run: &dyn Fn(&Place) -> String| {
        let place = Place::new();
        text.push(format!("[{what}]\n{}\n", run(&place)));
        let left = std::fs::read_dir(place.dir.path()).unwrap().map(|e| e.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| !name.to_string_lossy().starts_with("lock-")).collect();
        assert!(left.is_empty(), "{what}: {left:?}");
    };
    case("missing", &|place| place.refusal(&place.server.url("/no.tar")));
    case("missing in a bucket", &|place| place.refusal("s3://bucket/no.tar"));
    case("a folder behind http", &|place| place.refusal(&place.server.url("/")));
    case("not allowed", &|place| {
        place.archive();
        place.server.faults(&[Fault::Status(403)]);
        place.refusal(&place.server.url("/a.tar.gz?signature=secret"))
    });
    case("changed meanwhile", &|place| {
        let url = place.archive();
        place.server.faults(&[Fault::Slow, Fault::Cut(100_000), Fault::Replaced]);
        place.refusal(&url)
    });
    case("changed, and the server does not look", &|place| {
        let url = place.archive();
        place.server.without_conditions();
        place.server.faults(&[Fault::Slow, Fault::Cut(100_000), Fault::Replaced]);
        place.refusal(&url)
    });
    case("always cut off", &|place| {
        let url = place.archive();
        place.server.faults(&[Fault::Slow, Fault::Cut(100_000)]);
        place.server.faults(&[Fault::Cut(0); 40]);
        let message = place.refusal(&url);
        // How the connection ends is told by the library.
        message.split(" failed: ").next().unwrap().to_owned()
    });
    case("a truncated archive", &|place| {
        let tar = tar_of(&conformance::files());
        place.server.put("/cut.tar", &tar[..tar.len() / 2]);
        place.refusal(&place.server.url("/cut.tar"))
    });
    case("no archive", &|place| {
        place.server.put("/index.html", b"<html>Sign in</html>");
        place.refusal(&place.server.url("/index.html"))
    });
    case("nobody listens", &|place| {
        let message = place.refusal("http://127.0.0.1:1/a.tar");
        message.lines().next().unwrap().chars().take(44).collect()
    });
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn an_object_that_was_replaced_is_fetched_again() {
    let place = Place::new();
    let url = place.archive();
    assert_eq!(place.open(&url, Layout::Flat).unwrap().len(), 7);
    place.server.put("/a.tar.gz", &gzip(&tar_of(&[("a.png", vec![1, 2, 3])])));
    assert_eq!(place.open(&url, Layout::Flat).unwrap().len(), 1);
    let copies = std::fs::read_dir(place.dir.path()).unwrap().flatten();
    let copies = copies.filter(|e| e.path().extension().is_some_and(|e| e == "maearc")).count();
    assert_eq!(copies, 1, "the copy of the old one is gone");
}

#[test]
fn images_of_a_folder_survive_faults_and_tell_changes() {
    let place = Place::new();
    for name in ["a.png", "b.png"] {
        place.server.put(&format!("/bucket/f/{name}"), &[7; 5000]);
    }
    let dataset = place.open("s3://bucket/f/", Layout::Flat).unwrap();
    place.server.faults(&[Fault::Cut(100), Fault::Status(503), Fault::Reset(9), Fault::Slow]);
    assert_eq!(*dataset.read(0).unwrap(), [7; 5000]);
    place.server.put("/bucket/f/b.png", &[8; 5000]);
    let error = dataset.read(1).unwrap_err().to_string();
    assert!(error.contains("s3://bucket/f/b.png was changed while it was in use"), "{error}");
}

#[test]
fn patterns_match_objects() {
    let place = Place::new();
    for name in ["t-1.tar", "t-0.tar", "other.tar", "sub/t-2.tar"] {
        place.server.put(&format!("/bucket/d/{name}"), b"x");
    }
    let variables = [
        ("AWS_ACCESS_KEY_ID", "key".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ("AWS_ENDPOINT_URL", place.server.url("")),
    ];
    let client = |url: &str| {
        Client::with_variables(url, variables.clone().map(|(name, value)| (name.to_owned(), value)))
    };
    let found = matches_with("s3://bucket/d/t-*.tar", client).unwrap();
    assert_eq!(found, ["s3://bucket/d/t-0.tar", "s3://bucket/d/t-1.tar"]);
    assert!(matches_with("s3://bucket/d/x-*.tar", client).unwrap().is_empty());
}
