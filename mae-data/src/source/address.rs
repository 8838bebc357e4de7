//! From what a person writes to single sources: lists, ranges in braces, patterns, addresses.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Sources beyond this number are a slip in a range.
const MOST: usize = 100_000;

/// One source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A local folder or archive.
    Local(PathBuf),
    /// An address with a scheme other than `file`.
    Remote(String),
}

/// The sources that a text names, and how many it named twice.
///
/// `a.tar,b.tar` is a list, `train-{0000..0099}.tar` and `{train,extra}.tar` stand for each of their cases, and
/// `train-*.tar` for the files that match. A path that exists as it is written is taken as it is.
pub(crate) fn expand(source: &str) -> Result<(Vec<Address>, usize), Error> {
    if source.trim().is_empty() {
        return Err(Error::NoSource);
    }
    let mut addresses = Vec::new();
    if exists(source) {
        addresses.push(address(source)?);
    } else {
        for item in split(source) {
            expand_item(item, &mut addresses)?;
        }
    }
    if addresses.is_empty() {
        return Err(Error::NoSource);
    }
    let mut seen = HashSet::new();
    let before = addresses.len();
    addresses.retain(|address| {
        seen.insert(match address {
            Address::Local(path) => path.display().to_string(),
            Address::Remote(url) => url.clone(),
        })
    });
    let twice = before - addresses.len();
    Ok((addresses, twice))
}

fn expand_item(item: &str, addresses: &mut Vec<Address>) -> Result<(), Error> {
    if exists(item) {
        addresses.push(address(item)?);
        return Ok(());
    }
    let mut cases = Vec::new();
    expand_braces(item, &mut cases)
        .map_err(|()| Error::TooManySources { pattern: item.to_owned(), limit: MOST })?;
    for case in cases {
        match address(&case)? {
            Address::Local(path) if case.contains(['*', '?', '[']) && !path.exists() => {
                let found = matches(&path)?;
                if found.is_empty() {
                    return Err(Error::NoMatch { pattern: case });
                }
                addresses.extend(found.into_iter().map(Address::Local));
            }
            address => addresses.push(address),
        }
        if addresses.len() > MOST {
            return Err(Error::TooManySources { pattern: item.to_owned(), limit: MOST });
        }
    }
    Ok(())
}

fn exists(source: &str) -> bool {
    !source.contains("://") && Path::new(source).exists()
}

fn matches(pattern: &Path) -> Result<Vec<PathBuf>, Error> {
    let text = pattern.display().to_string();
    let wrong = |detail: &dyn std::fmt::Display| Error::BadPattern {
        pattern: text.clone(),
        detail: detail.to_string(),
    };
    let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
    glob::glob_with(&text, options)
        .map_err(|e| wrong(&e))?
        .map(|found| found.map_err(|e| wrong(&e)))
        .collect()
}

/// The items of a list: separated by commas and line ends that are not inside braces.
fn split(list: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0usize;
    list.split(move |c| {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        (c == ',' && depth == 0) || c == '\n'
    })
    .map(str::trim)
    .filter(|item| !item.is_empty())
}

/// All cases of a text with `{a,b}` and `{1..9}`. Braces that are neither stand for themselves.
fn expand_braces(text: &str, cases: &mut Vec<String>) -> Result<(), ()> {
    let mut open = None;
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match (c, open) {
            ('{', None) => (open, depth) = (Some(at), 1),
            ('{', Some(_)) => depth += 1,
            ('}', Some(start)) => {
                depth -= 1;
                if depth > 0 {
                    continue;
                }
                let Some(choices) = choices(&text[start + 1..at])? else {
                    open = None;
                    continue;
                };
                for choice in choices {
                    let case = format!("{}{choice}{}", &text[..start], &text[at + 1..]);
                    expand_braces(&case, cases)?;
                }
                return Ok(());
            }
            _ => {}
        }
    }
    if cases.len() >= MOST {
        return Err(());
    }
    cases.push(text.to_owned());
    Ok(())
}

/// What the inside of a pair of braces stands for.
fn choices(inside: &str) -> Result<Option<Vec<String>>, ()> {
    if let Some((first, last)) = inside.split_once("..") {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if let (true, true, Ok(from), Ok(to)) =
            (digits(first), digits(last), first.parse::<u64>(), last.parse::<u64>())
        {
            if from.abs_diff(to) >= MOST as u64 {
                return Err(());
            }
            let padded = [first, last].iter().any(|text| text.len() > 1 && text.starts_with('0'));
            let width = if padded { first.len().max(last.len()) } else { 0 };
            let range: Vec<u64> =
                if from <= to { (from..=to).collect() } else { (to..=from).rev().collect() };
            return Ok(Some(range.into_iter().map(|n| format!("{n:0width$}")).collect()));
        }
    }
    let mut depth = 0usize;
    let choices: Vec<String> = inside
        .split(|c| {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ',' && depth == 0
        })
        .map(str::to_owned)
        .collect();
    Ok((choices.len() > 1).then_some(choices))
}

/// The source behind a single text: itself, or what a `file://` address names.
pub(super) fn address(source: &str) -> Result<Address, Error> {
    match source.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("file") => {
            let path = rest.strip_prefix("localhost").unwrap_or(rest);
            Ok(Address::Local(percent_decoded(path)))
        }
        Some((scheme, _)) if !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            match scheme.to_ascii_lowercase().as_str() {
                "http" | "https" | "s3" | "s3a" | "gs" | "az" | "abfs" | "abfss" | "azure" => {
                    Ok(Address::Remote(source.to_owned()))
                }
                _ => Err(Error::UnknownScheme { url: source.to_owned(), scheme: scheme.to_owned() }),
            }
        }
        _ => Ok(Address::Local(PathBuf::from(source))),
    }
}

fn percent_decoded(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let digits = after.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 16).ok()) {
            Some(decoded) if byte == b'%' => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            _ => bytes.push(byte),
        }
    }
    Path::new(&std::ffi::OsString::from_vec(bytes)).to_owned()
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
