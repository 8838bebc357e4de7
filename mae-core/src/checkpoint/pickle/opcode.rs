//! Bytes → opcodes.

use super::super::Result;
use super::{Origin, text};

/// Longest `int` that is accepted, in bytes; Python itself prints none longer than 4,300 digits.
const MAX_LONG_BYTES: usize = 2048;

/// An opcode with its argument. Several encodings of one meaning share a variant.
pub(super) enum Op<'a> {
    Stop,
    /// PROTO, FRAME and others that need no action.
    Nothing,
    Mark,
    Pop,
    PopMark,
    Dup,
    None,
    Bool(bool),
    Int(i64),
    /// Two's complement, least significant byte first.
    Long(&'a [u8]),
    /// An `int` in decimal digits.
    Digits(&'a str),
    Float(f64),
    Str(&'a str),
    /// A `str` that was written with escapes.
    OwnedStr(String),
    /// A Python 2 `str` that was written with escapes.
    OwnedBytes(Vec<u8>),
    /// Python 2 `str`.
    ByteStr(&'a [u8]),
    Bytes(&'a [u8]),
    EmptyList,
    List,
    Append,
    Appends,
    EmptyTuple,
    Tuple,
    /// The topmost 1, 2 or 3 values.
    TupleOf(usize),
    EmptyDict,
    Dict,
    SetItem,
    SetItems,
    EmptySet,
    AddItems,
    FrozenSet,
    Global(&'a str, &'a str),
    StackGlobal,
    Reduce,
    Build,
    NewObj,
    NewObjEx,
    Inst(&'a str, &'a str),
    Obj,
    Put(u32),
    Get(u32),
    Memoize,
    PersId,
    /// The key of a persistent object as text.
    PersIdText(&'a str),
    /// Opcodes that have no place in a checkpoint.
    Unsupported(&'static str),
}

/// Walks over a pickle.
pub(super) struct Opcodes<'a> {
    bytes: &'a [u8],
    origin: &'a Origin,
    /// Offset of the next opcode.
    pub(super) at: usize,
}

impl<'a> Opcodes<'a> {
    pub(super) fn new(bytes: &'a [u8], origin: &'a Origin) -> Self {
        Self { bytes, origin, at: 0 }
    }

    pub(super) fn next_op(&mut self) -> Result<Op<'a>> {
        let start = self.at;
        let code = self.u8()?;
        Ok(match code {
            b'.' => Op::Stop,
            0x80 => {
                let protocol = self.u8()?;
                if protocol > 5 {
                    return Err(self.origin.error(start, format!("protocol {protocol} is unknown")));
                }
                Op::Nothing
            }
            0x95 => {
                self.take(8)?;
                Op::Nothing
            }
            b'(' => Op::Mark,
            b'0' => Op::Pop,
            b'1' => Op::PopMark,
            b'2' => Op::Dup,
            b'N' => Op::None,
            0x88 => Op::Bool(true),
            0x89 => Op::Bool(false),
            b'I' => match self.line()? {
                "00" => Op::Bool(false),
                "01" => Op::Bool(true),
                digits => Op::Digits(digits),
            },
            b'L' => {
                let digits = self.line()?;
                Op::Digits(digits.strip_suffix('L').unwrap_or(digits))
            }
            b'J' => Op::Int(i64::from(self.u32()? as i32)),
            b'K' => Op::Int(i64::from(self.u8()?)),
            b'M' => Op::Int(i64::from(self.u16()?)),
            0x8a => {
                let len = usize::from(self.u8()?);
                Op::Long(self.take(len)?)
            }
            0x8b => {
                let len = self.u32()? as usize;
                if len > MAX_LONG_BYTES {
                    return Err(self.origin.error(start, format!("an int of {len} bytes")));
                }
                Op::Long(self.take(len)?)
            }
            b'F' => {
                let digits = self.line()?;
                let value = digits.parse().map_err(|_| self.origin.error(start, "malformed float"))?;
                Op::Float(value)
            }
            b'G' => {
                let mut bits = [0; 8];
                bits.copy_from_slice(self.take(8)?);
                Op::Float(f64::from_be_bytes(bits))
            }
            b'X' => {
                let len = self.u32()? as usize;
                self.text(start, len)?
            }
            0x8c => {
                let len = usize::from(self.u8()?);
                self.text(start, len)?
            }
            0x8d => {
                let len = self.u64()?;
                self.text(start, len)?
            }
            b'T' => {
                let len = self.u32()? as usize;
                Op::ByteStr(self.take(len)?)
            }
            b'U' => {
                let len = usize::from(self.u8()?);
                Op::ByteStr(self.take(len)?)
            }
            b'B' => {
                let len = self.u32()? as usize;
                Op::Bytes(self.take(len)?)
            }
            b'C' => {
                let len = usize::from(self.u8()?);
                Op::Bytes(self.take(len)?)
            }
            0x8e | 0x96 => {
                let len = self.u64()?;
                Op::Bytes(self.take(len)?)
            }
            b']' => Op::EmptyList,
            b'l' => Op::List,
            b'a' => Op::Append,
            b'e' => Op::Appends,
            b')' => Op::EmptyTuple,
            b't' => Op::Tuple,
            0x85 => Op::TupleOf(1),
            0x86 => Op::TupleOf(2),
            0x87 => Op::TupleOf(3),
            b'}' => Op::EmptyDict,
            b'd' => Op::Dict,
            b's' => Op::SetItem,
            b'u' => Op::SetItems,
            0x8f => Op::EmptySet,
            0x90 => Op::AddItems,
            0x91 => Op::FrozenSet,
            b'c' => Op::Global(self.line()?, self.line()?),
            0x93 => Op::StackGlobal,
            b'R' => Op::Reduce,
            b'b' => Op::Build,
            0x81 => Op::NewObj,
            0x92 => Op::NewObjEx,
            b'i' => Op::Inst(self.line()?, self.line()?),
            b'o' => Op::Obj,
            b'q' => Op::Put(u32::from(self.u8()?)),
            b'r' => Op::Put(self.u32()?),
            b'p' => Op::Put(self.index(start)?),
            b'h' => Op::Get(u32::from(self.u8()?)),
            b'j' => Op::Get(self.u32()?),
            b'g' => Op::Get(self.index(start)?),
            0x94 => Op::Memoize,
            b'Q' => Op::PersId,
            b'P' => Op::PersIdText(self.line()?),
            b'S' => {
                let line = self.raw_line()?;
                let text = text::unquote(line).ok_or_else(|| self.origin.error(start, "malformed STRING"))?;
                Op::OwnedBytes(text)
            }
            b'V' => {
                let line = self.raw_line()?;
                let text = text::raw_unicode(line);
                Op::OwnedStr(text.ok_or_else(|| self.origin.error(start, "malformed UNICODE"))?)
            }
            0x82..=0x84 => {
                self.take(1 << (code - 0x82))?;
                Op::Unsupported("EXT (extension registry)")
            }
            0x97 => Op::Unsupported("NEXT_BUFFER (out-of-band data)"),
            0x98 => Op::Unsupported("READONLY_BUFFER (out-of-band data)"),
            other => return Err(self.origin.error(start, format!("{other:#04x} is not an opcode"))),
        })
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| {
            let have = self.bytes.len() - self.at;
            self.origin.error(self.at, format!("it ends early: {len} more bytes expected, {have} are left"))
        })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16> {
        let bytes = self.take(2)?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Result<u32> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A length; one that does not fit the address space is longer than the pickle anyway.
    fn u64(&mut self) -> Result<usize> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        Ok(usize::try_from(u64::from_le_bytes(bytes)).unwrap_or(usize::MAX))
    }

    /// A short line: a name or a number.
    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let Some(len) = rest.iter().take(4096).position(|byte| *byte == b'\n') else {
            return Err(self.origin.error(self.at, "a text line without end"));
        };
        let start = self.at;
        let line = self.take(len + 1)?;
        std::str::from_utf8(&line[..len]).map_err(|_| self.origin.error(start, "a text line is not UTF-8"))
    }

    /// A line of any length: a text of protocol 0.
    fn raw_line(&mut self) -> Result<&'a [u8]> {
        let Some(len) = self.bytes[self.at..].iter().position(|byte| *byte == b'\n') else {
            return Err(self.origin.error(self.at, "a text line without end"));
        };
        Ok(&self.take(len + 1)?[..len])
    }

    fn text(&mut self, start: usize, len: usize) -> Result<Op<'a>> {
        let bytes = self.take(len)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Op::Str(text)),
            Err(_) => Err(self.origin.error(start, "a str is not UTF-8")),
        }
    }

    fn index(&mut self, start: usize) -> Result<u32> {
        self.line()?.parse().map_err(|_| self.origin.error(start, "malformed memo index"))
    }
}

/// Length of the pickle at the start of `bytes`, without executing anything.
pub(crate) fn end_of_pickle(bytes: &[u8], origin: &Origin) -> Result<usize> {
    let mut opcodes = Opcodes::new(bytes, origin);
    while !matches!(opcodes.next_op()?, Op::Stop) {}
    Ok(opcodes.at)
}
