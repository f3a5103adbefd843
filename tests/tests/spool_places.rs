//! The real server on spools that another user, another file system or another server has something to do with. What
//! takes root is said and skipped without it.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tests::engine::{Home, Options, Server, eventually, text};
use tests::privilege::is_root;

/// The user "nobody".
const OTHER_USER: u32 = 65534;

/// A home that other users can enter, with the server's binary in it.
fn open_home() -> (Home, PathBuf) {
    let home = Home::new(&Options::default());
    let program = home.open_to_all();
    (home, program)
}

fn serve(home: &Home, mut wrapper: Command, program: &Path) -> Result<Server, Output> {
    wrapper.arg(program).args(["serve", "--log-format", "json", "--config"]).arg(home.config());
    home.spawn(wrapper)
}

fn as_other_user() -> Command {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={OTHER_USER}")).arg("--clear-groups").arg("--");
    command
}

/// Runs the server where `setup`, a shell command, has mounted something that nobody else sees.
fn in_own_mounts(setup: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "sh", "-c", &format!("{setup} && exec \"$@\""), "sh"]);
    command
}

fn refusal(result: Result<Server, Output>) -> String {
    let output = result.expect_err("a refused start");
    assert!(!output.status.success());
    text(&output.stderr)
}

fn chown_all(path: &Path, user: u32) {
    chown(path, Some(user), None).expect("chown");
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a directory") {
            chown_all(&entry.expect("an entry").path(), user);
        }
    }
}

#[test]
fn a_second_server_is_told_who_has_the_spool() {
    let home = Home::new(&Options::default());
    let first = home.serve();
    let refusal = refusal(home.try_serve());
    assert!(refusal.contains(&format!("(ringmx, pid {})", first.pid())), "{refusal}");
    first.stop();
}

#[test]
fn another_users_spool_is_refused_with_both_users_named() {
    if !is_root("a spool of another user") {
        return;
    }
    let (home, program) = open_home();
    home.serve().stop();
    let refusal_of_all = refusal(serve(&home, as_other_user(), &program));
    for part in
        [home.spool().to_str().expect("UTF-8"), "belongs to the user with id 0 (mode 700)", "has id 65534"]
    {
        assert!(refusal_of_all.contains(part), "{part}: {refusal_of_all}");
    }
    // Its own, but for one segment.
    chown_all(&home.spool(), OTHER_USER);
    let segment = home.spool().join("shard-001/00000002.seg");
    chown(&segment, Some(0), None).expect("chown");
    let refusal_of_one = refusal(serve(&home, as_other_user(), &program));
    assert!(refusal_of_one.contains(segment.to_str().expect("UTF-8")), "{refusal_of_one}");
    assert!(refusal_of_one.contains("id 0 (mode 600)"), "{refusal_of_one}");
    chown(&segment, Some(OTHER_USER), None).expect("chown");
    let server = serve(&home, as_other_user(), &program).expect("its own spool");
    server.stop();
}

#[test]
fn a_read_only_file_system_is_named() {
    if !is_root("a read-only file system") {
        return;
    }
    let (home, program) = open_home();
    home.serve().stop();
    let spool = home.spool().display().to_string();
    let mounts = in_own_mounts(&format!("mount --bind {spool} {spool} && mount -o remount,bind,ro {spool}"));
    let refusal = refusal(serve(&home, mounts, &program));
    assert!(refusal.contains(&spool) && refusal.contains("Read-only file system"), "{refusal}");
    assert!(refusal.contains("for writing"), "{refusal}");
}

#[test]
fn a_disk_that_others_have_filled_leaves_the_server_up_and_not_ready() {
    if !is_root("a full file system") {
        return;
    }
    let (home, program) = open_home();
    let spool = home.spool();
    std::fs::create_dir(&spool).expect("a mount point");
    let mounts = in_own_mounts(&format!("mount -t tmpfs -o size=6m tmpfs {}", spool.display()));
    let server = serve(&home, mounts, &program).expect("it starts");
    let said = |part: &str| server.log.lines().iter().any(|line| line.contains(part));
    eventually("the full disk is told", || said("cannot make segments").then_some(()));
    assert!(
        said("octets free") && said("tmpfs: a restart of the machine loses all mail"),
        "warnings at the start"
    );
    server.stop();
}
