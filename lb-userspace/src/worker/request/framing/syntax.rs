//! Character classes and lists of RFC 9110 §5.5–5.6.

/// Whether `byte` may stand in a token.
pub(super) const fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// Whether `text` is a token: one or more token characters.
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| is_token_byte(byte))
}

/// Whether `text` may be a field's value: HTAB, SP, VCHAR and obs-text. Looks at every byte, sixteen at a time, so that
/// the compiler makes vector instructions of it.
pub(super) fn is_field_value(text: &[u8]) -> bool {
    let mut blocks = text.chunks_exact(16);
    let bad = blocks.by_ref().fold(0, |bad, block| bad | control_bytes(block));
    bad | control_bytes(blocks.remainder()) == 0
}

/// Not zero where there is a control character other than HTAB.
#[inline(always)]
fn control_bytes(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |bad, &byte| {
        bad | (u8::from(byte < b' ') & u8::from(byte != b'\t')) | u8::from(byte == 0x7f)
    })
}

/// The elements of a comma-separated list, without the space around them.
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim).filter(|element| !element.is_empty())
}

/// `value` without SP and HTAB at its ends.
pub(super) fn trim(value: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_space(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_space(byte)).map_or(start, |last| last + 1);
    &value[start..end]
}

static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let this = byte as u8;
        table[byte] = this.is_ascii_alphanumeric()
            || matches!(
                this,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    table
};
