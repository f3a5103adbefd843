//! `ringmx check`

use std::io::{self, Write};

use serde_json::json;

use super::CheckArgs;
use crate::config::{Checked, QUICK_START, Severity, check_file, check_text};

/// Writes what is found; the exit status is 0, 1 or 2.
pub(super) fn run(args: &CheckArgs, output: &mut impl Write) -> io::Result<u8> {
    let (name, checked) = match &args.config {
        Some(path) => (path.display().to_string(), check_file(path)),
        None => ("quick-start.toml".to_owned(), check_text(QUICK_START, "quick-start.toml")),
    };
    let count = |severity| checked.findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    if args.json {
        let report = json!({
            "file": name, "errors": errors, "warnings": warnings, "findings": &checked.findings,
        });
        writeln!(output, "{report:#}")?;
    } else {
        write_findings(&checked, output)?;
        match (errors, warnings) {
            (0, 0) => writeln!(output, "{name}: fine")?,
            _ => writeln!(output, "{name}: {}, {}", counted(errors, "error"), counted(warnings, "warning"))?,
        }
    }
    output.flush()?;
    Ok(match (errors, warnings) {
        (0, 0) => 0,
        (0, _) => u8::from(args.strict),
        _ => 2,
    })
}

pub(super) fn write_findings(checked: &Checked, output: &mut impl Write) -> io::Result<()> {
    checked.findings.iter().try_for_each(|finding| writeln!(output, "{finding}"))
}

fn counted(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, json: bool, strict: bool) -> (u8, String) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let args = CheckArgs { config: Some(file.path().to_owned()), json, strict };
        let mut output = Vec::new();
        let status = run(&args, &mut output).unwrap();
        (status, String::from_utf8(output).unwrap())
    }

    #[test]
    fn the_exit_status_tells_errors_from_warnings() {
        let fine = QUICK_START.replace("[[listener]]", "hostname = \"mx.example.com\"\n[[listener]]");
        let fine = fine.replace("./ringmx-data", "/tmp/ringmx-data");
        let (status, text) = check(&fine, false, true);
        assert!(status == 0 && text.ends_with(": fine\n"), "{text}");
        let warned = fine.replace("[spool]", "[spool]\ndurability = \"none\"");
        let (status, text) = check(&warned, false, false);
        assert!(status == 0 && text.ends_with(": 0 errors, 1 warning\n"), "{text}");
        assert_eq!(check(&warned, false, true).0, 1);
        assert_eq!(check("workers = 0", false, false).0, 2);
    }

    #[test]
    fn json_has_each_finding_with_its_place() {
        let (status, text) = check("workers = 0\n\nhostnam = \"a\"", true, false);
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, &report["errors"]), (2, &json!(5)));
        let last = &report["findings"][4];
        assert_eq!(last["place"]["line"], 3);
        assert_eq!(last["severity"], "error");
        assert_eq!(last["help"], "did you mean `hostname`?");
    }
}
