//! The primitives of the protobuf wire: varints, keys, and values whose length stands before them.
//!
//! <https://protobuf.dev/programming-guides/encoding/>

use super::DecodeError;

/// How a value is laid out, so that who does not know a field can skip it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireType {
    /// A variable-length integer.
    Varint = 0,
    /// Eight bytes, the lowest first.
    Fixed64 = 1,
    /// A length and as many bytes.
    Delimited = 2,
    /// The begin of a group, which proto3 no longer has; it is only ever skipped.
    GroupStart = 3,
    /// The end of a group.
    GroupEnd = 4,
    /// Four bytes, the lowest first.
    Fixed32 = 5,
}

/// Appends a variable-length integer.
pub(crate) fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The bytes that a variable-length integer takes.
pub(crate) fn varint_len(value: u64) -> usize {
    // Seven bits to a byte, and a byte for zero.
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Appends what stands before each field: its number and wire type.
pub(crate) fn write_key(number: u32, wire: WireType, out: &mut Vec<u8>) {
    write_varint(u64::from(number) << 3 | wire as u64, out);
}

/// The bytes that a key takes.
pub(crate) fn key_len(number: u32) -> usize {
    varint_len(u64::from(number) << 3)
}

/// The bytes that a length and what it counts take.
pub(crate) fn delimited_len(len: usize) -> usize {
    varint_len(len as u64) + len
}

/// Reads a message field by field.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    /// How much deeper messages may be nested; so nobody's message overflows the stack.
    depth: u8,
}

impl<'a> Reader<'a> {
    /// As deep as protobuf's own implementations go.
    const DEPTH: u8 = 100;

    /// Reads `bytes` from their begin.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            depth: Self::DEPTH,
        }
    }

    /// Whether all has been read.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All that has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// The number and wire type of the next field, or `None` at the end.
    ///
    /// # Errors
    /// There is something else.
    pub fn key(&mut self) -> Result<Option<(u32, WireType)>, DecodeError> {
        if self.is_empty() {
            return Ok(None);
        }
        let key = u32::try_from(self.varint()?).map_err(|_| DecodeError::malformed())?;
        let wire = match key & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Delimited,
            3 => WireType::GroupStart,
            4 => WireType::GroupEnd,
            5 => WireType::Fixed32,
            _ => return Err(DecodeError::malformed()),
        };
        match key >> 3 {
            0 => Err(DecodeError::malformed()),
            number => Ok(Some((number, wire))),
        }
    }

    /// A variable-length integer.
    ///
    /// # Errors
    /// It does not end within the bytes, or is longer than 64 bits.
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for (at, byte) in self.bytes.iter().enumerate().take(10) {
            if at == 9 && *byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.bytes = &self.bytes[at + 1..];
                return Ok(value);
            }
        }
        Err(DecodeError::malformed())
    }

    /// As many bytes as the array has.
    ///
    /// # Errors
    /// There are fewer.
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (fixed, rest) = self
            .bytes
            .split_first_chunk()
            .ok_or_else(DecodeError::malformed)?;
        self.bytes = rest;
        Ok(*fixed)
    }

    /// A length and as many bytes, to be read on their own, one level deeper.
    ///
    /// # Errors
    /// There are fewer bytes, or the nesting is too deep.
    pub fn delimited(&mut self) -> Result<Self, DecodeError> {
        let len = usize::try_from(self.varint()?).map_err(|_| DecodeError::malformed())?;
        let (bytes, rest) = self
            .bytes
            .split_at_checked(len)
            .ok_or_else(DecodeError::malformed)?;
        self.bytes = rest;
        Ok(Self {
            bytes,
            depth: self.deeper()?,
        })
    }

    /// Passes over the value of a field that nobody knows.
    ///
    /// # Errors
    /// It is none.
    pub fn skip(&mut self, number: u32, wire: WireType) -> Result<(), DecodeError> {
        match wire {
            WireType::Varint => self.varint().map(drop),
            WireType::Fixed64 => self.fixed::<8>().map(drop),
            WireType::Delimited => self.delimited().map(drop),
            WireType::Fixed32 => self.fixed::<4>().map(drop),
            WireType::GroupEnd => Err(DecodeError::malformed()),
            WireType::GroupStart => {
                let mut inner = Self {
                    bytes: self.bytes,
                    depth: self.deeper()?,
                };
                loop {
                    match inner.key()? {
                        Some((end, WireType::GroupEnd)) if end == number => break,
                        Some((number, wire)) => inner.skip(number, wire)?,
                        None => return Err(DecodeError::malformed()),
                    }
                }
                self.bytes = inner.bytes;
                Ok(())
            }
        }
    }

    fn deeper(&self) -> Result<u8, DecodeError> {
        self.depth
            .checked_sub(1)
            .ok_or_else(|| DecodeError::new("must not be nested more than 100 deep"))
    }
}
