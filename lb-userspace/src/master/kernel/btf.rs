//! Just enough of the kernel's BTF (type information, `Documentation/bpf/btf.rst`) to find where a field lies.
//!
//! The full parser of the BPF library builds every type of the kernel; start-up has no time for that.

use thiserror::Error;

/// Why a field was not found.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BtfError {
    /// Not BTF, or not of this byte order, or cut short.
    #[error("the kernel's type information is damaged")]
    Malformed,
    /// This kernel has no such type.
    #[error("this kernel has no type {0}")]
    NoType(String),
    /// The type has no such field.
    #[error("this kernel's {0} has no field {1}")]
    NoField(String, String),
}

const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: usize = 24;
const KIND_INT: u8 = 1;
const KIND_POINTER: u8 = 2;
const KIND_ARRAY: u8 = 3;
const KIND_STRUCT: u8 = 4;
const KIND_UNION: u8 = 5;
const KIND_ENUM: u8 = 6;
const KIND_TYPEDEF: u8 = 8;
const KIND_CONST: u8 = 10;
const KIND_FUNCTION_PROTOTYPE: u8 = 13;
const KIND_VARIABLE: u8 = 14;
const KIND_SECTION: u8 = 15;
const KIND_DECLARATION_TAG: u8 = 17;
const KIND_ENUM64: u8 = 19;
/// Anonymous structures inside one another, and links in a chain of typedefs; the kernel has fewer than ten.
const DEPTH_MAX: u32 = 32;

/// The types of a kernel.
pub struct Btf<'a> {
    strings: &'a [u8],
    types: &'a [u8],
    /// Where each type begins in `types`; type ids count from 1.
    begins: Vec<u32>,
    /// Where structures and typedefs begin: what is looked for by name, one type in five.
    looked_for: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Type<'a> {
    name: u32,
    kind: u8,
    /// Bit fields may be among the members: offsets have their width in the upper byte.
    has_widths: bool,
    count: u32,
    /// Size, or the type that this one refers to.
    refers_to: u32,
    rest: &'a [u8],
}

impl<'a> Btf<'a> {
    /// Reads the index of `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    /// [`BtfError::Malformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        if bytes.get(..2) != Some(&MAGIC.to_ne_bytes()) {
            return Err(BtfError::Malformed);
        }
        let header_bytes = word(bytes, 4)? as usize;
        if header_bytes < HEADER_BYTES {
            return Err(BtfError::Malformed);
        }
        let types = section(bytes, header_bytes, word(bytes, 8)?, word(bytes, 12)?)?;
        let strings = section(bytes, header_bytes, word(bytes, 16)?, word(bytes, 20)?)?;
        let (mut begins, mut looked_for) = (Vec::with_capacity(types.len() / 24), Vec::new());
        let mut at = 0;
        while at < types.len() {
            let found = type_at(types, at)?;
            let begin = u32::try_from(at).map_err(|_| BtfError::Malformed)?;
            begins.push(begin);
            if matches!(found.kind, KIND_STRUCT | KIND_TYPEDEF) {
                looked_for.push(begin);
            }
            at += found.bytes();
        }
        Ok(Self { strings, types, begins, looked_for })
    }

    /// The byte offset of a field in structure `name`, through the fields of `path` in turn; fields of anonymous structures
    /// and unions count as their owner's.
    ///
    /// # Errors
    /// There is no such type or field here.
    pub fn offset_of(&self, name: &str, path: &[&str]) -> Result<u32, BtfError> {
        let mut owner = self.find(KIND_STRUCT, name)?;
        let mut bits = 0;
        for field in path {
            let (at, of) = self
                .member(owner, field, DEPTH_MAX)?
                .ok_or_else(|| BtfError::NoField(name.to_owned(), (*field).to_owned()))?;
            bits += at;
            owner = self.behind_names(of)?;
        }
        Ok(bits / 8)
    }

    /// How many arguments a tracepoint gives, the hidden first one not counted.
    ///
    /// # Errors
    /// There is no such tracepoint here.
    pub fn tracepoint_arguments(&self, name: &str) -> Result<u32, BtfError> {
        let pointer = self.behind_names(self.find(KIND_TYPEDEF, &format!("btf_trace_{name}"))?.refers_to)?;
        let prototype = self.id(pointer.refers_to)?;
        if pointer.kind != KIND_POINTER || prototype.kind != KIND_FUNCTION_PROTOTYPE {
            return Err(BtfError::Malformed);
        }
        Ok(prototype.count.saturating_sub(1))
    }

    fn find(&self, kind: u8, name: &str) -> Result<Type<'a>, BtfError> {
        for begin in &self.looked_for {
            let found = type_at(self.types, *begin as usize)?;
            if found.kind == kind && self.is_named(found.name, name) {
                return Ok(found);
            }
        }
        Err(BtfError::NoType(name.to_owned()))
    }

    fn id(&self, id: u32) -> Result<Type<'a>, BtfError> {
        let begin = (id as usize).checked_sub(1).and_then(|index| self.begins.get(index));
        type_at(self.types, *begin.ok_or(BtfError::Malformed)? as usize)
    }

    /// The type behind typedefs, `const` and `volatile`.
    fn behind_names(&self, id: u32) -> Result<Type<'a>, BtfError> {
        let mut found = self.id(id)?;
        for _ in 0..DEPTH_MAX {
            match found.kind {
                KIND_TYPEDEF..=KIND_CONST => found = self.id(found.refers_to)?,
                _ => return Ok(found),
            }
        }
        Err(BtfError::Malformed)
    }

    /// Bit offset and type id of a field.
    fn member(&self, owner: Type<'a>, name: &str, depth: u32) -> Result<Option<(u32, u32)>, BtfError> {
        if !matches!(owner.kind, KIND_STRUCT | KIND_UNION) || depth == 0 {
            return Ok(None);
        }
        for index in 0..owner.count as usize {
            let (member_name, of) = (word(owner.rest, index * 12)?, word(owner.rest, index * 12 + 4)?);
            let offset = word(owner.rest, index * 12 + 8)?;
            let bits = if owner.has_widths { offset & 0x00ff_ffff } else { offset };
            if self.is_named(member_name, name) {
                return Ok(Some((bits, of)));
            }
            if member_name == 0
                && let Some((inner, of)) = self.member(self.behind_names(of)?, name, depth - 1)?
            {
                return Ok(Some((bits + inner, of)));
            }
        }
        Ok(None)
    }

    fn is_named(&self, offset: u32, name: &str) -> bool {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.starts_with(name.as_bytes()) && rest.get(name.len()) == Some(&0)
    }
}

impl Type<'_> {
    /// Bytes of the record, what follows the fixed part included.
    fn bytes(&self) -> usize {
        let count = self.count as usize;
        12 + match self.kind {
            KIND_INT | KIND_VARIABLE | KIND_DECLARATION_TAG => 4,
            KIND_ARRAY => 12,
            KIND_STRUCT | KIND_UNION | KIND_SECTION | KIND_ENUM64 => count * 12,
            KIND_ENUM | KIND_FUNCTION_PROTOTYPE => count * 8,
            _ => 0,
        }
    }
}

fn type_at(types: &[u8], at: usize) -> Result<Type<'_>, BtfError> {
    let (name, info, refers_to) = (word(types, at)?, word(types, at + 4)?, word(types, at + 8)?);
    Ok(Type {
        name,
        kind: (info >> 24 & 0x1f) as u8,
        has_widths: info >> 31 == 1,
        count: info & 0xffff,
        refers_to,
        rest: types.get(at + 12..).ok_or(BtfError::Malformed)?,
    })
}

fn section(bytes: &[u8], header: usize, offset: u32, length: u32) -> Result<&[u8], BtfError> {
    let begin = header + offset as usize;
    bytes.get(begin..begin + length as usize).ok_or(BtfError::Malformed)
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    four.map(u32::from_ne_bytes).ok_or(BtfError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct pair { int a; union { struct { short b; typedef'd c; }; }; }`, a tracepoint of two arguments, and names.
    fn sample() -> Vec<u8> {
        let mut strings = vec![0u8];
        let mut text = |name: &str| {
            let at = strings.len() as u32;
            strings.extend(name.as_bytes());
            strings.push(0);
            at
        };
        let (int, pair, a, b, c, alias) =
            (text("int"), text("pair"), text("a"), text("b"), text("c"), text("alias"));
        let (trace, inner, d) = (text("btf_trace_died"), text("inner"), text("d"));
        let info = |kind: u8, count: u32| u32::from(kind) << 24 | count;
        let records: &[&[u32]] = &[
            &[int, info(KIND_INT, 0), 4, 32],
            &[0, info(KIND_STRUCT, 2), 8, b, 1, 0, c, 3, 32],
            &[alias, info(KIND_TYPEDEF, 0), 5],
            &[0, info(KIND_UNION, 1), 8, 0, 2, 0],
            &[inner, info(KIND_STRUCT, 1), 8, d, 1, 32],
            &[pair, info(KIND_STRUCT, 2), 16, a, 1, 0, 0, 4, 64],
            &[0, info(KIND_FUNCTION_PROTOTYPE, 3), 0, 0, 1, 0, 1, 0, 1],
            &[0, info(KIND_POINTER, 0), 7],
            &[trace, info(KIND_TYPEDEF, 0), 8],
        ];
        let types: Vec<u8> = records.concat().iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut bytes = Vec::from(MAGIC.to_ne_bytes());
        bytes.extend([1, 0]);
        let (types_len, strings_len) = (types.len() as u32, strings.len() as u32);
        for word in [HEADER_BYTES as u32, 0, types_len, types_len, strings_len] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn field_is_found_through_anonymous_members_and_typedefs() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.offset_of("pair", &["a"]), Ok(0));
        assert_eq!(btf.offset_of("pair", &["b"]), Ok(8));
        assert_eq!(btf.offset_of("pair", &["c"]), Ok(12));
        assert_eq!(btf.offset_of("pair", &["c", "d"]), Ok(16));
        assert_eq!(btf.offset_of("pair", &["e"]), Err(BtfError::NoField("pair".into(), "e".into())));
        assert_eq!(btf.offset_of("int", &["e"]), Err(BtfError::NoType("int".into())));
        assert_eq!(btf.tracepoint_arguments("died"), Ok(2));
    }

    #[test]
    fn damaged_information_is_an_error_and_never_a_panic() {
        let bytes = sample();
        for length in 0..bytes.len() {
            if let Ok(btf) = Btf::parse(&bytes[..length]) {
                let _ = btf.offset_of("pair", &["c", "d"]);
            }
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0xff;
            if let Ok(btf) = Btf::parse(&bytes) {
                let _ = (btf.offset_of("pair", &["c", "d"]), btf.tracepoint_arguments("died"));
            }
        }
    }
}
