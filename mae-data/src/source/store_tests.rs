//! Room, eviction and versions in the cache folder.

use std::time::Duration;

use super::*;
use crate::source::index::Sample;

struct Cache {
    dir: tempfile::TempDir,
}

impl Cache {
    fn options(&self, limit: Option<u64>, evict: bool) -> OpenOptions {
        OpenOptions {
            cache_dir: self.dir.path().join("archives"),
            cache_limit: limit,
            cache_eviction: evict,
            progress: None,
            growth: None,
        }
    }

    /// Writes a copy of 1000 bytes for an archive, last used `age` seconds ago.
    fn add(&self, archive: &str, identity: u8, age: u64) -> PathBuf {
        let options = self.options(None, true);
        let store = Store::new(archive, Identity([identity; 32]), &options);
        let _lock = store.lock().unwrap();
        let file = store.begin(Kind::Copy).unwrap();
        file.as_file().set_len(1128).unwrap();
        let mut census = Census::default();
        census.samples.push(Sample { name: "a.png".into(), offset: 128, size: 1000, part: 0 });
        store.commit(Kind::Copy, file, 1128, &census, None).unwrap();
        let path = store.path(Kind::Copy);
        File::open(&path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        path
    }
}

#[test]
fn the_copy_unused_for_the_longest_time_goes_first() {
    let cache = Cache { dir: tempfile::tempdir().unwrap() };
    let paths = [
        cache.add("/d/a.tar.gz", 1, 300),
        cache.add("/d/b.tar.gz", 2, 900),
        cache.add("/d/c.tar.gz", 3, 600),
    ];
    let size = fs::metadata(&paths[0]).unwrap().len();
    let there = || paths.clone().map(|path| path.exists());
    let room = |limit, evict, needed| {
        let options = cache.options(Some(limit), evict);
        Store::new("/d/new.tar.gz", Identity([9; 32]), &options).make_room(needed)
    };
    assert_eq!(room(4 * size, true, size), Ok(()));
    assert_eq!(there(), [true; 3], "there was room");
    let full = Shortage::Limit { needed: 4 * size, limit: 3 * size };
    assert_eq!((room(3 * size, false, size), there()), (Err(full), [true; 3]), "eviction is off");
    assert_eq!((room(3 * size, true, size), there()), (Ok(()), [true, false, true]));

    // One that is in use stays, and counts as just used afterwards.
    let options = cache.options(None, true);
    let used = Store::new("/d/c.tar.gz", Identity([3; 32]), &options).find(Kind::Copy).unwrap();
    let full = Shortage::Limit { needed: 2 * size, limit: size };
    assert_eq!((room(size, true, size), there()), (Err(full), [false, false, true]));
    drop(used);
    assert_eq!((room(size, true, size), there()), (Ok(()), [false; 3]));
    assert_eq!(room(size, true, size + 1), Err(Shortage::Limit { needed: size + 1, limit: size }));
}

#[test]
fn a_disk_that_is_too_full_is_seen_before() {
    let cache = Cache { dir: tempfile::tempdir().unwrap() };
    let path = cache.add("/d/a.tar.gz", 1, 300);
    let options = cache.options(None, false);
    let store = Store::new("/d/new.tar.gz", Identity([9; 32]), &options);
    assert!(matches!(store.make_room(u64::MAX / 2), Err(Shortage::Disk { .. })));
    assert!(store.make_room(10) == Ok(()) && store.has_room(1000, 10) == Ok(()) && path.exists());
    let limited = cache.options(Some(1005), true);
    let store = Store::new("/d/new.tar.gz", Identity([9; 32]), &limited);
    assert_eq!(store.has_room(1000, 10), Err(Shortage::Limit { needed: 1010, limit: 1005 }));
}

#[test]
fn a_new_version_replaces_the_old_and_a_moved_archive_keeps_its_copy() {
    let cache = Cache { dir: tempfile::tempdir().unwrap() };
    let other = cache.add("/d/other.tar.gz", 7, 10);
    let old = cache.add("/d/a.tar.gz", 1, 10);
    let new = cache.add("/d/a.tar.gz", 2, 10);
    assert!(!old.exists() && new.exists() && other.exists());
    let options = cache.options(None, true);
    assert!(Store::new("/e/a.tar.gz", Identity([2; 32]), &options).find(Kind::Copy).is_some());
    // Another kind of file, or one of another archive under this name, is not taken.
    let store = Store::new("/d/a.tar.gz", Identity([2; 32]), &options);
    assert!(store.find(Kind::Points).is_none());
    fs::copy(&other, &new).unwrap();
    assert!(store.find(Kind::Copy).is_none());
}

#[test]
fn names_of_addresses_make_good_file_names() {
    let options = OpenOptions::default();
    let name = |archive: &str| {
        let path = Store::new(archive, Identity([0xab; 32]), &options).path(Kind::Points);
        path.file_name().unwrap().to_str().unwrap().to_owned()
    };
    assert_eq!(name("s3://bucket/a b/t.tar.gz?sig=x/y"), "t.tar.gz.abababababababab.maepoints");
    assert_eq!(name("/d/ä/ö.tar/"), "_.tar.abababababababab.maepoints");
}
