//! The commands of `engine/docs/from-exchange.md`, run as they stand there.

use std::process::Command;

use tests::engine::{binary, text};
use tests::privilege::is_root;
use tests::source::workspace;

/// What stands between "```sh" and "```".
fn commands(page: &str) -> String {
    let mut inside = false;
    let mut commands = String::new();
    for line in page.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            line if inside => commands.extend([line, "\n"]),
            _ => {}
        }
    }
    commands
}

/// In a network namespace of their own, where port 25 is free.
#[test]
fn the_commands_of_the_page_do_what_it_says() {
    if !is_root("port 25 in a network namespace") {
        return;
    }
    let page = std::fs::read_to_string(workspace().join("engine/docs/from-exchange.md")).expect("the page");
    let commands = commands(&page);
    assert!(commands.contains("ringmx probe"), "the page has commands");
    let dir = tempfile::tempdir().expect("a directory");
    let directory = binary("ringmx").parent().expect("a directory").to_owned();
    let path = format!("{}:{}", directory.display(), std::env::var("PATH").expect("a path"));
    // The servers that it starts end with it.
    let script = format!("set -euo pipefail; ip link set lo up; trap 'kill $(jobs -p)' EXIT\n{commands}");
    let output = Command::new("timeout")
        .args(["300", "unshare", "--net", "--", "bash", "-c", &script])
        .current_dir(dir.path())
        .env("PATH", path)
        .output()
        .expect("unshare runs");
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}");
}
