//! Folders and archives as data sets.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::testing::{gzip, sample_png, tar_of};

/// Six images in two classes, and a file that is none; not in order.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("dog/1.png", sample_png(1)),
        ("cat/b.PNG", sample_png(2)),
        ("cat/a.png", sample_png(3)),
        ("cat/notes.txt", b"no image".to_vec()),
        ("dog/deep/er/2.jpeg", sample_png(4)),
        ("dog/.hidden.png", sample_png(5)),
    ]
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn folder(&self, name: &str, files: &[(&str, Vec<u8>)]) -> String {
        for (file, bytes) in files {
            self.write(&format!("{name}/{file}"), bytes);
        }
        self.path(name).to_str().unwrap().to_owned()
    }

    fn options(&self) -> OpenOptions {
        OpenOptions { cache_dir: self.path("cache"), ..OpenOptions::default() }
    }

    fn open(&self, source: &str, layout: Layout) -> Result<Dataset, Error> {
        Dataset::open(source, layout, &self.options())
    }

    /// The message of an error, without this test's own path.
    fn refusal(&self, source: &str, layout: Layout) -> String {
        let message = self.open(source, layout).unwrap_err().to_string();
        message.replace(self.dir.path().to_str().unwrap(), "DIR")
    }
}

fn names(dataset: &Dataset) -> Vec<&str> {
    (0..dataset.len()).map(|i| dataset.name(i)).collect()
}

/// A zip archive of these files.
fn zip_of(files: &[(&str, Vec<u8>)], method: ::zip::CompressionMethod) -> Vec<u8> {
    let mut writer = ::zip::write::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in files {
        let options = ::zip::write::SimpleFileOptions::default().compression_method(method);
        writer.start_file(*name, options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// The files of the conformance suite, in a folder of their own.
fn moved(folder: &str, files: &[(&str, Vec<u8>)]) -> Vec<(String, Vec<u8>)> {
    files.iter().map(|(name, bytes)| (format!("{folder}/{name}"), bytes.clone())).collect()
}

#[test]
fn every_source_conforms() {
    let place = Place::new();
    let files = conformance::files();
    let tar = tar_of(&files);
    let (head, tail) = tar.split_at(tar.len() / 3 / 512 * 512);
    let zst = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let half = files.len() / 2;
    let shard = |part: &[(&str, Vec<u8>)]| tar_of(part);
    place.write("shards/s-00.tar", &shard(&files[..half]));
    place.write("shards/s-01.tar", &gzip(&shard(&files[half..])));
    let sources = [
        place.folder("folder", &files),
        place.write("images.tar", &tar),
        place.write("images.tar.gz", &gzip(&tar)),
        place.write("images.tgz", &[gzip(head), gzip(tail)].concat()),
        place.write("images.tar.zst", &zst(&tar)),
        place.write("frames.tar.zst", &[zst(head), zst(tail)].concat()),
        place.write("stored.zip", &zip_of(&files, ::zip::CompressionMethod::Stored)),
        place.write("deflated.zip", &zip_of(&files, ::zip::CompressionMethod::Deflated)),
        // What it is is decided by its bytes, not by its name.
        place.write("images.bin", &gzip(&tar)),
        format!("file://{}", place.path("images.tar.gz").display()),
        place.path("shards/s-{00..01}.tar").display().to_string(),
        place.path("shards/*").display().to_string(),
        format!("{},{}", place.path("shards/s-00.tar").display(), place.path("shards/s-01.tar").display()),
    ];
    for source in &sources {
        conformance::check(&|layout| place.open(source, layout)).unwrap_or_else(|e| panic!("{source}: {e}"));
        assert_eq!(place.open(source, Layout::Flat).unwrap().notes(), [""; 0], "{source}");
    }
    // Without a place for copies, a .tar.gz is read through restart points.
    let options = OpenOptions { cache_limit: Some(1), ..place.options() };
    for source in [&sources[2], &sources[3]] {
        let source = place.write("in-place.tar.gz", &[&fs::read(source).unwrap()[..], &[0; 7]].concat());
        conformance::check(&|layout| Dataset::open(&source, layout, &options)).unwrap();
    }
}

#[test]
fn images_are_shown_with_their_archive() {
    let place = Place::new();
    let shown = |source: &str| {
        let shown = place.open(source, Layout::Flat).unwrap().display_path(0);
        shown.replace(place.dir.path().to_str().unwrap(), "DIR")
    };
    let folder = place.folder("folder", &files());
    assert_eq!(shown(&folder), "DIR/folder/cat/a.png");
    assert_eq!(shown(&format!("{folder}/")), "DIR/folder/cat/a.png");
    let archive = place.write("images.tar.gz", &gzip(&tar_of(&files())));
    assert_eq!(shown(&format!("file://{archive}")), "DIR/images.tar.gz/cat/a.png");
    assert_eq!(shown(&format!("{folder},{archive}")), "DIR/folder/cat/a.png");
}

#[test]
fn the_same_name_in_two_shards_is_two_images() {
    let place = Place::new();
    let shard = |name: &str, seed| place.write(name, &tar_of(&[("cat/1.png", sample_png(seed))]));
    let source = [shard("s0.tar", 1), shard("s1.tar", 2)].join(",");
    let dataset = place.open(&source, Layout::ImageFolder).unwrap();
    assert_eq!(names(&dataset), ["cat/1.png", "cat/1.png"]);
    assert_eq!([dataset.read(0).unwrap(), dataset.read(1).unwrap()], [sample_png(1), sample_png(2)]);
    // Named twice, a shard is used once.
    let again = place.open(&format!("{source},{}", place.path("s0.tar").display()), Layout::Flat).unwrap();
    assert_eq!(
        (again.len(), again.notes()),
        (2, &["sources that were named twice, used once: 1".to_owned()][..])
    );
}

#[test]
fn one_leading_folder_is_looked_through() {
    let place = Place::new();
    let moved = moved("./images", &files());
    let moved: Vec<(&str, Vec<u8>)> =
        moved.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let zip = zip_of(&moved, ::zip::CompressionMethod::Stored);
    for source in
        [place.write("a.tar", &tar_of(&moved)), place.write("a.zip", &zip), place.folder("f", &moved)]
    {
        let dataset = place.open(&source, Layout::ImageFolder).unwrap();
        assert_eq!((dataset.classes().len(), dataset.name(0)), (2, "images/cat/a.png"));
    }
    let single = place.write("s.tar", &tar_of(&[("cat/a.png", sample_png(1))]));
    assert_eq!(place.open(&single, Layout::ImageFolder).unwrap().classes(), ["cat"]);
}

#[test]
fn a_change_of_name_or_size_changes_the_digest() {
    let place = Place::new();
    let digest = |name: &str, bytes: Vec<u8>| {
        let source = place.write("a.tar", &tar_of(&[(name, bytes)]));
        place.open(&source, Layout::Flat).unwrap().digest().to_owned()
    };
    let base = digest("a.png", vec![0; 5]);
    assert_eq!(base, digest("a.png", vec![1; 5]));
    assert_ne!(base, digest("b.png", vec![0; 5]));
    assert_ne!(base, digest("a.png", vec![0; 6]));
}

#[test]
fn hostile_members_are_counted_and_left_out() {
    let place = Place::new();
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind: ::tar::EntryType, bytes: &[u8]| {
        let mut header = ::tar::Header::new_gnu();
        // The builder refuses such names; an attacker writes them himself.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        if kind == ::tar::EntryType::Symlink {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        builder.append(&header, bytes).unwrap();
    };
    let file = ::tar::EntryType::Regular;
    add("cat/a.png", file, b"first");
    add("../../outside.png", file, b"x");
    add("/absolute.png", file, b"x");
    add("cat/../../up.png", file, b"x");
    add("cat/link.png", ::tar::EntryType::Symlink, b"");
    add("dev.png", ::tar::EntryType::Char, b"");
    add("cat//./a.png", file, b"second");
    let tar = builder.into_inner().unwrap();
    for source in [place.write("a.tar", &tar), place.write("a.tar.gz", &gzip(&tar))] {
        let dataset = place.open(&source, Layout::Flat).unwrap();
        assert_eq!(names(&dataset), ["cat/a.png"]);
        assert_eq!(&*dataset.read(0).unwrap(), b"second", "the last of two members with one name counts");
        insta::allow_duplicates! { insta::assert_snapshot!(dataset.notes().join("\n")) };
    }
    let mut left: Vec<_> = fs::read_dir(place.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["a.tar", "a.tar.gz", "cache"], "nothing was written elsewhere");
}

#[test]
fn images_outside_the_class_folders_are_noted() {
    let place = Place::new();
    let source = place.folder("f", &[("cat/a.png", sample_png(1)), ("b.png", sample_png(2))]);
    let dataset = place.open(&source, Layout::ImageFolder).unwrap();
    assert_eq!((dataset.len(), dataset.classes().len()), (1, 1));
    assert_eq!(dataset.notes(), ["images outside the class folders, left out: 1"]);
    assert_eq!(place.open(&source, Layout::Flat).unwrap().len(), 2);
}

#[test]
fn circles_of_links_end() {
    let place = Place::new();
    let source = place.folder("f", &files());
    symlink(place.path("f"), place.path("f/cat/again")).unwrap();
    symlink(place.path("nowhere"), place.path("f/cat/broken.png")).unwrap();
    let dataset = place.open(&source, Layout::ImageFolder).unwrap();
    assert_eq!(dataset.len(), 4);
    assert_eq!(dataset.notes(), ["links or devices, not followed: 2"]);
    // A link to a folder elsewhere is followed.
    symlink(place.path("f/cat"), place.path("f/tiger")).unwrap();
    assert_eq!(place.open(&source, Layout::ImageFolder).unwrap().classes(), ["cat", "dog", "tiger"]);
}

#[test]
fn names_that_are_not_utf8_can_be_read() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let folder = place.path("f");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(std::ffi::OsStr::from_bytes(b"caf\xe9.png")), sample_png(1)).unwrap();
    let dataset = place.open(folder.to_str().unwrap(), Layout::Flat).unwrap();
    assert_eq!(dataset.name(0), "caf\\xE9.png");
    assert_eq!(dataset.read(0).unwrap(), sample_png(1));
}

#[test]
fn errors_name_the_source_and_the_remedy() {
    let place = Place::new();
    let image = || sample_png(1);
    let tar = tar_of(&files());
    let gz = gzip(&tar);
    let mut damaged = gz.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 20].fill(0);
    let zst = zstd::encode_all(&tar[..], 1).unwrap();
    let mut damaged_zst = zst.clone();
    damaged_zst[30..60].fill(0xaa);
    let mut wrong_sum = gz.clone();
    let at = wrong_sum.len() - 8;
    wrong_sum[at] ^= 1;
    fs::create_dir_all(place.path("nothing")).unwrap();
    fs::create_dir_all(place.path("folders/cat/x")).unwrap();
    fs::create_dir_all(place.path("half/dog")).unwrap();
    let cases = [
        ("empty text", String::new(), Layout::Flat),
        ("missing", place.path("missing").display().to_string(), Layout::Flat),
        ("unknown address", "ftp://host/train.tar".to_owned(), Layout::Flat),
        ("no match", place.path("t-*.tar").display().to_string(), Layout::Flat),
        ("empty folder", place.path("nothing").display().to_string(), Layout::Flat),
        ("folders only", place.path("folders").display().to_string(), Layout::Flat),
        (
            "no images",
            place.folder("texts", &[("a.txt", vec![]), ("b.csv", vec![]), ("README", vec![])]),
            Layout::Flat,
        ),
        ("no class folder", place.folder("top", &[("a.png", image())]), Layout::ImageFolder),
        ("empty class", place.folder("half", &[("cat/a.png", image())]), Layout::ImageFolder),
        ("empty file", place.write("zero.tar", b""), Layout::Flat),
        ("empty archive", place.write("none.tar", &tar_of(&[])), Layout::Flat),
        ("empty tar.gz", place.write("none.tar.gz", &gzip(&tar_of(&[]))), Layout::Flat),
        (
            "archive without images",
            place.write("texts.tar.gz", &gzip(&tar_of(&[("a.txt", vec![1])]))),
            Layout::Flat,
        ),
        ("cut zip", place.write("a.zip", b"PK\x03\x04abc"), Layout::Flat),
        ("7z", place.write("a.7z", b"7z\xbc\xaf\x27\x1c"), Layout::Flat),
        ("cut zst", place.write("cut.tar.zst", &zst[..zst.len() / 2]), Layout::Flat),
        ("damaged zst", place.write("damaged.tar.zst", &damaged_zst), Layout::Flat),
        (
            "zst cut between frames",
            place.write("half.tar.zst", &zstd::encode_all(&tar[..1536], 1).unwrap()),
            Layout::Flat,
        ),
        (
            "gz cut between members",
            place.write("half.tar.gz", &[gzip(&tar[..512]), gzip(&tar[512..1536])].concat()),
            Layout::Flat,
        ),
        ("one image", place.write("a.png", &image()), Layout::Flat),
        ("text file", place.write("list.txt", b"a.png\nb.png\n"), Layout::Flat),
        ("text named tar", place.write("list.tar", &b"a.png\n".repeat(200)), Layout::Flat),
        ("cut tar, between members", place.write("cut.tar", &tar[..tar.len() - 2048]), Layout::Flat),
        ("cut tar, inside a member", place.write("inside.tar", &tar[..tar.len() - 1300]), Layout::Flat),
        ("cut tar.gz", place.write("cut.tar.gz", &gz[..gz.len() * 2 / 3]), Layout::Flat),
        ("gzip of no tar", place.write("text.gz", &gzip(&b"hello ".repeat(500))), Layout::Flat),
        ("damaged gzip", place.write("damaged.tar.gz", &damaged), Layout::Flat),
        ("wrong sum", place.write("sum.tar.gz", &wrong_sum), Layout::Flat),
    ];
    let text: Vec<String> = cases
        .iter()
        .map(|(what, source, layout)| format!("[{what}]\n{}\n", place.refusal(source, *layout)))
        .collect();
    insta::assert_snapshot!(text.join("\n"));
    let left =
        fs::read_dir(place.path("cache")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = left.filter(|name| !name.starts_with("lock-")).collect();
    assert!(left.is_empty(), "a failed build leaves nothing behind: {left:?}");
}

#[test]
fn without_a_cache_folder_gzip_is_read_in_place_and_zstd_is_an_error() {
    let place = Place::new();
    let tar = tar_of(&files());
    place.write("cache", b"a file where the folder should be");
    let source = place.write("a.tar.gz", &gzip(&tar));
    let dataset = place.open(&source, Layout::ImageFolder).unwrap();
    assert_eq!(dataset.read(0).unwrap(), sample_png(3));
    let note = dataset.notes()[0].replace(place.dir.path().to_str().unwrap(), "DIR");
    let error =
        place.refusal(&place.write("a.tar.zst", &zstd::encode_all(&tar[..], 1).unwrap()), Layout::Flat);
    let options = OpenOptions { cache_limit: Some(100), ..place.options() };
    fs::remove_file(place.path("cache")).unwrap();
    let limited =
        Dataset::open(place.path("a.tar.zst").to_str().unwrap(), Layout::Flat, &options).unwrap_err();
    let limited = limited.to_string().replace(place.dir.path().to_str().unwrap(), "DIR");
    insta::assert_snapshot!(format!("{note}\n\n{error}\n\n{limited}"));
}

/// What was written into the cache, with its inode to see whether it was written again.
fn cached(place: &Place) -> (PathBuf, u64) {
    let entries = fs::read_dir(place.path("cache")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "maearc")).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let path = files.remove(0);
    let inode = fs::metadata(&path).unwrap().ino();
    (path, inode)
}

#[test]
fn the_copy_is_made_once_and_again_when_it_no_longer_fits() {
    let place = Place::new();
    let source = place.write("a.tar.gz", &gzip(&tar_of(&files())));
    let told = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&told);
    let progress: ProgressFn = Arc::new(move |progress| {
        assert!(progress.bytes_done <= progress.bytes_total);
        count.fetch_add(1, Ordering::Relaxed);
    });
    let options = OpenOptions { progress: Some(progress), ..place.options() };
    let open = || {
        told.store(0, Ordering::Relaxed);
        let dataset = Dataset::open(&source, Layout::Flat, &options).unwrap();
        (dataset, told.load(Ordering::Relaxed) > 0)
    };
    assert!(open().1, "the first time it is made");
    let (path, made) = cached(&place);
    let (first, again) = open();
    assert!(!again && cached(&place) == (path.clone(), made), "the second time it is used");

    // Torn: as if the disk had lost its end.
    fs::File::options().write(true).open(&path).unwrap().set_len(300).unwrap();
    assert!(open().1, "a torn copy is made again");

    // Stale: another archive under the same name. The data set that is open keeps its bytes.
    place.write("a.tar.gz", &gzip(&tar_of(&[("only.png", sample_png(9))])));
    let (second, again) = open();
    assert!(again && second.len() == 1);
    assert_eq!(second.read(0).unwrap(), sample_png(9));
    let path = cached(&place).0;
    assert_eq!(first.len(), 4);

    // What an interrupted build left is removed by the next one.
    let leftover = path.with_file_name(format!("{}.building-x", path.file_name().unwrap().to_str().unwrap()));
    fs::write(&leftover, b"half").unwrap();
    fs::remove_file(&path).unwrap();
    assert!(open().1 && !leftover.exists());
}

#[test]
fn several_at_once_make_one_copy() {
    let place = Place::new();
    let source = place.write("a.tar.gz", &gzip(&tar_of(&files())));
    let builds = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let told = Arc::new(AtomicUsize::new(0));
                let count = Arc::clone(&told);
                let progress: ProgressFn = Arc::new(move |_| {
                    count.store(1, Ordering::Relaxed);
                });
                let options = OpenOptions { progress: Some(progress), ..place.options() };
                assert_eq!(Dataset::open(&source, Layout::Flat, &options).unwrap().len(), 4);
                builds.fetch_add(told.load(Ordering::Relaxed), Ordering::Relaxed);
            });
        }
    });
    assert_eq!(builds.load(Ordering::Relaxed), 1);
}

#[test]
fn joined_gzip_members_are_one_stream() {
    let place = Place::new();
    let tar = tar_of(&files());
    let (head, tail) = tar.split_at(700);
    let source = place.write("a.tar.gz", &[gzip(head), gzip(tail)].concat());
    assert_eq!(place.open(&source, Layout::Flat).unwrap().len(), 4);
}
