//! `engine/docs/conformance.md` names tests that exist, and every bound.

use tests::source::{self, Source};

const FILE: &str = "engine/docs/conformance.md";
/// The column of the state among a row's cells.
const STATE: usize = 3;
const STATES: &[&str] = &["yes", "partly", "no", "not yet", "n/a"];

fn read(file: &str) -> String {
    std::fs::read_to_string(source::workspace().join(file)).expect(file)
}

/// The tables' rows with their line numbers, but for heads and rules.
fn rows(text: &str) -> Vec<(usize, Vec<&str>)> {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .iter()
        .enumerate()
        .filter(|(index, line)| {
            let is_head = lines.get(index + 1).is_some_and(|next| next.starts_with("|---"));
            line.starts_with("| ") && !is_head
        })
        .map(|(index, line)| (index + 1, line.trim_matches('|').split('|').map(str::trim).collect()))
        .collect()
}

/// What stands between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// `file::function`: in a Rust file of that name.
fn is_test(sources: &[Source], name: &str) -> Option<bool> {
    let (file, function) = name.split_once("::")?;
    let is_there = |source: &Source| {
        source.path.ends_with(&format!("/{file}.rs")) && source.code.contains(&format!("fn {function}("))
    };
    Some(sources.iter().any(is_there))
}

/// Two words or more in small letters, as dialogues are named.
fn is_dialogue(name: &str) -> Option<bool> {
    let is_named_so =
        name.contains('-') && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    is_named_so.then(|| source::workspace().join(format!("tests/dialogue/{name}.smtp")).is_file())
}

#[test]
fn every_test_that_is_named_exists() {
    let (file, text) = (FILE, read(FILE));
    let (sources, rows) = (Source::all(), rows(&text));
    assert!(rows.len() > 100, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for (number, cells) in rows {
        let last = cells.last().expect("a row has cells");
        let mut shown_count = 0;
        for name in quoted(last) {
            match is_test(&sources, name).or_else(|| is_dialogue(name)) {
                Some(true) => shown_count += 1,
                Some(false) => wrong.push(format!("{file}:{number}: `{name}` is no dialogue and no test")),
                None => {}
            }
        }
        let state = if cells.len() > STATE + 1 { cells[STATE] } else { "yes" };
        if !STATES.contains(&state) {
            wrong.push(format!("{file}:{number}: `{state}` is no state"));
        }
        if matches!(state, "yes" | "partly") && shown_count == 0 {
            wrong.push(format!("{file}:{number}: nothing shows it"));
        }
        if last.is_empty() {
            wrong.push(format!("{file}:{number}: no reason is given"));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_bound_has_a_row() {
    let (text, sources) = (read(FILE), Source::all());
    let bounds: Vec<&str> = sources
        .iter()
        .filter(|source| source.path.starts_with("engine/src/limits/"))
        .flat_map(|source| source.text.lines())
        .filter_map(|line| line.strip_prefix("pub const ")?.split_once(':'))
        .map(|(name, _)| name)
        .collect();
    assert!(bounds.len() > 40, "{bounds:?}");
    let rows = rows(&text);
    let named: Vec<&str> = rows.iter().filter_map(|(_, cells)| quoted(cells[0]).next()).collect();
    let missing: Vec<&&str> = bounds.iter().filter(|bound| !named.contains(bound)).collect();
    let unknown: Vec<&&str> = named.iter().filter(|name| !bounds.contains(name)).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "no row in {FILE}: {missing:?}; no bound: {unknown:?}");
}
