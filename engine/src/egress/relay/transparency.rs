//! Content for DATA: a dot is added where a line begins with one, and what is left of stray CR and LF becomes a space.

/// RFC 5321 §4.5.2, and no stray CR or LF.
#[derive(Debug)]
pub(super) struct Transparency {
    is_line_start: bool,
    /// The piece before ended in a CR, which is held back.
    holds_cr: bool,
}

impl Default for Transparency {
    fn default() -> Self {
        Self { is_line_start: true, holds_cr: false }
    }
}

impl Transparency {
    pub(super) fn append(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        out.reserve(piece.len() + piece.len() / 64);
        let mut from = 0;
        for at in memchr::memchr3_iter(b'\r', b'\n', b'.', piece) {
            if at < from {
                continue;
            }
            let before = &piece[from..at];
            self.plain(before, out);
            from = at + 1;
            match piece[at] {
                b'\r' => {
                    self.stray(out);
                    self.holds_cr = true;
                }
                b'\n' if std::mem::take(&mut self.holds_cr) => {
                    out.extend_from_slice(b"\r\n");
                    self.is_line_start = true;
                }
                b'\n' => self.plain(b" ", out),
                _ => {
                    self.stray(out);
                    if self.is_line_start {
                        out.push(b'.');
                    }
                    self.plain(b".", out);
                }
            }
        }
        self.plain(&piece[from..], out);
    }

    fn plain(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        if !octets.is_empty() {
            self.stray(out);
            out.extend_from_slice(octets);
            self.is_line_start = false;
        }
    }

    /// A CR behind which no LF has come.
    fn stray(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.holds_cr) {
            out.push(b' ');
            self.is_line_start = false;
        }
    }

    pub(super) fn end(&mut self, out: &mut Vec<u8>) {
        self.stray(out);
        out.extend_from_slice(if self.is_line_start { b".\r\n" } else { b"\r\n.\r\n" });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stuffed(content: &[u8], piece_len: usize) -> Vec<u8> {
        let (mut transparency, mut out) = (Transparency::default(), Vec::new());
        content.chunks(piece_len).for_each(|piece| transparency.append(piece, &mut out));
        transparency.end(&mut out);
        out
    }

    #[test]
    fn lines_with_dots_get_another_and_no_other_line_end_is_left() {
        for (content, sent) in [
            (&b""[..], &b".\r\n"[..]),
            (b"a\r\n", b"a\r\n.\r\n"),
            (b"a", b"a\r\n.\r\n"),
            (b".\r\n", b"..\r\n.\r\n"),
            (b"a.b\r\n..\r\n", b"a.b\r\n...\r\n.\r\n"),
            (b"a\n.\r\nb\r.\rc\r\n", b"a .\r\nb . c\r\n.\r\n"),
            (b"a\r\r\n.\r\n", b"a \r\n..\r\n.\r\n"),
            (b"a\r", b"a \r\n.\r\n"),
        ] {
            for piece_len in 1..4 {
                assert_eq!(
                    stuffed(content, piece_len).escape_ascii().to_string(),
                    sent.escape_ascii().to_string()
                );
            }
        }
    }

    proptest! {
        /// Octet by octet, as RFC 5321 §4.5.2 has it.
        #[test]
        fn it_is_what_a_naive_one_makes(content in "[a.\r\n]{0,40}", piece_len in 1..9usize) {
            let whole = content.replace("\r\n", "\u{1}").replace(['\r', '\n'], " ");
            let mut lines: Vec<&str> = whole.split('\u{1}').collect();
            if lines.last() == Some(&"") {
                lines.pop();
            }
            let mut expected = String::new();
            for line in lines {
                expected.push_str(if line.starts_with('.') { "." } else { "" });
                expected.push_str(line);
                expected.push_str("\r\n");
            }
            expected.push_str(".\r\n");
            prop_assert_eq!(String::from_utf8(stuffed(content.as_bytes(), piece_len)).unwrap(), expected);
        }
    }
}
