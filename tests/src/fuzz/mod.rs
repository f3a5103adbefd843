//! What is fuzzed: plain functions of octets that panic when something does not hold.
//!
//! `tests/fuzz_smoke.rs` runs them for some seconds with seeded inputs, the libFuzzer targets in `fuzz/` for as long as
//! one likes. Adding one: write it in a file beside this one, add it to [`TARGETS`], and a file of three lines to
//! `fuzz/fuzz_targets`.

mod dialogue;
mod parsers;
mod recovery;
mod tls;

pub use dialogue::{fuzz_bdat, fuzz_proxy, fuzz_session, fuzz_walk};
pub use parsers::{fuzz_ack, fuzz_command, fuzz_config, fuzz_decoder, fuzz_envelope, fuzz_params, fuzz_path};
pub use recovery::fuzz_recover;
pub use tls::fuzz_tls;

/// A function to fuzz, and the words its inputs are made of.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub words: &'static [&'static str],
}

const COMMANDS: &[&str] = &[
    "EHLO client.example\r\n",
    "HELO x\r\n",
    "MAIL FROM:<a@example.org>\r\n",
    "MAIL FROM:<>",
    " SIZE=1000",
    " BODY=8BITMIME",
    "RCPT TO:<b@example.com>\r\n",
    "RCPT TO:<Postmaster>\r\n",
    "RCPT TO:<b@example.org>\r\n",
    "DATA\r\n",
    "RSET\r\n",
    "NOOP\r\n",
    "QUIT\r\n",
    "BDAT 5\r\n",
    "BDAT 0 LAST\r\n",
    "BDAT 30 LAST\r\n",
    " SMTPUTF8",
    "\r\n.\r\n",
    "\n.\r\n",
    "\r\n.\n",
    ".\r\n",
    "..",
    "\r\n",
    "\n",
    "\r",
    "Received: x\r\n",
    "\0",
    "\u{e9}",
];

const PATHS: &[&str] = &[
    "<",
    ">",
    "@",
    ":",
    ",",
    ".",
    "\"",
    "\\",
    "[",
    "]",
    "a",
    "b@example.com",
    "IPv6:",
    "::1",
    "192.0.2.1",
    "postmaster",
    "MAIL FROM:",
    "RCPT TO:",
    "EHLO ",
    " ",
    "-",
    "_",
    "<@x,@y:",
    "\u{e9}",
    "\x7f",
];

const PARAMS: &[&str] = &[
    " ",
    "SIZE=",
    "BODY=",
    "8BITMIME",
    "7BIT",
    "0",
    "18446744073709551616",
    "=",
    "X",
    "-",
    "\0",
    "SMTPUTF8",
    "RET=",
    "FULL",
    "HDRS",
    "ENVID=",
    "NOTIFY=",
    "NEVER",
    "SUCCESS",
    "DELAY",
    ",",
    "ORCPT=",
    "rfc822;",
    "utf-8;",
    "+2B",
    "\u{e9}",
];

const TOML: &[&str] = &[
    "hostname = \"mx.example\"\n",
    "workers = 2\n",
    "[[listener]]\nname = \"mx\"\nbind = [\"127.0.0.1:25\"]\n",
    "max_message_size = \"50MiB\"\n",
    "[spool]\npath = \"spool\"\n",
    "durability = \"none\"\n",
    "[recipients]\ndomains = [\"example.com\"]\n",
    "[[route]]\ndomains = [\"*\"]\ndeliver = \"maildir\"\npath = \"{domain}/{local}\"\n",
    "retry = [\"1m\"]\n",
    "[admin]\nbind = \"127.0.0.1:8025\"\n",
    "{ env = \"NO_SUCH_NAME\" }",
    "{ file = \"/dev/null\" }",
    "\"",
    "[",
    "]",
    "=",
    "\n",
];

const PROXY: &[&str] = &[
    "PROXY ",
    "TCP4 192.0.2.1 192.0.2.25 40000 25",
    "TCP6 2001:db8::1 ::1 40000 25",
    "UNKNOWN",
    "\r\n",
    " ",
    "0",
    "\r\n\r\n\0\r\nQUIT\n",
    "\x21\x11\0\x0c",
    "\x20\0\0\0",
    "\x03\0\x04",
    "\x05\0\x01",
    "\x20\0\x05",
    "EHLO x\r\n",
];

/// Types and versions of records and handshake messages; RFC 8446 §4 and §5.1.
const RECORDS: &[&str] = &[
    "\u{16}\u{3}\u{1}\0",
    "\u{16}\u{3}\u{3}\0",
    "\u{14}\u{3}\u{3}\0\u{1}\u{1}",
    "\u{15}\u{3}\u{3}\0\u{2}\u{1}\0",
    "\u{15}\u{3}\u{3}\0\u{2}\u{2}\u{28}",
    "\u{17}\u{3}\u{3}\0",
    "\u{1}\0\0",
    "\u{b}\0\0",
    "\u{10}\0\0",
    "\u{14}\0\0\u{c}",
    "\u{18}\0\0\u{1}\u{1}",
    "QUIT\r\n",
    "\0",
];

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "command", run: fuzz_command, words: COMMANDS },
    Target { name: "path", run: fuzz_path, words: PATHS },
    Target { name: "params", run: fuzz_params, words: PARAMS },
    Target {
        name: "decoder",
        run: fuzz_decoder,
        words: &["\r\n", "\r\n.", "\n", "\r", ".", "\0", "a", "text"],
    },
    Target {
        name: "bdat",
        run: fuzz_bdat,
        words: &["\u{0}", "\u{3}", "\u{7f}", "\r\n", "\r\n.", "\n", "\r", ".", "\0.", "text"],
    },
    Target { name: "session", run: fuzz_session, words: COMMANDS },
    Target { name: "walk", run: fuzz_walk, words: &["\0", "\u{8}", "\u{20}", "\u{27}", "\u{37}", "\u{40}"] },
    Target { name: "proxy", run: fuzz_proxy, words: PROXY },
    Target { name: "tls", run: fuzz_tls, words: RECORDS },
    Target { name: "envelope", run: fuzz_envelope, words: &["\u{1}", "\u{0}", "\u{5}", "a@b"] },
    Target { name: "recover", run: fuzz_recover, words: &["RMXr", "RMXb", "\0\0\0\0\0\0\0\0"] },
    Target { name: "ack", run: fuzz_ack, words: &["\0\0\0\0"] },
    Target { name: "config", run: fuzz_config, words: TOML },
];
