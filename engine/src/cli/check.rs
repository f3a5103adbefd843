//! `ringmx check`

mod across;
mod hops;
mod live;

use std::io::{self, Write};

use serde_json::{Value, json};

use super::{CheckArgs, Failure};
use crate::config::{Checked, Config, Finding, QUICK_START, Severity, check_file, check_text};

/// A configuration or a running server, and what is to be said about it.
#[derive(Debug)]
struct Subject {
    name: String,
    /// None for a running server, and where there are errors.
    config: Option<Config>,
    findings: Vec<Finding>,
}

/// Writes what is found; the exit status is 0, 1 or 2.
pub(super) fn run(args: &CheckArgs, output: &mut impl Write) -> Result<u8, Failure> {
    let mut subjects: Vec<Subject> = args.config.iter().chain(&args.files).map(|path| read(path)).collect();
    if subjects.is_empty() && args.from.is_empty() {
        let Checked { config, findings, .. } = check_text(QUICK_START, "quick-start.toml");
        subjects.push(Subject { name: "quick-start.toml".to_owned(), config, findings });
    }
    subjects.iter_mut().for_each(live::look);
    let running = live::ask_all(&args.from).map_err(Failure::Server)?;
    let across = across::compare(&subjects, &running);
    subjects.extend(running.into_iter().map(|running| running.subject));
    Ok(report(args, &subjects, &across, output)?)
}

fn read(path: &std::path::Path) -> Subject {
    let Checked { config, findings, .. } = check_file(path);
    Subject { name: path.display().to_string(), config, findings }
}

fn report(
    args: &CheckArgs,
    subjects: &[Subject],
    across: &[Finding],
    output: &mut impl Write,
) -> io::Result<u8> {
    let all = || subjects.iter().flat_map(|subject| &subject.findings).chain(across);
    let (errors, warnings) = counts(all());
    if args.json {
        let of_subject = |subject: &Subject| {
            let (errors, warnings) = counts(&subject.findings);
            json!({
                "file": subject.name, "errors": errors, "warnings": warnings, "findings": &subject.findings,
            })
        };
        let report: Value = match subjects {
            [one] if across.is_empty() => of_subject(one),
            many => json!({
                "files": many.iter().map(of_subject).collect::<Vec<_>>(), "across": across,
                "errors": errors, "warnings": warnings,
            }),
        };
        writeln!(output, "{report:#}")?;
    } else {
        for subject in subjects {
            subject.findings.iter().try_for_each(|finding| writeln!(output, "{finding}"))?;
            match counts(&subject.findings) {
                (0, 0) => writeln!(output, "{}: fine", subject.name)?,
                (errors, warnings) => {
                    let (errors, warnings) = (counted(errors, "error"), counted(warnings, "warning"));
                    writeln!(output, "{}: {errors}, {warnings}", subject.name)?;
                }
            }
        }
        across.iter().try_for_each(|finding| writeln!(output, "{finding}"))?;
    }
    output.flush()?;
    Ok(match (errors, warnings) {
        (0, 0) => 0,
        (0, _) => u8::from(args.strict),
        _ => 2,
    })
}

fn counts<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> (usize, usize) {
    let is_error = |finding: &&Finding| finding.severity == Severity::Error;
    let (errors, warnings): (Vec<_>, Vec<_>) = findings.into_iter().partition(is_error);
    (errors.len(), warnings.len())
}

/// Of what no place in a file says.
fn finding(code: &'static str, severity: Severity, message: String, help: &str) -> Finding {
    Finding { code, severity, place: None, message, help: Some(help.to_owned()) }
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
        let args = CheckArgs {
            config: Some(file.path().to_owned()),
            files: Vec::new(),
            from: Vec::new(),
            json,
            strict,
        };
        let mut output = Vec::new();
        let status = run(&args, &mut output).unwrap();
        (status, String::from_utf8(output).unwrap())
    }

    #[test]
    fn the_exit_status_tells_errors_from_warnings() {
        let fine = QUICK_START.replace("[[listener]]", "hostname = \"mx.example.com\"\n[[listener]]");
        let fine = fine.replace("./ringmx-data", "/tmp/ringmx-data");
        // Whoever listens at the usual ports of this machine is not to be found.
        let fine = fine.replace(":2525", ":0").replace(":8025", ":0");
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
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, &report["errors"]), (2, &json!(5)));
        let last = &report["findings"][4];
        assert_eq!(last["place"]["line"], 3);
        assert_eq!(last["severity"], "error");
        assert_eq!(last["help"], "did you mean `hostname`?");
    }
}
