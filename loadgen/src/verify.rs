//! `loadgen verify`: holds an acknowledgement ledger against what a server stored or delivered.
//!
//! A message is known by its token, which stands in a field of its header section. What got its 250 has to be there;
//! what is there more often than once is counted (RFC 1047: at least once is what a server can promise).

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Serialize;
use tempfile::TempDir;

use crate::limits::{HEADER_SECTION_LEN_MAX, MISSING_NAMED_COUNT_MAX};
use crate::options::VerifyArgs;
use crate::run::RunError;
use crate::token::Token;

const FIELD: &[u8] = b"X-Loadgen: ";

/// What became of the messages.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Different tokens in the ledgers.
    pub acknowledged: u64,
    /// Of these, with a stored message.
    pub stored: u64,
    pub missing: u64,
    /// Tokens stored more than once, acknowledged or not.
    pub duplicated: u64,
    /// Stored although no ledger has them: the client did not get to know the 250, or another run's.
    pub unacknowledged: u64,
    /// Messages without a token: not ours.
    pub foreign: u64,
    /// The first of the missing, as the ledger has them.
    pub missing_examples: Vec<String>,
}

#[derive(Debug, Default)]
struct Copies {
    /// The text of the 250; `None`: not acknowledged.
    reply: Option<String>,
    stored_count: u64,
}

#[derive(Debug, Default)]
struct Tally {
    copies: HashMap<[u8; Token::LEN], Copies>,
    foreign: u64,
}

/// Carries it out. True: all that was acknowledged is stored, and what `--fail-on-duplicates` asks for holds.
pub fn run(args: &VerifyArgs) -> Result<bool, RunError> {
    if args.maildir.is_empty() && args.mbox.is_empty() && args.files.is_empty() && args.spool.is_empty() {
        return Err(RunError::Usage("say where to look: --spool, --maildir, --mbox or --files".to_owned()));
    }
    let mut tally = Tally::default();
    for path in &args.ledger {
        at(path, tally.read_ledger(path))?;
    }
    for path in &args.maildir {
        for part in ["new", "cur"] {
            at(path, tally.read_files(&path.join(part)))?;
        }
    }
    for path in &args.files {
        at(path, tally.read_files(path))?;
    }
    for path in &args.mbox {
        at(path, File::open(path).and_then(|file| tally.read_mbox(BufReader::new(file))))?;
    }
    for path in &args.spool {
        let exported = at(path, export(&args.ringmx, path))?;
        at(path, tally.read_files(exported.path()))?;
    }
    let findings = tally.findings();
    if args.json {
        let text = serde_json::to_string_pretty(&findings).map_err(io::Error::other)?;
        writeln!(io::stdout(), "{text}")?;
    } else {
        print(&findings)?;
    }
    Ok(findings.missing == 0 && !(args.fail_on_duplicates && findings.duplicated > 0))
}

fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, RunError> {
    result.map_err(|error| RunError::File { path: path.display().to_string(), error })
}

fn print(findings: &Findings) -> io::Result<()> {
    let Findings { acknowledged, stored, missing, duplicated, unacknowledged, foreign, .. } = findings;
    let mut out = io::stdout().lock();
    for example in &findings.missing_examples {
        writeln!(out, "missing: {example}")?;
    }
    writeln!(
        out,
        "{acknowledged} acknowledged: {stored} stored, {missing} missing; {duplicated} stored more than once, \
         {unacknowledged} stored without a 250, {foreign} not ours"
    )
}

/// Asks `ringmx` itself for what a spool holds: its format is the engine's alone. The directory it wrote, which is for
/// nobody else's eyes.
fn export(ringmx: &Path, spool: &Path) -> io::Result<TempDir> {
    let to = tempfile::tempdir()?;
    let mut command = Command::new(ringmx);
    command.args(["spool", "export", "--all", "--spool"]).arg(spool).arg("--to").arg(to.path());
    let status = command.stdout(Stdio::null()).status().map_err(|error| {
        io::Error::other(format!("{}: {error}; --ringmx names the program", ringmx.display()))
    })?;
    // 1: some are damaged. They will be missing if they were acknowledged.
    match status.code() {
        Some(0 | 1) => Ok(to),
        _ => Err(io::Error::other(format!("`ringmx spool export` ends with {status}"))),
    }
}

impl Tally {
    fn read_ledger(&mut self, path: &Path) -> io::Result<()> {
        let mut reader = BufReader::new(File::open(path)?);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            // The last line may be torn, if the generator's machine lost its power: then it counted for nobody.
            let Some(entry) = line.strip_suffix(b"\n") else { break };
            let token = entry.get(..Token::LEN).and_then(token);
            let (Some(token), Some(b'\t')) = (token, entry.get(Token::LEN)) else {
                return Err(io::Error::other(format!("line {number} is not from a ledger")));
            };
            let reply = String::from_utf8_lossy(&entry[Token::LEN + 1..]).into_owned();
            self.copies.entry(token).or_default().reply = Some(reply);
        }
        Ok(())
    }

    /// Each file of a directory is a message. One that is gone in between was moved on by somebody else.
    fn read_files(&mut self, directory: &Path) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if !entry.file_type()?.is_file() || entry.path().extension().is_some_and(|name| name == "jsonl") {
                continue;
            }
            match File::open(entry.path()) {
                Ok(file) => self.read_message(BufReader::new(file.take(HEADER_SECTION_LEN_MAX)))?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read_message(&mut self, mut reader: impl BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 || is_empty(&line) {
                self.foreign += 1;
                return Ok(());
            }
            if let Some(token) = field(&line) {
                self.copies.entry(token).or_default().stored_count += 1;
                return Ok(());
            }
        }
    }

    /// A message begins at a line `From ` at the file's beginning or behind an empty line.
    fn read_mbox(&mut self, mut reader: impl BufRead) -> io::Result<()> {
        let (mut line, mut after_empty, mut in_header) = (Vec::new(), true, false);
        let mut found = true;
        loop {
            line.clear();
            let len = reader.by_ref().take(HEADER_SECTION_LEN_MAX).read_until(b'\n', &mut line)?;
            if len == 0 || after_empty && line.starts_with(b"From ") {
                self.foreign += u64::from(!found);
                if len == 0 {
                    return Ok(());
                }
                (in_header, after_empty, found) = (true, false, false);
                continue;
            }
            after_empty = is_empty(&line);
            in_header &= !after_empty;
            if let (true, false, Some(token)) = (in_header, found, field(&line)) {
                self.copies.entry(token).or_default().stored_count += 1;
                found = true;
            }
        }
    }

    fn findings(self) -> Findings {
        let mut findings = Findings { foreign: self.foreign, ..Findings::default() };
        let mut missing = Vec::new();
        for (token, Copies { reply, stored_count }) in self.copies {
            findings.duplicated += u64::from(stored_count > 1);
            match reply {
                None => findings.unacknowledged += 1,
                Some(reply) => {
                    findings.acknowledged += 1;
                    findings.stored += u64::from(stored_count > 0);
                    if stored_count == 0 {
                        missing.push(format!("{} {reply}", String::from_utf8_lossy(&token)));
                    }
                }
            }
        }
        findings.missing = missing.len() as u64;
        missing.sort_unstable();
        missing.truncate(MISSING_NAMED_COUNT_MAX);
        findings.missing_examples = missing;
        findings
    }
}

fn is_empty(line: &[u8]) -> bool {
    matches!(line, b"\n" | b"\r\n")
}

fn field(line: &[u8]) -> Option<[u8; Token::LEN]> {
    token(line.strip_prefix(FIELD)?.trim_ascii_end())
}

/// `<16 hex digits>-<6 digits>-<10 digits>`.
fn token(text: &[u8]) -> Option<[u8; Token::LEN]> {
    let text: [u8; Token::LEN] = text.try_into().ok()?;
    let well_formed = text.iter().enumerate().all(|(index, octet)| match index {
        16 | 23 => *octet == b'-',
        _ => octet.is_ascii_hexdigit(),
    });
    well_formed.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "0000000000000001-000002-0000000000";
    const B: &str = "0000000000000001-000002-0000000001";
    const C: &str = "0000000000000001-000002-0000000002";

    fn ledger(tally: &mut Tally, text: &str) -> io::Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(&file, text)?;
        tally.read_ledger(file.path())
    }

    fn message(token: &str) -> String {
        format!("Received: by mx\r\nX-Loadgen: {token}\r\n\r\nX-Loadgen: {C}\r\n")
    }

    #[test]
    fn what_is_acknowledged_and_not_stored_is_missing() {
        let mut tally = Tally::default();
        ledger(&mut tally, &format!("{A}\tqueued as 1\n{B}\tqueued as 2\n{C}\ttor")).expect("a ledger");
        tally.read_message(message(A).as_bytes()).expect("read");
        tally.read_message(message(A).as_bytes()).expect("read");
        tally.read_message(&b"Subject: other\n\nX-Loadgen: no\n"[..]).expect("read");
        let findings = tally.findings();
        assert_eq!(
            findings,
            Findings {
                acknowledged: 2,
                stored: 1,
                missing: 1,
                duplicated: 1,
                unacknowledged: 0,
                foreign: 1,
                missing_examples: vec![format!("{B} queued as 2")],
            }
        );
    }

    #[test]
    fn an_mbox_is_read_by_its_from_lines_and_header_sections() {
        let mut tally = Tally::default();
        let mbox = format!(
            "From a Thu\n{}\nFrom b Fri\nSubject: x\n\nFrom here on\n\nFrom c Sat\nX-Loadgen: {B}\n\nend\n",
            message(A).replace("\r\n", "\n")
        );
        tally.read_mbox(mbox.as_bytes()).expect("read");
        let findings = tally.findings();
        // An unquoted From behind an empty line begins a message, whoever wrote it: two are not ours.
        assert_eq!((findings.unacknowledged, findings.foreign), (2, 2));
    }

    #[test]
    fn what_is_not_a_ledger_is_an_error() {
        let error = ledger(&mut Tally::default(), "hello\n").expect_err("not a ledger");
        assert_eq!(error.to_string(), "line 1 is not from a ledger");
    }
}
