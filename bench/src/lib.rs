//! Fixed corpora of the benches: the same bytes on every machine and in every run; and what the sinks beside the floor
//! have in common.

pub mod sink;

/// A message of about `len` octets as a client would send it: header section, text in lines of 72, CR LF line ends, no
/// line that begins with a dot.
pub fn content(len: usize) -> Vec<u8> {
    let header = "From: Ada Sender <ada@client.example>\r\nTo: Bob Recipient <bob@example.com>\r\n\
                  Subject: minutes of the meeting\r\nDate: Sun, 22 Nov 2026 03:15:00 +0000\r\n\
                  Message-ID: <20261122031500.12345@client.example>\r\nMIME-Version: 1.0\r\n\
                  Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n";
    let words = b"the quick brown fox jumps over the lazy dog and runs through the forest ";
    let mut out = header.as_bytes().to_vec();
    let mut letters = words.iter().cycle();
    while out.len() + 74 <= len {
        out.extend(letters.by_ref().take(72));
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// The same with end-of-data behind it.
pub fn content_with_end(len: usize) -> Vec<u8> {
    let mut out = content(len);
    out.extend_from_slice(b".\r\n");
    out
}

/// The commands of one transaction.
pub const ENVELOPE: &[&[u8]] = &[
    b"MAIL FROM:<ada@client.example> SIZE=4096 BODY=8BITMIME",
    b"RCPT TO:<bob@example.com>",
    b"RCPT TO:<\"carol d.\"@example.com>",
    b"DATA",
];
