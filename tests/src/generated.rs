//! Documentation that is written by a test, so that it cannot say what the code does not.

use crate::source;

/// Panics unless the file, named from the root of the workspace, holds `text`; with `UPDATE_DOCS=1` writes it instead.
pub fn compare(file: &str, text: &str) {
    let path = source::workspace().join(file);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{file}: {error}"));
        return;
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    if let Some((number, (found, wanted))) = differing_line(&found, text) {
        panic!(
            "{file}:{number} is not what the code says; UPDATE_DOCS=1 writes it anew\n  the file: {found}\n  the code: {wanted}"
        );
    }
}

fn differing_line<'a>(found: &'a str, wanted: &'a str) -> Option<(usize, (&'a str, &'a str))> {
    if found == wanted {
        return None;
    }
    let (mut a, mut b) = (found.lines(), wanted.lines());
    (1..).find_map(|number| match (a.next(), b.next()) {
        (None, None) => Some((number, ("<end>", "<end>"))),
        (found, wanted) if found != wanted => {
            Some((number, (found.unwrap_or("<end>"), wanted.unwrap_or("<end>"))))
        }
        _ => None,
    })
}
