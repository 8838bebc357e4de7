//! The fields of a tar header and the records of a PAX header.

use std::fmt::Write;

use super::BLOCK;

/// The sum of the header's bytes; very old writers summed them as signed.
pub(super) fn check_sum(header: &[u8; BLOCK]) -> Result<(), String> {
    let stated = number(&header[148..156])?;
    let (mut unsigned, mut signed) = (0i64, 0i64);
    for (i, &byte) in header.iter().enumerate() {
        let byte = if (148..156).contains(&i) { b' ' } else { byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte as i8);
    }
    if i64::try_from(stated).is_ok_and(|sum| sum == unsigned || sum == signed) {
        Ok(())
    } else {
        Err("this is not a tar header (its checksum is wrong)".to_owned())
    }
}

/// A number field: octal digits, or base 256 when the highest bit is set.
pub(super) fn number(field: &[u8]) -> Result<u64, String> {
    if field[0] & 0x80 != 0 {
        if field[0] & 0x40 != 0 {
            return Err("a negative number in a header".to_owned());
        }
        let mut digits = std::iter::once(field[0] & 0x3f).chain(field[1..].iter().copied());
        return digits
            .try_fold(0u64, |value, digit| value.checked_mul(256)?.checked_add(u64::from(digit)))
            .ok_or_else(|| "a number in a header that is too large".to_owned());
    }
    let mut value: Option<u64> = None;
    for &byte in field {
        match byte {
            b'0'..=b'7' => {
                let digit = u64::from(byte - b'0');
                value = Some(
                    value
                        .unwrap_or(0)
                        .checked_mul(8)
                        .and_then(|v| v.checked_add(digit))
                        .ok_or("a number in a header that is too large")?,
                );
            }
            b' ' | 0 if value.is_none() => {}
            b' ' | 0 => break,
            _ => return Err("a header field that is no octal number".to_owned()),
        }
    }
    Ok(value.unwrap_or(0))
}

/// One `LENGTH KEY=VALUE\n` of a PAX header, and what follows it.
pub(super) struct PaxRecord<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) rest: &'a [u8],
}

pub(super) fn pax_record(bytes: &[u8]) -> Result<PaxRecord<'_>, String> {
    let bad = || "a PAX record with a wrong length".to_owned();
    let space = bytes.iter().position(|&b| b == b' ').ok_or_else(bad)?;
    let length: usize =
        std::str::from_utf8(&bytes[..space]).ok().and_then(|s| s.parse().ok()).ok_or_else(bad)?;
    if length <= space + 1 || length > bytes.len() {
        return Err(bad());
    }
    let record = &bytes[space + 1..length - 1];
    let equals = record.iter().position(|&b| b == b'=').ok_or("a PAX record without '='")?;
    Ok(PaxRecord { key: &record[..equals], value: &record[equals + 1..], rest: &bytes[length..] })
}

pub(super) fn header_name(header: &[u8; BLOCK]) -> String {
    let name = text(until_nul(&header[..100]));
    let prefix = until_nul(&header[345..500]);
    if &header[257..263] == b"ustar\0" && !prefix.is_empty() {
        format!("{}/{name}", text(prefix))
    } else {
        name
    }
}

pub(super) fn until_nul(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|&b| b == 0).unwrap_or(field.len())]
}

/// Text from bytes; those that are not UTF-8 are shown as `\xE9`, so that different names stay different.
pub(in super::super) fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02X}");
        }
    }
    text
}
