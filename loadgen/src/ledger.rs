//! The acknowledgement ledger: one line per message that got its 250, written before the message counts.
//!
//! A line is `<token> TAB <text of the 250> LF`. Each turn's lines go out in one `write`, appended, so that the file of
//! several threads holds whole lines, and survives the generator's own end.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use crate::limits::TEXT_KEPT_MAX;
use crate::token::Token;

#[derive(Debug)]
pub struct Ledger {
    file: File,
    lines: Vec<u8>,
    /// Each turn's lines are on stable storage before its messages count.
    synced: bool,
}

impl Ledger {
    /// Creates the file, or goes on at its end.
    pub fn open(path: &Path, synced: bool) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { file, lines: Vec::new(), synced })
    }

    pub fn add(&mut self, token: Token, text: &[u8]) {
        let at = self.lines.len();
        self.lines.resize(at + Token::LEN, 0);
        token.write(&mut self.lines[at..]);
        self.lines.push(b'\t');
        let kept = &text[..text.len().min(TEXT_KEPT_MAX)];
        self.lines.extend(kept.iter().map(|&octet| if octet < b' ' { b'?' } else { octet }));
        self.lines.push(b'\n');
    }

    /// Hands the lines to the kernel.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.lines.is_empty() {
            self.file.write_all(&self.lines)?;
            self.lines.clear();
            if self.synced {
                self.file.sync_data()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_and_appended() {
        let directory = tempfile::tempdir().expect("made");
        let path = directory.path().join("ledger");
        for number in 0..2 {
            let mut ledger = Ledger::open(&path, number == 1).expect("opened");
            ledger.add(Token { run: 1, connection: 2, number }, b"queued\tas\x07 9");
            ledger.flush().expect("written");
            ledger.flush().expect("nothing to write");
        }
        let text = std::fs::read_to_string(&path).expect("read");
        let line = "0000000000000001-000002-0000000000\tqueued?as? 9\n";
        assert_eq!(text, format!("{line}{}", line.replace("0000000000\t", "0000000001\t")));
    }
}
