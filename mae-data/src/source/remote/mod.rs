//! Addresses: archives and folders behind http, https, s3, gs and az.
//!
//! An archive is read once, from its beginning to its end, into the cache, and used from there. Of a folder of
//! objects, each image is fetched when it is needed. Everything asynchronous stays in this room.

mod client;
mod object;

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use object_store::path::Path as Key;

use super::OpenOptions;
use super::address::Address;
use super::archive::{self, Format};
use super::cache::{HEADER, Identity};
use super::gzip;
use super::index::{Census, Sample};
use super::packed::{self, Input, Packing};
use super::place::{Opened, Place};
use super::reader::Piped;
use super::store::Store;
use super::zip;
use crate::error::Error;
use crate::sys::Map;
use client::Client;
use object::Object;

/// Opens what an address names.
pub(crate) fn open(url: &str, options: &OpenOptions) -> Result<Opened, Error> {
    open_client(Client::new(url)?, options)
}

fn open_client(client: Client, options: &OpenOptions) -> Result<Opened, Error> {
    if client.is_folder() {
        return open_folder(client);
    }
    match Object::find(&client)? {
        Some(object) => open_archive(client, object, options),
        None => open_folder(client),
    }
}

/// Puts what they match in the place of patterns.
pub(crate) fn expand(addresses: Vec<Address>) -> Result<Vec<Address>, Error> {
    let mut expanded = Vec::with_capacity(addresses.len());
    for address in addresses {
        match &address {
            // In an http address, a question mark begins the query.
            Address::Remote(url) if !url.starts_with("http") && url.contains(['*', '?', '[']) => {
                let found = matches_with(url, Client::new)?;
                if found.is_empty() {
                    return Err(Error::NoMatch { pattern: url.clone() });
                }
                expanded.extend(found.into_iter().map(Address::Remote));
            }
            _ => expanded.push(address),
        }
    }
    Ok(expanded)
}

/// The addresses that match a pattern, in order.
fn matches_with(pattern: &str, client: impl Fn(&str) -> Result<Client, Error>) -> Result<Vec<String>, Error> {
    let fixed = pattern.find(['*', '?', '[']).unwrap_or(pattern.len());
    let folder = pattern[..fixed].rfind('/').map_or(pattern, |slash| &pattern[..=slash]);
    let client = client(folder)?;
    let wanted = glob::Pattern::new(pattern)
        .map_err(|e| Error::BadPattern { pattern: pattern.to_owned(), detail: e.to_string() })?;
    let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
    let mut found: Vec<String> = client
        .list()?
        .into_iter()
        .map(|meta| format!("{folder}{}", client.relative(&meta.location)))
        .filter(|url| wanted.matches_with(url, options))
        .collect();
    found.sort();
    Ok(found)
}

fn open_archive(client: Client, object: Object, options: &OpenOptions) -> Result<Opened, Error> {
    let shown = client.shown().to_owned();
    let format = archive::format(object.head(), &shown)?;
    let version = object.version();
    let identity = Identity::stated(&[shown.as_bytes(), version.as_bytes(), &object.size().to_le_bytes()]);
    let store = Store::new(&shown, identity, options);
    let (total, read) = (object.size(), Arc::new(AtomicU64::new(0)));
    let opened = match format {
        Format::Zip => return open_zip(&shown, &store, object, options),
        Format::Tar | Format::Packed(_) => packed::open_copy(&shown, &store, total, options, || {
            let reader = BufReader::with_capacity(1 << 18, object.stream(Arc::clone(&read)));
            let (stream, members): (Box<dyn BufRead>, _) = match format {
                Format::Packed(Packing::Gzip) => {
                    let members = Arc::new(AtomicU64::new(0));
                    let counted = Arc::clone(&members);
                    let piped = Piped::spawn(move |sink| gzip::unpack_stream(reader, sink, &counted))?;
                    (Box::new(piped), Some(members))
                }
                Format::Packed(Packing::Zstd) => (Box::new(packed::unzstd(reader)?), None),
                _ => (Box::new(reader), None),
            };
            let compressed = format != Format::Tar;
            Ok(Input { stream, read, total, compressed, members })
        })?,
    };
    opened.map_err(|obstacle| obstacle.error(&shown, store.dir()))
}

/// A zip has its table of contents at the end: the whole of it is fetched first.
fn open_zip(shown: &str, store: &Store<'_>, object: Object, options: &OpenOptions) -> Result<Opened, Error> {
    let total = object.size();
    let cached = packed::fetch(shown, store, total, options, || {
        let read = Arc::new(AtomicU64::new(0));
        let reader = BufReader::with_capacity(1 << 18, object.stream(Arc::clone(&read)));
        Ok(Input { stream: Box::new(reader), read, total, compressed: false, members: None })
    })?;
    match cached {
        Ok(cached) => zip::open(shown, Window { map: cached.map, end: HEADER + total as usize }),
        Err(obstacle) => Err(obstacle.error(shown, store.dir())),
    }
}

/// The bytes of an object in its cache file.
struct Window {
    map: Map,
    end: usize,
}

impl Deref for Window {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.get(HEADER..self.end).unwrap_or_default()
    }
}

/// Objects below a prefix.
struct Objects {
    client: Client,
    /// A sample's offset is an index into it.
    objects: Vec<(Key, Option<String>)>,
}

fn open_folder(client: Client) -> Result<Opened, Error> {
    let (mut census, mut objects) = (Census::default(), Vec::new());
    let found = client.list()?;
    if found.is_empty() {
        return Err(client.missing());
    }
    for meta in found {
        let Some(name) = census.plain_name(&client.relative(&meta.location)) else { continue };
        if census.accepts(&name, meta.size) {
            let offset = objects.len() as u64;
            census.samples.push(Sample { name: name.into(), offset, size: meta.size, part: 0 });
            objects.push((meta.location, meta.e_tag));
        }
    }
    Ok(Opened::new(Objects { client, objects }, census))
}

impl Place for Objects {
    fn root(&self) -> &str {
        self.client.shown()
    }

    fn read(&self, sample: &Sample) -> Result<Cow<'_, [u8]>, Error> {
        let missing = || Error::io("read", self.root(), io::ErrorKind::NotFound.into());
        let index = usize::try_from(sample.offset).map_err(|_| missing())?;
        let (key, tag) = self.objects.get(index).ok_or_else(missing)?;
        self.client.get(key, tag.as_deref(), sample.size).map(Cow::Owned)
    }
}

#[cfg(test)]
mod server;
#[cfg(test)]
mod tests;
