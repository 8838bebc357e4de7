//! Small data sets made of the demo's archives.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

/// Name (`class/file.png`) and encoded bytes.
pub type Image = (String, Vec<u8>);

/// The first `per_class` images of each of the ten classes of `datasets/fashion_mnist_8k/images_SPLIT.tar.gz`, by name.
pub fn demo_images(split: &str, per_class: usize) -> Vec<Image> {
    let path = super::workspace().join(format!("datasets/fashion_mnist_8k/images_{split}.tar.gz"));
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(path).unwrap()));
    let mut classes: BTreeMap<String, Vec<Image>> = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let Some((class, _)) = name.split_once('/') else { continue };
        let images = classes.entry(class.to_owned()).or_default();
        if images.len() < per_class && entry.header().entry_type().is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            images.push((name, bytes));
        }
    }
    assert_eq!(classes.len(), 10);
    classes.into_values().flatten().collect()
}

/// Writes images below a folder.
pub fn write_folder(folder: &Path, images: &[Image]) {
    for (name, bytes) in images {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Writes images as a `.tar`, or as a `.tar.gz` where the name says so.
pub fn write_archive(path: &Path, images: &[Image]) {
    let file = File::create(path).unwrap();
    if path.extension().is_some_and(|extension| extension == "gz") {
        pack(GzEncoder::new(file, Compression::fast()), images).finish().unwrap();
    } else {
        pack(file, images);
    }
}

fn pack<W: Write>(out: W, images: &[Image]) -> W {
    let mut builder = tar::Builder::new(out);
    for (name, bytes) in images {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    builder.into_inner().unwrap()
}
