//! The real server on a spool that a former version filled (`engine/src/store/tests/version-1` says how).

use std::collections::BTreeMap;

use tests::engine::{Home, Options, eventually, text};
use tests::source::workspace;

/// Of the fixture's configuration.
const SEGMENT_LEN: u64 = 1 << 20;
/// Messages that were held, and not delivered.
const UNDELIVERED: [u32; 8] = [1, 2, 4, 5, 7, 8, 10, 11];

/// How often each message is in the Maildir, by the number in its subject.
fn delivered(home: &Home) -> BTreeMap<u32, u32> {
    let (maildir, mut counts) = (home.maildir(), BTreeMap::new());
    for name in maildir.names() {
        let content = text(&maildir.read(&name));
        let number =
            content.lines().find_map(|line| line.strip_prefix("Subject: message ")).expect("a subject");
        *counts.entry(number.parse().expect("a number")).or_insert(0) += 1;
    }
    counts
}

#[test]
fn mail_of_version_1_is_delivered_once() {
    let home = Home::new(&Options::default());
    let fixture = workspace().join("engine/src/store/tests/version-1/spool");
    for shard in ["shard-000", "shard-001"] {
        std::fs::create_dir_all(home.spool().join(shard)).expect("a directory");
        for entry in std::fs::read_dir(fixture.join(shard)).expect("the fixture") {
            let from = entry.expect("an entry").path();
            let to = home.spool().join(shard).join(from.file_name().expect("a name"));
            std::fs::copy(&from, &to).expect("a copy");
            if to.extension().is_some_and(|extension| extension == "seg") {
                let file = std::fs::File::options().write(true).open(&to).expect("the copy");
                file.set_len(SEGMENT_LEN).expect("its length");
            }
        }
    }
    std::fs::copy(fixture.join("ringmx-spool"), home.spool().join("ringmx-spool")).expect("a copy");
    assert_eq!(home.undelivered().len(), UNDELIVERED.len());

    let expected = UNDELIVERED.map(|number| (number, 1)).into();
    let server = home.serve();
    eventually("the mail is delivered", || (delivered(&home) == expected).then_some(()));
    eventually("and acknowledged", || home.undelivered().is_empty().then_some(()));
    server.stop();
    let server = home.serve();
    home.verify();
    server.stop();
    assert_eq!(delivered(&home), expected, "nothing comes again");
    let marker = std::fs::read_to_string(home.spool().join("ringmx-spool")).expect("the marker");
    assert_eq!(marker, "ringmx spool, format version 2\n");
}
