//! Messages as mail has them, and as it should not: drawn from a seed, with CRLF line ends.

use crate::random::Random;

const ENCODINGS: &[&str] = &["7bit", "8bit", "quoted-printable", "base64", "binary"];

/// One message of up to some tens of kilobytes.
pub fn message(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut out = Vec::new();
    for field in ["From: Sender <sender@example.org>", "To: b@example.com", "MIME-Version: 1.0"] {
        line(&mut out, field.as_bytes());
    }
    line(&mut out, format!("Message-ID: <{seed}.{}@example.org>", random.number()).as_bytes());
    line(&mut out, b"Subject: =?utf-8?q?caf=C3=A9?= and so on,\r\n\tfolded,\r\n  twice");
    if random.one_in(4) {
        line(&mut out, format!("X-Long: {}", "x".repeat(random.below(5000))).as_bytes());
    }
    part(&mut out, &mut random, 0);
    out
}

fn line(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

fn part(out: &mut Vec<u8>, random: &mut Random, depth: usize) {
    if depth < 3 && random.one_in(2) {
        let boundary = format!("=_{depth}_{}", random.number());
        line(out, format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\r\n").as_bytes());
        for _ in 0..1 + random.below(3) {
            line(out, format!("--{boundary}").as_bytes());
            part(out, random, depth + 1);
        }
        line(out, format!("--{boundary}--").as_bytes());
    } else {
        let encoding = random.pick(ENCODINGS);
        line(
            out,
            format!("Content-Type: text/plain\r\nContent-Transfer-Encoding: {encoding}\r\n").as_bytes(),
        );
        for _ in 0..random.below(120) {
            body_line(out, random);
        }
    }
}

fn body_line(out: &mut Vec<u8>, random: &mut Random) {
    let text: Vec<u8> = match random.below(9) {
        0 => Vec::new(),
        1 => b".".to_vec(),
        2 => ".".repeat(1 + random.below(5)).into_bytes(),
        3 => [b".", &b"x"[..]].concat(),
        4 => b"From the start of a line".to_vec(),
        // Anything but line ends.
        5 => (0..random.below(200))
            .map(|_| random.number() as u8)
            .filter(|octet| !b"\r\n".contains(octet))
            .collect(),
        6 => vec![b'y'; random.below(3000)],
        _ => (0..random.below(76)).map(|_| b'0' + random.below(75) as u8).collect(),
    };
    line(out, &text);
}
