//! The checks that every kind of source passes: whatever the images come from, the data set is the same.
//!
//! A new source is right when [`check`] finds nothing in a source that holds [`files`].

use super::index::{Sample, digest};
use super::{Dataset, Layout};
use crate::error::Error;

/// The classes of [`files`].
const CLASSES: [&str; 3] = ["cat", "dog", "zebra"];
/// Names and labels of the images among [`files`], in the order of a data set.
const IMAGES: [(&str, usize); 7] = [
    ("cat/a.png", 0),
    ("cat/b.PNG", 0),
    ("dog/1.png", 1),
    ("dog/deep/er/2.jpeg", 1),
    ("zebra/large.tif", 2),
    ("zebra/one byte.bmp", 2),
    ("zebra/ä ö.webp", 2),
];

/// Files for a source, not in order: images of a few bytes and of more than a buffer holds, at several depths, with
/// spaces and accents in their names, and files that are no images.
pub fn files() -> Vec<(&'static str, Vec<u8>)> {
    let mut files: Vec<(&str, Vec<u8>)> = IMAGES
        .iter()
        .rev()
        .enumerate()
        .map(|(i, (name, _))| (*name, content(name, [700, 1, 700_000, 3000, 512, 513, 90_000][i])))
        .collect();
    files.insert(2, ("cat/notes.txt", b"no image".to_vec()));
    files.insert(4, ("dog/.hidden.png", content("hidden", 40)));
    files.push(("README", b"no image either".to_vec()));
    files
}

/// Checks a source that holds [`files`], which `open` opens, and says what is wrong with it.
///
/// # Errors
/// The first difference, in words.
pub fn check(open: &dyn Fn(Layout) -> Result<Dataset, Error>) -> Result<(), String> {
    let open = |layout| open(layout).map_err(|error| format!("cannot be opened: {error}"));
    let labelled = open(Layout::ImageFolder)?;
    let flat = open(Layout::Flat)?;
    same("classes", labelled.classes(), &CLASSES.map(str::to_owned))?;
    same("class counts", &labelled.class_counts(), &vec![2, 2, 3])?;
    same("classes without labels", flat.classes(), &[])?;
    let expected = files();
    let samples: Vec<Sample> = IMAGES
        .iter()
        .map(|(name, _)| Sample {
            name: (*name).into(),
            offset: 0,
            size: bytes_of(&expected, name).len() as u64,
            part: 0,
        })
        .collect();
    for dataset in [&labelled, &flat] {
        same("number of images", &dataset.len(), &IMAGES.len())?;
        same("digest", dataset.digest(), digest(&samples).as_str())?;
        for (index, (name, label)) in IMAGES.iter().enumerate() {
            same("name", dataset.name(index), name)?;
            let shown = dataset.display_path(index);
            if !shown.ends_with(&format!("/{name}")) {
                return Err(format!("display path {shown} does not end with {name}"));
            }
            let label = (!dataset.classes().is_empty()).then_some(*label);
            same("label", &dataset.label(index), &label)?;
        }
    }
    // From several threads at once, each in another order, and each image more than once.
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|thread| {
                let (labelled, expected) = (&labelled, &expected);
                scope.spawn(move || {
                    (0..2 * IMAGES.len()).try_for_each(|i| {
                        let index = (i * (thread + 1) + thread) % IMAGES.len();
                        let name = IMAGES[index].0;
                        let bytes = labelled.read(index).map_err(|error| format!("{name}: {error}"))?;
                        let right = *bytes == *bytes_of(expected, name);
                        if right { Ok(()) } else { Err(format!("{name} has other bytes")) }
                    })
                })
            })
            .collect();
        readers
            .into_iter()
            .try_for_each(|reader| reader.join().unwrap_or_else(|_| Err("a reader panicked".to_owned())))
    })?;
    let again = open(Layout::ImageFolder)?;
    same("digest the second time", again.digest(), labelled.digest())
}

fn bytes_of<'a>(files: &'a [(&str, Vec<u8>)], name: &str) -> &'a [u8] {
    files.iter().find(|(file, _)| *file == name).map_or(&[], |(_, bytes)| bytes)
}

/// Bytes that hardly compress and depend on the name.
fn content(name: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn same<T: PartialEq + std::fmt::Debug + ?Sized>(what: &str, found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: found {found:?}, expected {expected:?}")) }
}
